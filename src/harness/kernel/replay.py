"""Reading a run back: load and verify it once, and what a recorded step means for a call. Writes nothing."""

from __future__ import annotations

import msgspec

from harness.errors import (
    BudgetExceeded,
    CapabilityDenied,
    KernelError,
    ModelError,
    ModelMalformed,
    ModelUnavailable,
    NotFound,
    PolicyDenied,
    ReplayConsistencyError,
    StepFailed,
    StepRejected,
    ToolRejected,
    Unproven,
)
from harness.kernel import records
from harness.kernel.records import Kind, StepEnded
from harness.kernel.runs import Entry, RunState, stream_of
from harness.ledger import Chain, Store

_PAGE = 1000

_ended = msgspec.json.Decoder(StepEnded).decode
_rejected = msgspec.json.Decoder(records.StepRejected).decode

_MODEL_ERRORS: dict[str, type[KernelError]] = {e.__name__: e for e in (ModelError, ModelMalformed, ModelUnavailable)}
_REJECTIONS: dict[str, type[StepRejected]] = {
    "arguments": StepRejected,
    "unknown_tool": StepRejected,
    "capability": CapabilityDenied,
    "policy": PolicyDenied,
    "budget": BudgetExceeded,
    "middleware": StepRejected,
    "tool": ToolRejected,
}


async def load(store: Store, run_id: str) -> RunState:
    """Read, verify and index a run. Raises `NotFound`, or `Unproven` if its chain does not verify."""
    stream = stream_of(run_id)
    head = await store.head(stream)
    if head is None:
        raise NotFound(f"no run {run_id!r} in {store.location}; start it with start_run")
    run = RunState(run_id)
    chain = Chain(stream)
    while run.seen < head.seq and not chain.problems:
        events = await store.read(stream, after=run.seen, limit=min(_PAGE, head.seq - run.seen))
        if not events:
            break
        for event in events:
            chain.add_event(event)
            run.fold(event)
    chain.end(head.seq, head.hash)
    if chain.problems:
        problem = chain.problems[0]
        message = f"run {run_id!r} does not verify at {problem.seq}: {problem.kind}, {problem.detail}"
        raise Unproven(message, stream=stream, seq=problem.seq, kind=problem.kind)
    return run


def recorded_end(run: RunState, step: str, entry: Entry) -> StepEnded:
    """The recorded end of a step. Raises `StepFailed` if it was erased: the step is over, and nobody knows how."""
    if entry.data is None:
        raise StepFailed(f"the result of step {step!r} of run {run.run_id!r} was erased; it cannot be replayed")
    return _ended(entry.data)


def raise_failure(ended: StepEnded) -> None:
    """Raise what a failed step raised; the error says that it is a recorded one."""
    known = _MODEL_ERRORS.get(ended.error) if ended.kind == "model" else None
    error = known(ended.message) if known else StepFailed(failure_text(ended.name, ended.error, ended.message))
    error.replayed = True
    raise error


def raise_rejection(entry: Entry, input_hash: str) -> None:
    """Raise a recorded rejection of the same inputs again."""
    if entry.data is not None:
        rejected = _rejected(entry.data)
        if rejected.input == input_hash:
            raise _REJECTIONS[rejected.reason](rejected.message)


def same_rejection(entry: Entry | None, rejected: records.StepRejected) -> bool:
    """Whether just this is what is recorded."""
    if entry is None or entry.type != records.STEP_REJECTED or entry.data is None:
        return False
    before = _rejected(entry.data)
    return (before.input, before.reason, before.message) == (rejected.input, rejected.reason, rejected.message)


def other_kind(run: RunState, step: str, recorded: Kind, kind: Kind) -> ReplayConsistencyError:
    """Two kinds of step share a key."""
    return ReplayConsistencyError(
        f"step {step!r} of run {run.run_id!r} was recorded as a {recorded} step and is asked as a {kind} step;"
        " give them different keys",
        fields=("kind",),
        difference=f"kind: recorded {recorded!r}, now {kind!r}",
    )


def failure_text(name: str, error: str, message: str) -> str:
    """A failed step in one line."""
    return f"{name} failed: {error}: {message}" if error else f"{name} failed: {message}"
