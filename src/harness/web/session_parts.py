"""The sessions' parts of the page: how a table of sessions, a message, an approval and an event look.

They show, and call what they are given. Text from outside is only ever the text of a label or of a cell, which the browser
does not read as markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec
from nicegui import ui

from harness.ledger import Event
from harness.sessions.client import Row
from harness.sessions.facts import MessageStatus, State
from harness.sessions.record import Approval, Message
from harness.text import sanitise
from harness.web.conversation import Said
from harness.web.parts import chip, label, small_button, tone_icon
from harness.web.session_words import session_words
from harness.web.words import Tone

Act = Callable[[], Any]

TICKER = """<script>
window.hSpan = s => s < 0 ? '0 s' : s < 60 ? Math.floor(s) + ' s' : s < 3600 ? Math.floor(s / 60) + ' min'
  : s < 86400 ? Math.floor(s / 3600) + ' h ' + Math.floor(s % 3600 / 60) + ' min' : Math.floor(s / 86400) + ' d';
window.hTick = () => {
  const now = Date.now() / 1000;
  for (const e of document.querySelectorAll('[data-since],[data-until]')) {
    const d = e.dataset, end = Number(d.end) || now;
    const text = window.hSpan(d.until ? Number(d.until) - now : end - Number(d.since));
    if (e.textContent !== text) e.textContent = text;
  }
};
setInterval(window.hTick, 250);
</script>"""
"""Ages and times that are left, counted by the browser: the server sends a moment once."""

_HEALTH: dict[str, str] = {
    State.PROMPT: "good", State.BUSY: "busy", State.STARTING: "busy", State.BLOCKED: "ask", State.LIMITED: "ask",
    State.UNKNOWN: "none", State.EXITED: "none", State.LOST: "bad",
}  # fmt: skip
_SHADES = {"good": "green-7", "busy": "blue-7", "ask": "amber-9", "bad": "red-7", "none": "grey-6"}
_STATUS: dict[str, str] = {
    MessageStatus.QUEUED: "busy", MessageStatus.WRITTEN: "busy", MessageStatus.ACCEPTED: "busy", MessageStatus.DONE: "good",
    MessageStatus.FAILED: "bad", MessageStatus.EXPIRED: "bad", MessageStatus.UNKNOWN: "bad",
}  # fmt: skip
_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("id", "session", "left"), ("cli", "agent", "left"), ("state", "state", "left"), ("age", "age", "right"),
    ("idle", "idle", "right"), ("tokens", "tokens in / out", "right"), ("cost", "cost", "right"),
    ("repo", "repository", "left"), ("description", "description", "left"),
)  # fmt: skip
_LINK = """<q-td :props="props"><a :href="props.row.href" class="text-primary font-medium hover:underline"
  :data-session="props.row.key">{{ props.value }}</a></q-td>"""
_STATE = """<q-td :props="props"><q-badge :color="props.row.shade" :data-state="props.value">{{ props.value }}</q-badge>
  <span class="text-xs h-dim q-ml-sm">{{ props.row.detail }}</span></q-td>"""
_SINCE = (
    """<q-td :props="props"><span class="tabular-nums" :data-since="props.value" :data-end="props.row.end"></span></q-td>"""
)
_LONG = """<q-td :props="props"><div class="truncate max-w-xs" :title="props.value">{{ props.value }}</div></q-td>"""


def table(marks: str) -> Any:
    """An empty table of sessions; `rows_of` gives what it shows."""
    columns = [{"name": name, "label": text, "field": name, "align": align} for name, text, align in _COLUMNS]
    made = ui.table(columns=columns, rows=[], row_key="key").classes("w-full").props(f"flat dense data-table={marks}")
    slots = {"id": _LINK, "state": _STATE, "age": _SINCE, "idle": _SINCE, "repo": _LONG, "description": _LONG}
    for name, slot in slots.items():
        made.add_slot(f"body-cell-{name}", slot)
    return made


def rows_of(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as the table shows them; text is made harmless to look at."""
    return [_row(row) for row in rows]


def _row(row: Row) -> dict[str, Any]:
    ended = row.exited_us
    detail = f"{row.exit_reason}, code {row.exit_code}" if ended is not None and row.exit_code is not None else row.exit_reason
    shown = {
        "key": row.key, "href": f"/sessions/{row.key}", "id": row.id, "cli": row.cli, "state": row.state,
        "shade": _SHADES[_HEALTH.get(row.state, "none")],
        "detail": (detail or "") if ended is not None else _reading(row.state_detail, row.state_source, row.state_confidence),
        "age": row.started_us / 1e6, "idle": row.last_us / 1e6, "end": 0 if ended is None else ended / 1e6,
        "tokens": f"{thousands(row.input_tokens)} / {thousands(row.output_tokens)}",
        "cost": "-" if row.cost_usd is None else f"${row.cost_usd:.2f}",
        "repo": row.repo.rstrip("/").rpartition("/")[2] or row.repo, "description": row.description,
    }  # fmt: skip
    return {name: sanitise(value) if isinstance(value, str) else value for name, value in shown.items()}


def _reading(detail: str, source: str, confidence: float) -> str:
    sure = "" if confidence >= 1 else f" {confidence:.0%}"
    return " · ".join(part for part in (detail, f"{source}{sure}") if part)


def state_chip(state: str, detail: str, source: str, confidence: float) -> None:
    """The state, who says so, and how sure that is."""
    ui.badge(sanitise(state), color=_SHADES[_HEALTH.get(state, "none")]).classes("text-sm px-2 py-1").props(
        f"data-state={state}"
    )
    label(_reading(detail, source, confidence), "text-xs opacity-80")


def moment(us: int, *, until: bool = False) -> ui.label:
    """A time that the browser counts from, or towards."""
    shown = ui.label("").classes("tabular-nums")
    shown.props[f"data-{'until' if until else 'since'}"] = us / 1e6
    return shown


def thousands(count: int) -> str:
    """A count that is short to read."""
    return str(count) if count < 10_000 else f"{count / 1000:.0f} k" if count < 10_000_000 else f"{count / 1e6:.1f} M"


def message_card(message: Message, withdraw: Act | None) -> None:
    """One message to the agent."""
    with ui.column().classes("w-full gap-0 rounded p-2 h-soft") as card:
        card.props["data-message"] = message.id
        card.props["data-status"] = str(message.status)
        with ui.row().classes("w-full items-center justify-between no-wrap gap-2"):
            with ui.row().classes("items-center gap-2 no-wrap"):
                chip(message.status, _STATUS.get(message.status, "none"))
                origin = f"{message.origin.cli} {message.origin.id}".strip() or message.origin.kind
                label(f"{origin} · {message.placing}", "text-xs h-dim")
            with ui.row().classes("items-center gap-2 no-wrap text-xs h-dim"):
                if message.status is MessageStatus.QUEUED:
                    ui.label("expires in")
                    moment(message.expires_us, until=True)
                    if withdraw is not None:
                        small_button("take back", withdraw, "grey-8", f"withdraw-{message.id}")
                else:
                    moment(message.changed_us)
                    ui.label("ago")
        label(message.text[:1_000] or "⏎", "text-sm whitespace-pre-wrap break-words max-h-32 overflow-auto w-full")
        if message.reason:
            label(message.reason, "text-xs h-dim break-words")


def approval_card(approval: Approval, decide: Callable[[bool], Act] | None) -> None:
    """Something that the agent asks leave for, with its deadline."""
    with ui.column().classes("w-full gap-1 rounded p-2 h-ask") as card:
        card.props["data-approval"] = approval.request
        with ui.row().classes("w-full items-center justify-between no-wrap"):
            label(approval.tool, "text-base font-medium break-words")
            if approval.deadline_us is not None:
                with ui.row().classes("gap-1 text-xs h-dim no-wrap items-center"):
                    ui.icon("timer").classes("text-amber-9")
                    moment(approval.deadline_us, until=True)
                    ui.label("left")
        label(approval.summary, "text-sm whitespace-pre-wrap break-words max-h-40 overflow-auto w-full font-mono")
        if approval.arguments is not None:
            with ui.element("details").classes("w-full text-xs"):
                with ui.element("summary").classes("cursor-pointer h-dim"):
                    ui.label("arguments").classes("inline")
                label(_pretty(approval.arguments), "font-mono whitespace-pre-wrap break-words max-h-60 overflow-auto")
        if decide is not None and approval.question:
            with ui.row().classes("gap-2 pt-1"):
                for text, allow, colour in (("allow", True, "green-7"), ("deny", False, "red-7")):
                    button = ui.button(text, on_click=decide(allow), color=colour)
                    button.props("dense outline no-caps padding='2px 14px'").props["data-button"] = f"{text}-{approval.request}"


def _pretty(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()[:20_000]


def said_bubble(said: Said) -> None:
    """One message of the conversation."""
    mine = said.role == "user"
    colours = "h-mine self-end" if mine else "h-soft self-start"
    with ui.column().classes(f"gap-0 rounded-lg px-3 py-2 max-w-[90%] {colours}") as bubble:
        bubble.props["data-said"] = said.role
        label(said.content, "text-sm whitespace-pre-wrap break-words")


def event_line(event: Event) -> ui.element | None:
    """One event in words; None for one without any."""
    told = session_words(event)
    if told is None:
        return None
    quiet = told.tone in (Tone.QUIET, Tone.SAW)
    with ui.row().classes("w-full items-start gap-2 no-wrap") as line:
        line.props["data-event"] = event.type
        with ui.row().classes("w-16 shrink-0 justify-end text-xs h-dim"):
            moment(event.ts)
        tone_icon(told.tone)
        with ui.column().classes("gap-0 grow min-w-0"):
            label(f"{told.who}: {told.text}", f"{'text-xs h-dim' if quiet else 'text-sm'} break-words w-full")
            if told.detail:
                with ui.element("details").classes("w-full text-xs h-dim"):
                    with ui.element("summary").classes("cursor-pointer"):
                        ui.label("more").classes("inline")
                    label(told.detail, "font-mono whitespace-pre-wrap break-words max-h-60 overflow-auto")
    return cast("ui.element", line)
