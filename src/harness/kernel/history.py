"""Telling a run's history from its events: what a step was asked, in full, and every step with its outcome. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import msgspec
from msgspec import to_builtins

from harness.kernel import records
from harness.kernel.matching import nearest
from harness.kernel.ports import Message, ToolDefinition
from harness.kernel.records import ModelInputs, StepEnded, StepRejected, StepStarted, StepUnknown, ToolsetRecorded
from harness.kernel.results import StepRecord, decoded
from harness.ledger import Event, Store

State = Literal["started", "completed", "failed", "rejected", "unknown", "interrupted", "retried"]
_STATES: Mapping[str, State] = {
    records.STEP_STARTED: "started",
    records.STEP_COMPLETED: "completed",
    records.STEP_FAILED: "failed",
    records.STEP_REJECTED: "rejected",
    records.STEP_UNKNOWN: "unknown",
    records.STEP_INTERRUPTED: "interrupted",
    records.STEP_RETRIED: "retried",
}


def announced(event: Event) -> StepStarted | None:
    """The announcement that an event is or carries."""
    if event.erased:
        return None
    if event.type == records.STEP_STARTED:
        return event.load(StepStarted)
    if event.type in (records.STEP_COMPLETED, records.STEP_FAILED):
        return event.load(StepEnded).started
    return None


async def started(store: Store, stream: str, upto: int, step: str, ended: StepEnded | None = None) -> StepStarted | None:
    """What a step was asked when it was executed last, with all its messages. None if that was erased."""
    found = ended.started if ended is not None else None
    if found is None:
        for event in await store.read(stream, limit=upto):
            if event.key == step:
                found = announced(event) or found
    if found is None or found.model is None:
        return found
    return msgspec.structs.replace(found, model=await expanded(store, stream, found.model))


async def expanded(store: Store, stream: str, inputs: ModelInputs) -> ModelInputs | None:
    """A model's inputs with the messages that an earlier event holds. None if that event was erased."""
    tails = [inputs.messages]
    base, keep = inputs.base, inputs.keep
    while base:
        event = await store.event(stream, base)
        before = announced(event) if event is not None else None
        if before is None or before.model is None:
            return None
        tails.append(before.model.messages[: keep - before.model.keep])
        keep = min(keep, before.model.keep)
        base = before.model.base if keep else 0
    messages = tuple(message for tail in reversed(tails) for message in tail)
    return msgspec.structs.replace(inputs, messages=messages, base=0, keep=0)


class Shapes:
    """What the events of a run say of the shapes that its steps refer to by digest: tools and schemas of outputs."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.schemas: dict[str, dict[str, Any]] = {}
        self.toolsets: dict[str, tuple[ToolDefinition, ...]] = {}
        for event in events:
            self.take(event)

    def take(self, event: Event) -> None:
        """Take the next event."""
        if event.erased:
            return
        if event.type == records.TOOLSET_RECORDED:
            toolset = event.load(ToolsetRecorded)
            self.toolsets[toolset.digest] = toolset.definitions
        elif (asked := announced(event)) is not None and asked.model is not None and bytes(asked.model.schema):
            self.schemas[asked.model.output_schema] = decoded(asked.model.schema)

    def difference(
        self, field: str, tools: str, schema: str, definitions: Iterable[ToolDefinition], now: Mapping[str, Any] | None
    ) -> str:
        """The nearest difference of a tool or of the output's schema; empty for another field, or if nobody knows."""
        if field == "output_schema":
            known = self.schemas.get(schema)
            return nearest(known, now, field) if known is not None and now is not None else ""
        if not field.startswith("tools."):
            return ""
        name = field.removeprefix("tools.")
        before = next((each for each in self.toolsets.get(tools, ()) if each.name == name), None)
        current = next((each for each in definitions if each.name == name), None)
        if current is None:
            return f"{field}: it is gone"
        return (
            nearest(to_builtins(before), to_builtins(current), field) if before is not None else f"{field}: another signature"
        )


def tell(events: Iterable[Event]) -> tuple[StepRecord, ...]:
    """Every step of a run in the order of their beginnings, each as its newest event leaves it."""
    told: dict[str, dict[str, Any]] = {}
    asked: dict[int, tuple[Message, ...]] = {}
    for event in events:
        if event.key is None or event.type not in _STATES:
            continue
        step = told.setdefault(event.key, {"step": event.key, "kind": "tool", "name": "", "started_us": event.ts})
        step["state"], step["seq"] = _STATES[event.type], event.seq
        if event.type in (records.STEP_COMPLETED, records.STEP_FAILED, records.STEP_REJECTED):
            step["ended_us"] = event.ts
        if event.erased:
            continue
        announcement = announced(event)
        if announcement is not None:
            _tell_start(step, announcement, event.seq, asked)
        _tell_end(step, event)
    return tuple(StepRecord(**step) for step in told.values())


def _tell_start(step: dict[str, Any], started: StepStarted, seq: int, asked: dict[int, tuple[Message, ...]]) -> None:
    step.update(
        kind=started.kind, name=started.name, attempt=started.attempt, side_effect=started.side_effect, error="", message=""
    )  # fmt: skip
    if started.tool_version:
        step["tool_version"] = started.tool_version
    if started.model is not None:
        before = asked.get(started.model.base, ())[: started.model.keep]
        step["messages"] = asked[seq] = (*before, *started.model.messages)
        step.update(
            options=started.model.options, output_schema=started.model.output_schema, tools=started.model.tools,
            visible_tool_names=started.model.visible,
        )  # fmt: skip
    if bytes(started.arguments):
        step["arguments"] = decoded(started.arguments)


def _tell_end(step: dict[str, Any], event: Event) -> None:
    match event.type:
        case records.STEP_COMPLETED | records.STEP_FAILED:
            ended = event.load(StepEnded)
            step.update(
                kind=ended.kind, name=ended.name, attempt=ended.attempt, error=ended.error, message=ended.message,
                cost_usd=ended.cost / 1_000_000, result=decoded(ended.result),
            )  # fmt: skip
            if ended.tool_version:
                step["tool_version"] = ended.tool_version
            if (answer := ended.answer) is not None:
                step.update(
                    output=decoded(answer.output),
                    text=records.text_of(answer),
                    tool_calls=answer.tool_calls,
                    usage=answer.usage,
                )
        case records.STEP_REJECTED:
            rejected = event.load(StepRejected)
            step.update(kind=rejected.kind, name=rejected.name, error=rejected.error, message=rejected.message)
            if bytes(rejected.arguments):
                step["arguments"] = cast("dict[str, Any]", decoded(rejected.arguments))
        case records.STEP_UNKNOWN:
            unknown = event.load(StepUnknown)
            step.update(attempt=unknown.attempt, error="", message=unknown.message or unknown.reason)
        case _:
            return
