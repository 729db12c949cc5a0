"""What the kernel writes: event types of a run's stream and the shapes of their payloads.

Fields at their default are left out, so that a field added later changes no recorded byte. Amounts of money are
micro-USD. A step's events carry the step's id as their key, so an erased one still says which step it was.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from harness.kernel.ports import Message, ModelCallOptions, Native, StopReason, ToolCall, ToolDefinition, Usage

RUN_STARTED = "run.started"
RUN_ACQUIRED = "run.acquired"
RUN_PAUSED = "run.paused"
RUN_RESUMED = "run.resumed"
RUN_BLOCKED = "run.blocked"
RUN_UNBLOCKED = "run.unblocked"
RUN_CANCELLED = "run.cancelled"
RUN_COMPLETED = "run.completed"
RUN_FAILED = "run.failed"
RUN_REOPENED = "run.reopened"  # there is more to do in a completed run
RUN_FORKED = "run.forked"  # noted in the run that was forked
STEP_STARTED = "step.started"  # an intent, if the step has a side effect
STEP_COMPLETED = "step.completed"
STEP_FAILED = "step.failed"
STEP_REJECTED = "step.rejected"  # before execution: nothing has happened
STEP_UNKNOWN = "step.unknown"  # a side effect that may or may not have happened
STEP_INTERRUPTED = "step.interrupted"  # a call without a side effect that did not end: it is made again
STEP_RETRIED = "step.retried"  # an attempt failed, and there is another one to come
STEP_DRIFTED = "step.drifted"
TOOLSET_RECORDED = "toolset.recorded"
BUDGET_TAKEN = "budget.taken"
BUDGET_RETURNED = "budget.returned"
ARTIFACT_SET = "artifact.set"
SUMMARY_APPENDED = "summary.appended"

STATUS_KEY = "status"  # the key of every event that changes a run's status

Kind = Literal["model", "tool", "action", "timer", "pause"]  # the last three are steps of workflows
Reason = Literal["arguments", "unknown_tool", "capability", "policy", "approval", "budget", "middleware", "tool"]


NOTHING: Final = msgspec.Raw(b"")
"""No JSON value at all; the very object is the default, so that it is left out."""


def raw(data: bytes | None) -> msgspec.Raw:
    """JSON text as a payload's part."""
    return NOTHING if data is None else msgspec.Raw(data)


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A payload."""


class RunStarted(Record, frozen=True, kw_only=True):
    tenant_id: str
    holder: str
    token: int
    capabilities: tuple[str, ...] = ()
    budget_usd_limit: float | None = None
    parent_run: str | None = None  # what caused it
    root_run: str | None = None  # the first of its tree, which shares budgets and quotas; None: itself
    fork_of: str | None = None  # the run whose steps up to the event `fork_at` are the beginning of this one
    fork_at: int = 0
    fork_hash: str = ""  # of that event, so that nobody can change the beginning unnoticed
    replay_of: str | None = None  # the run whose decisions are made again here


class RunForked(Record, frozen=True, kw_only=True):
    """Another run goes on from here on its own."""

    fork: str
    at: int
    step: str = ""  # that was asked with other inputs; none if a person or program asked for the fork
    input: str = ""  # the hash of those
    fields: tuple[str, ...] = ()  # the names of what differs
    difference: str = ""


class RunAcquired(Record, frozen=True, kw_only=True):
    """A kernel took over a run, to go on with it."""

    holder: str
    token: int
    before: str | None = None  # who held it last


class RunChanged(Record, frozen=True, kw_only=True):
    """A change of a run's status."""

    reason: str = ""
    by: str = ""
    context: Any = None  # of a pause: what the human should know
    human_input: Any = None  # of a resume: what the human said


class ModelInputs(Record, frozen=True, kw_only=True):
    """What a model was asked. The first `keep` messages are those of the event `base` of this run."""

    model: str
    messages: tuple[Message, ...]
    base: int = 0
    keep: int = 0
    options: ModelCallOptions = ModelCallOptions()
    output_schema: str = ""  # digest
    tools: str = ""  # digest of the toolset that was shown
    visible: tuple[str, ...] | None = None
    schema: msgspec.Raw = NOTHING  # of the output, in full; given once in a run


class StepStarted(Record, frozen=True, kw_only=True):
    """A step is about to be executed."""

    kind: Kind
    name: str  # of the model or the tool
    input: str = ""  # hash of all inputs
    core: str = ""  # hash of the inputs without the prompt
    attempt: int = 1
    model: ModelInputs | None = None
    arguments: msgspec.Raw = NOTHING
    tool_version: str = ""
    side_effect: bool = False
    idempotency_key: str = ""
    reserved: int = 0
    due_us: int = 0  # of a timer


class Answer(Record, frozen=True, kw_only=True):
    """What a model said."""

    output: msgspec.Raw = NOTHING
    text: str = ""
    text_is_output: bool = False  # the text is just the output's JSON, and left out
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    stop_reason: StopReason = "end"
    model: str = ""
    native: Native | None = None


def text_of(answer: Answer) -> str:
    """The answer's text."""
    return bytes(answer.output).decode() if answer.text_is_output else answer.text


class Recorded(Record, frozen=True, kw_only=True):
    """What replaying a step needs of its end."""

    kind: Kind
    input: str
    attempt: int = 1
    tool_version: str = ""
    tools: str = ""
    answer: Answer | None = None
    result: msgspec.Raw = NOTHING  # of a tool
    cost: int = 0


class StepEnded(Recorded, frozen=True, kw_only=True):
    """How a step ended; `started` is given only if it was not announced by an event of its own."""

    name: str
    core: str = ""
    error: str = ""  # class name of what was raised
    message: str = ""
    overdraft: int = 0  # of the cost, what no slice covered
    started: StepStarted | None = None
    reconciled: str = ""  # who or what settled an unknown outcome


class StepRejected(Record, frozen=True, kw_only=True):
    kind: Kind
    name: str
    input: str
    reason: Reason
    error: str
    message: str
    tool_version: str = ""
    arguments: msgspec.Raw = NOTHING


class StepUnknown(Record, frozen=True, kw_only=True):
    name: str
    input: str
    attempt: int
    reason: Literal["crash", "cancelled", "timeout", "tool", "probe"]
    message: str = ""
    question: str = ""  # whom to ask, if a person was asked


class StepInterrupted(Record, frozen=True, kw_only=True):
    attempt: int
    reason: Literal["cancelled", "crash", "suspended"]
    cost: int = 0  # what is counted for it: nobody knows what the provider will charge
    overdraft: int = 0


class StepRetried(Record, frozen=True, kw_only=True):
    attempt: int
    error: str
    message: str
    next_at_us: int
    cost: int = 0
    overdraft: int = 0


class StepDrifted(Record, frozen=True, kw_only=True):
    recorded_input: str
    input: str
    fields: tuple[str, ...]


class ToolsetRecorded(Record, frozen=True, kw_only=True):
    """The tools that a model was shown, each with the digest of its signature."""

    digest: str
    tools: dict[str, str]
    definitions: tuple[ToolDefinition, ...] = ()  # as the model saw them


class BudgetChanged(Record, frozen=True, kw_only=True):
    amount: int
    tenant_id: str


class ArtifactSet(Record, frozen=True, kw_only=True):
    name: str
    digest: str  # SHA-256 of the value's canonical JSON
    value: msgspec.Raw
    schema_version: str | None = None


class SummaryAppended(Record, frozen=True, kw_only=True):
    summary_type: str
    summary: msgspec.Raw
    step_key: str | None = None


class Costs(msgspec.Struct, frozen=True):
    """The money in any step event, read without the rest of it."""

    cost: int = 0
    overdraft: int = 0
