"""What led to an event: its `parent`, the parent's parent, and so on, over all streams. Reads only."""

from __future__ import annotations

from typing import Any

import msgspec

from harness.errors import NotFound
from harness.kernel.story import story_of
from harness.ledger import Event, Store

_REASONS = ("reason", "difference", "message", "text", "detail", "error", "question", "summary")
_BEGINNINGS = (("fork_of", "fork_at"), ("replay_of", ""), ("parent_run", ""))


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """One event on the way, and why it is on it."""

    ref: str  # stream#seq
    type: str
    ts: int
    actor: str
    step: str = ""
    told: str = ""  # what it says of itself
    link: str = ""  # how it is connected to the one before


async def causes_of(store: Store, stream: str, seq: int) -> list[Cause]:
    """The event and what led to it, the newest first. Raises `NotFound`."""
    event = await store.event(stream, seq)
    if event is None:
        raise NotFound(f"no event {stream}#{seq} in {store.location}")
    found: list[Cause] = []
    seen: set[str] = set()
    link = ""
    while event is not None and event.ref not in seen:
        seen.add(event.ref)
        found.append(_cause(event, link))
        ref, link = await _settled(store, event) or _led_by(event)
        name, _, number = ref.rpartition("#")
        event = await store.event(name, int(number)) if number.isdigit() else None
    return found


async def step_place(store: Store, run_id: str, step: str) -> tuple[str, int]:
    """The newest event of a step, which may be that of a run it was inherited from. Raises `NotFound`."""
    story = await story_of(store, run_id)
    record = story.steps.get(step)
    if record is None:
        names = ", ".join(list(story.steps)[:20]) or "none"
        raise NotFound(f"run {run_id!r} has no step {step!r}; it has: {names}")
    return f"run/{record.inherited_from or run_id}", record.seq


async def _settled(store: Store, event: Event) -> tuple[str, str] | None:
    """Who settles a step by hand gives no cause: it is what had been recorded of the step before."""
    if event.erased or event.parent is not None or not event.payload.get("reconciled"):
        return None
    before = [each.ref for each in await store.read(event.stream) if each.key == event.key and each.seq < event.seq]
    return (before[-1], "it settles") if before else None


def _led_by(event: Event) -> tuple[str, str]:
    if event.parent is not None:
        return event.parent, "because of"
    if event.stream.startswith("run/") and event.seq > 1:
        return f"{event.stream}#1", "in the run"
    if event.stream.startswith("run/") and not event.erased:
        payload = event.payload
        for name, at in _BEGINNINGS:
            if payload.get(name):
                return f"run/{payload[name]}#{payload.get(at, 1)}", name.replace("_", " ")
    return "", ""


def _cause(event: Event, link: str) -> Cause:
    step = event.key or "" if event.type.startswith("step.") else ""
    return Cause(
        ref=event.ref, type=event.type, ts=event.ts, actor=event.actor, step=step, told=_told(event), link=link
    )  # fmt: skip


def _told(event: Event) -> str:
    if event.erased:
        return "(erased)"
    payload = event.payload
    words = [str(payload[name]) for name in _REASONS if isinstance(payload.get(name), str) and payload[name]]
    if event.type.startswith("step."):
        settled = payload.get("reconciled")
        words = [_step(payload), *words, *([f"settled by {settled}"] if settled else [])]
    elif event.type == "run.started":
        words = [f"for {payload.get('tenant_id', '')}", *words]
    return "; ".join(words)[:400]


def _step(payload: dict[str, Any]) -> str:
    answer: dict[str, Any] = payload.get("answer") or {}
    calls = ", ".join(f"{call['name']}({call.get('arguments_json', '{}')})" for call in answer.get("tool_calls", ()))
    started: dict[str, Any] = payload.get("started") or {}
    arguments: Any = payload.get("arguments", started.get("arguments"))
    name = payload.get("name", "")
    asked = f"{name}({msgspec.json.encode(arguments).decode()})" if arguments is not None else name
    said = f"asked for {calls}" if calls else answer.get("text") or ""
    return f"{asked}: {said}" if said else asked
