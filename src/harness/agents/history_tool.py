"""The tool by which an agent looks at its own run: the newest events, bounded, without secrets."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from harness.agents.suspension import suspending
from harness.kernel import Tool, ToolExecutionContext, records, stream_of
from harness.text import cleaned

if TYPE_CHECKING:
    from harness.kernel import Kernel
    from harness.ledger import Event

NAME = "query_event_history"
MAX_EVENTS = 50
_MAX_LOOKED_AT = 10_000
_PAGE = 200
_SHOWN_CHARACTERS = 240


def history_tool(kernel: Kernel) -> Tool:
    """The tool `query_event_history` for runs of this kernel."""

    async def query_event_history(context: ToolExecutionContext, limit: int = 10, event_type: str = "all") -> dict[str, Any]:
        """Read the newest events of your own run, the oldest of them first.

        `limit` is at most 50. `event_type` is "all", a type such as "step.completed", or its first part such as "step".
        """
        with suspending():
            found = await _newest(kernel, context.run_id, max(1, min(limit, MAX_EVENTS)), event_type.strip() or "all")
        return {"run_id": context.run_id, "events": [_told(event) for event in found]}

    return Tool(query_event_history, name=NAME)


async def _newest(kernel: Kernel, run_id: str, limit: int, event_type: str) -> list[Event]:
    """The newest events of a type, in order; looks back page by page, and not for ever."""
    stream = stream_of(run_id)
    head = await kernel.store.head(stream)
    upto = 0 if head is None else head.seq
    oldest = max(0, upto - _MAX_LOOKED_AT)
    found: list[Event] = []
    while upto > oldest and len(found) < limit:
        after = max(oldest, upto - _PAGE)
        page = await kernel.store.read(stream, after=after, limit=upto - after)
        found = [event for event in page if _is_of(event, event_type)] + found
        upto = after
    return found[-limit:]


def _is_of(event: Event, event_type: str) -> bool:
    return event_type in ("all", event.type, event.type.partition(".")[0])


def _told(event: Event) -> dict[str, Any]:
    told: dict[str, Any] = {
        "seq": event.seq,
        "event_type": event.type,
        "at": datetime.fromtimestamp(event.ts / 1_000_000, UTC).isoformat(timespec="seconds"),
    }
    if event.key is not None:
        told["key"] = event.key
    if event.erased:
        told["erased"] = True
    else:
        told.update({name: _shown(text) for name, text in _facts(event).items() if text})
    return told


def _facts(event: Event) -> dict[str, str]:
    """What matters of an event, in texts that are not yet fit to be shown."""
    match event.type:
        case records.STEP_STARTED:
            started = event.load(records.StepStarted)
            return {"name": started.name, "arguments": _text(started.arguments)}
        case records.STEP_COMPLETED | records.STEP_FAILED:
            ended = event.load(records.StepEnded)
            begun = ended.started
            answer = ended.answer
            calls = ", ".join(call.name for call in answer.tool_calls) if answer is not None else ""
            return {
                "name": ended.name, "arguments": _text(begun.arguments) if begun is not None else "",
                "result": _text(ended.result), "text": records.text_of(answer) if answer is not None else "",
                "calls": calls, "error": f"{ended.error}: {ended.message}" if ended.error else "",
            }  # fmt: skip
        case records.STEP_REJECTED:
            rejected = event.load(records.StepRejected)
            return {"name": rejected.name, "error": rejected.message}
        case records.STEP_UNKNOWN:
            unknown = event.load(records.StepUnknown)
            return {"name": unknown.name, "error": unknown.message or unknown.reason}
        case records.ARTIFACT_SET:
            return {"value": _text(event.load(records.ArtifactSet).value)}
        case records.SUMMARY_APPENDED:
            return {"value": _text(event.load(records.SummaryAppended).summary)}
        case records.RUN_PAUSED | records.RUN_RESUMED | records.RUN_BLOCKED | records.RUN_CANCELLED | records.RUN_FAILED:
            return {"reason": event.load(records.RunChanged).reason}
        case _:
            return {}


def _text(raw: Any) -> str:
    return bytes(raw).decode(errors="replace")


def _shown(text: str) -> str:
    """The beginning of a text. Secrets are looked for in more than is shown, so that none is cut in two and not seen."""
    text = cleaned(text[: 8 * _SHOWN_CHARACTERS])
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
