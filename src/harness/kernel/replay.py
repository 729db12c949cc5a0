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
from harness.kernel.runs import FINAL, Entry, RunState, stream_of
from harness.ledger import Chain, Event, Head, Store, lineage

_PAGE = 1000

_ended = msgspec.json.Decoder(StepEnded).decode
_rejected = msgspec.json.Decoder(records.StepRejected).decode

_MODEL_ERRORS: dict[str, type[KernelError]] = {e.__name__: e for e in (ModelError, ModelMalformed, ModelUnavailable)}
_REJECTIONS: dict[str, type[StepRejected]] = {
    "arguments": StepRejected,
    "unknown_tool": StepRejected,
    "capability": CapabilityDenied,
    "policy": PolicyDenied,
    "approval": PolicyDenied,
    "budget": BudgetExceeded,
    "middleware": StepRejected,
    "tool": ToolRejected,
}


async def load(store: Store, run_id: str) -> RunState:
    """Read, verify and index a run, after what it inherits as a fork.

    Raises `NotFound`, or `Unproven` if its chain, or one that it inherits from, does not verify.
    """
    head = await store.head(stream_of(run_id))
    if head is None:
        raise NotFound(f"no run {run_id!r} in {store.location}; start it with start_run")
    run = await inherited(store, run_id)
    await _fold(store, run, head.seq, head.hash)
    await _check_listed(store, run, head)
    return run


async def _check_listed(store: Store, run: RunState, head: Head) -> None:
    """Raise `Unproven` if the events are not those that the list of streams knows: their tail was cut, or written anew."""
    if head.seq < head.listed:
        message = f"run {run.run_id!r} does not verify: events {head.seq + 1} to {head.listed} were cut off"
        raise Unproven(message, stream=run.stream, seq=head.seq + 1, kind="truncated")
    if head.listed:
        event = await store.event(run.stream, head.listed)
        if event is None or event.hash != head.listed_hash:
            message = f"run {run.run_id!r} does not verify at {head.listed}: it is not the event that the list of streams knows"
            raise Unproven(message, stream=run.stream, seq=head.listed, kind="rewritten")


async def prefix(store: Store, run_id: str, at: Event) -> RunState:
    """A run as it was after one of its events, verified."""
    run = await inherited(store, run_id)
    await _fold(store, run, at.seq, at.hash)
    return run


async def inherited(store: Store, run_id: str) -> RunState:
    """The run with nothing but what it inherits as a fork, from the oldest run on, each verified up to its fork point."""
    run = RunState(run_id)
    forks = await lineage(store, run_id)
    if not forks:
        return run
    before: RunState | None = None
    for fork in reversed(forks):
        part = RunState(fork.parent)
        if before is not None:
            part.inherit(before)
        await _fold(store, part, fork.at, fork.hash, f"run {run_id!r} is a fork, and what it inherits does not verify: ")
        before = part
    assert before is not None
    run.inherit(before)
    return run


async def _fold(store: Store, run: RunState, upto: int, hash_: bytes | None, told: str = "") -> None:
    """Fold the run's own events up to one. Raises `Unproven` if they, or its hash, are not those that were recorded."""
    chain = Chain(run.stream)
    while chain.seq < upto and not chain.problems:
        events = await store.read(run.stream, after=chain.seq, limit=min(_PAGE, upto - chain.seq))
        if not events:
            break
        for event in events:
            chain.add_event(event)
            run.fold(event)
    chain.end(upto, hash_ or chain.hash)
    if chain.problems:
        problem = chain.problems[0]
        message = f"{told}run {run.run_id!r} does not verify at {problem.seq}: {problem.kind}, {problem.detail}"
        raise Unproven(message, stream=run.stream, seq=problem.seq, kind=problem.kind)


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


def raise_rejection(entry: Entry | None, input_hash: str) -> None:
    """Raise a recorded rejection of the same inputs again."""
    rejected = rejection_of(entry)
    if rejected is not None and rejected.input == input_hash and rejected.reason != "approval":  # which may have been given
        raise _REJECTIONS[rejected.reason](rejected.message)


def raise_if_over(run: RunState, step: str, input_hash: str) -> None:
    """Raise the recorded rejection of a step of a run that is over: there nothing can be decided anew."""
    if run.status in FINAL:
        raise_rejection(run.steps.get(step), input_hash)


def rejection_of(entry: Entry | None) -> records.StepRejected | None:
    """The recorded rejection, if that is what a step ended with and it was not erased."""
    if entry is None or entry.type != records.STEP_REJECTED or entry.data is None:
        return None
    return _rejected(entry.data)


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
