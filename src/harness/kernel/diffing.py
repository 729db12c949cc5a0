"""What two runs have in common, step by step: same, changed, missing, extra. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec

from harness.kernel.matching import changed_fields, difference, json_difference, nearest, same_json, text_difference
from harness.kernel.ports import ToolCall
from harness.kernel.records import ModelInputs
from harness.kernel.results import StepRecord

Verdict = Literal["same", "changed", "missing", "extra"]
Found = list[tuple[str, str]]  # what differs: its name, and the nearest difference


class StepDiff(msgspec.Struct, frozen=True, kw_only=True):
    """One step in two runs. Costs are what it cost in each; nothing, if the run inherited it from another."""

    step: str
    kind: str
    name: str  # of the model or the tool
    verdict: Verdict
    fields: tuple[str, ...] = ()  # the names of what differs
    difference: str = ""  # the nearest difference of the first of them
    before: StepRecord | None = None
    after: StepRecord | None = None
    cost_before_usd: float = 0.0
    cost_after_usd: float = 0.0
    unrecorded: tuple[str, ...] = ()  # tool calls of a replay that the recorded run has no result for


class RunDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs beside each other. Truthy if they differ."""

    before_run: str
    after_run: str
    steps: tuple[StepDiff, ...]

    def __bool__(self) -> bool:
        return any(step.verdict != "same" for step in self.steps)

    def of(self, verdict: Verdict) -> tuple[StepDiff, ...]:
        """The steps with this verdict."""
        return tuple(step for step in self.steps if step.verdict == verdict)

    @property
    def counts(self) -> dict[str, int]:
        """How many steps have which verdict."""
        return {verdict: len(self.of(verdict)) for verdict in ("same", "changed", "missing", "extra")}

    @property
    def first(self) -> StepDiff | None:
        """The first step that is not the same: where the runs part."""
        return next((step for step in self.steps if step.verdict != "same"), None)

    @property
    def cost_before_usd(self) -> float:
        return round(sum(step.cost_before_usd for step in self.steps), 6)

    @property
    def cost_after_usd(self) -> float:
        return round(sum(step.cost_after_usd for step in self.steps), 6)


class ReplayDiff(RunDiff, frozen=True, kw_only=True):
    """A run beside its replay. `before_run` is the recorded one, `after_run` the replay's own."""

    @property
    def run_id(self) -> str:
        """The replay's run."""
        return self.after_run

    @property
    def diverged(self) -> tuple[StepDiff, ...]:
        """The steps whose tool calls have no recorded result: from there on nobody knows what would have happened."""
        return tuple(step for step in self.steps if step.unrecorded)


def diff_steps(before: Mapping[str, StepRecord], after: Mapping[str, StepRecord]) -> tuple[StepDiff, ...]:
    """Compare two runs' steps by their ids: what was asked, and what came of it. In the order of `before`."""
    return joined(before, after, lambda old, new: compared(old, new, [*_inputs(old, new), *outcome(old, new)]))


def joined(
    before: Mapping[str, StepRecord], after: Mapping[str, StepRecord], compare: Callable[[StepRecord, StepRecord], StepDiff]
) -> tuple[StepDiff, ...]:
    """Each step of either run once; one that only `after` has comes behind the one it follows there."""
    behind: dict[str, list[StepDiff]] = {}
    last = ""
    for step, record in after.items():
        if step in before:
            last = step
        else:
            behind.setdefault(last, []).append(_only(record, "extra"))
    found = list(behind.get("", ()))
    for step, record in before.items():
        found.append(compare(record, after[step]) if step in after else _only(record, "missing"))
        found += behind.get(step, ())
    return tuple(found)


def compared(before: StepRecord, after: StepRecord, found: Found, unrecorded: tuple[str, ...] = ()) -> StepDiff:
    """A step that both have."""
    told = found[0][1] if found else ""
    if unrecorded:
        told = f"{told}; no recorded result for {', '.join(unrecorded)}".removeprefix("; ")
    return StepDiff(
        step=before.step, kind=before.kind, name=before.name, verdict="changed" if found or unrecorded else "same",
        fields=tuple(name for name, _ in found), difference=told, before=before, after=after,
        cost_before_usd=_cost(before), cost_after_usd=_cost(after), unrecorded=unrecorded,
    )  # fmt: skip


def _only(record: StepRecord, verdict: Literal["missing", "extra"]) -> StepDiff:
    extra = verdict == "extra"
    return StepDiff(
        step=record.step, kind=record.kind, name=record.name, verdict=verdict, before=None if extra else record,
        after=record if extra else None, cost_before_usd=0.0 if extra else _cost(record),
        cost_after_usd=_cost(record) if extra else 0.0,
    )  # fmt: skip


def _cost(record: StepRecord) -> float:
    return 0.0 if record.inherited_from is not None else record.cost_usd


def _inputs(before: StepRecord, after: StepRecord) -> Found:
    """What was asked of them."""
    if before.kind != after.kind:
        return [("kind", f"kind: {before.kind!r} and {after.kind!r}")]
    if before.kind == "model":
        one, other = model_inputs(before), model_inputs(after)
        found = [(field, difference(field, one, other)) for field in changed_fields(one, other)]
        return found if before.tools == after.tools else [*found, ("tools", "tools: other ones were shown")]
    found = [] if before.name == after.name else [("tool_name", f"tool_name: {before.name!r} and {after.name!r}")]
    if not same_json(before.arguments, after.arguments):
        fields, told = json_difference(before.arguments, after.arguments)
        found += [(field, told) for field in fields]
    if before.tool_version != after.tool_version and before.tool_version and after.tool_version:
        found.append(("tool_version", f"tool_version: {before.tool_version!r} and {after.tool_version!r}"))
    return found


def model_inputs(step: StepRecord) -> ModelInputs:
    """What a model step was asked, to be compared."""
    return ModelInputs(
        model=step.name, messages=step.messages, options=step.options, output_schema=step.output_schema, tools=step.tools,
        visible=step.visible_tool_names,
    )  # fmt: skip


def outcome(before: StepRecord, after: StepRecord) -> Found:
    """How what came of two steps differs; the ids of tool calls, which are arbitrary, do not count."""
    if before.state != after.state:
        return [("state", f"state: {_end(before)}, now {_end(after)}")]
    found: Found = []
    if before.output is None and after.output is None:  # else the text is the same in other words
        if before.text != after.text:
            found.append(("text", f"text: {text_difference(before.text, after.text)}"))
    elif not same_json(before.output, after.output):
        found.append(("output", nearest(before.output, after.output, "output")))
    one, other = calls_of(before.tool_calls), calls_of(after.tool_calls)
    if one != other:
        found.append(("tool_calls", f"tool_calls: recorded {_told(one)}, now {_told(other)}"))
    if not same_json(before.result, after.result):
        found.append(("result", nearest(before.result, after.result, "result")))
    if (before.error, before.message) != (after.error, after.message):
        found.append(("error", f"error: recorded {_error(before)}, now {_error(after)}"))
    return found


def _end(step: StepRecord) -> str:
    return f"{step.state} ({_error(step)})" if step.error or step.message else step.state


def _error(step: StepRecord) -> str:
    return f"{step.error}: {step.message}"[:200].strip(": ") or "none"


def calls_of(calls: Iterable[ToolCall]) -> list[tuple[str, str]]:
    """Tool calls by name and canonical arguments."""
    return [(call.name, canonical_call(call)) for call in calls]


def canonical_call(call: ToolCall) -> str:
    """A tool call's arguments in one form; as they are if they are no JSON."""
    try:
        value: Any = msgspec.json.decode(call.arguments_json.encode(errors="replace") or b"{}")
    except msgspec.DecodeError:
        return call.arguments_json
    return msgspec.json.encode(value, order="sorted").decode()


def _told(calls: list[tuple[str, str]]) -> str:
    return ", ".join(told_call(name, arguments) for name, arguments in calls) or "none"


def told_call(name: str, arguments: str) -> str:
    """A call as a person reads it."""
    return f"{name}({arguments if len(arguments) <= 80 else arguments[:80] + '…'})"
