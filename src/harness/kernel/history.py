"""Telling a run's history from its events: what a step was asked, in full, and every step with its outcome. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import msgspec

from harness.kernel import records
from harness.kernel.ports import Message
from harness.kernel.records import ModelInputs, StepEnded, StepRejected, StepStarted, StepUnknown
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
    step.update(kind=started.kind, name=started.name, attempt=started.attempt)
    if started.model is not None:
        before = asked.get(started.model.base, ())[: started.model.keep]
        step["messages"] = asked[seq] = (*before, *started.model.messages)
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
            step.update(attempt=unknown.attempt, message=unknown.message or unknown.reason)
        case _:
            return
