"""The page's parts: how one service, check, ticket, question and incident look. They show, and call what they are given.

Text from outside is only ever the text of a label, which the browser does not read as markup.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from nicegui import ui

from harness.people import Question
from harness.recovery.facts import ChaosKind
from harness.text import sanitise
from harness.web.overview import GOOD, ON_THE_WAY, UNKNOWN, Check, Service, Ticket
from harness.web.statistics import Statistics
from harness.web.stories import Entry, Story
from harness.web.words import Tone

Act = Callable[[], Any]
Opened = dict[str, bool]
"""What this reader has opened or closed, by ticket and by event."""

_TONES: Mapping[Tone, tuple[str, str]] = {
    Tone.BAD: ("text-red-7", "error"),
    Tone.GOOD: ("text-green-7", "check_circle"),
    Tone.ASK: ("text-amber-9", "front_hand"),
    Tone.ACT: ("text-blue-7", "bolt"),
    Tone.INFO: ("text-grey-7", "info"),
    Tone.SAW: ("text-grey-5", "visibility"),
    Tone.QUIET: ("text-grey-5", "more_horiz"),
}
_FOLDED = (Tone.SAW, Tone.ACT)
_DETAIL = "text-xs text-grey-7 font-mono whitespace-pre-wrap break-words w-full"
_SHADES = {"good": "green-7", "bad": "red-7", "busy": "amber-8", "none": "grey-6"}


def service_health(row: Service) -> str:
    """good, busy, bad or none, by what the service does now."""
    if row.state in GOOD:
        return "good"
    if row.state in ON_THE_WAY:
        return "busy"
    return "none" if row.state in (UNKNOWN, "stopped", "declared") else "bad"


def check_health(row: Check) -> str:
    """good, busy (not believed yet), bad or none."""
    if not row.enabled or row.result == "unknown":
        return "none"
    if row.result == "pass":
        return "good"
    return "bad" if row.hard else "busy"


def _card(health: str, marks: Mapping[str, str]) -> ui.card:
    card = ui.card().classes("p-3 gap-1 min-w-64 grow transition-colors").style(f"border-left: 6px solid var(--h-{health})")
    for name, value in marks.items():
        card.props[f"data-{name}"] = value
    return card


def label(text: object, classes: str = "") -> ui.label:
    """Text as it is, without what cannot be seen."""
    return ui.label(sanitise(str(text))).classes(classes)


def heading(text: str) -> None:
    """What stands above a part of the page."""
    ui.label(text).classes("text-sm font-semibold uppercase tracking-wide h-dim")


def chip(text: str, health: str) -> None:
    """A small coloured word."""
    shade = _SHADES[health]
    ui.label(sanitise(text)).classes(f"bg-{shade} text-white text-xs font-medium rounded-full px-2 py-0.5 whitespace-nowrap")


def service_card(row: Service, *, chaos: Callable[[ChaosKind], Act] | None, restart: Act | None) -> None:
    """A service, red or green, with the buttons that are allowed."""
    health = service_health(row)
    with _card(health, {"service": row.name, "health": health, "state": row.state}):
        with ui.row().classes("w-full items-center justify-between no-wrap"):
            label(row.name, "text-base font-medium truncate")
            chip(row.state.replace("_", " "), health)
        facts = [f"pid {row.pid}" if row.pid else "", row.address, f"since {_time(row.since_us)}" if row.since_us else ""]
        label(" · ".join(fact for fact in facts if fact) or "-", "text-xs text-grey-7")
        if row.reason:
            label(row.reason, "text-xs text-grey-8 break-words")
        if row.chaos:
            chip(f"chaos: {row.chaos}", "busy")
        if chaos is not None or restart is not None:
            with ui.row().classes("gap-1 pt-1"):
                _buttons(row, chaos, restart)


def _buttons(row: Service, chaos: Callable[[ChaosKind], Act] | None, restart: Act | None) -> None:
    if restart is not None:
        small_button("restart", restart, "primary", f"restart-{row.name}")
    for kind in ChaosKind if chaos is not None else ():
        assert chaos is not None
        small_button(kind.value, chaos(kind), "red-7", f"chaos-{kind.value}-{row.name}")


def small_button(text: str, act: Act, colour: str, mark: str) -> ui.button:
    """A small outlined button; tests find it by its mark."""
    button = ui.button(text, on_click=act, color=colour).props("dense outline no-caps size=sm padding='2px 8px'")
    button.props["data-button"] = mark
    return button


def check_card(row: Check) -> None:
    """A check, red or green, with what it saw."""
    health = check_health(row)
    with _card(health, {"check": row.name, "health": health}):
        with ui.row().classes("w-full items-center justify-between no-wrap"):
            label(row.name, "text-base font-medium truncate")
            chip(row.result if row.enabled else "off", health)
        label(row.description or row.query, "text-xs text-grey-8")
        label(row.observed or row.condition, "text-xs text-grey-7 break-words")


def ticket_card(row: Ticket, questions: list[Question], answer: Callable[[Question, bool], Act] | None) -> None:
    """An open ticket, with what it asks of a person."""
    health = {"blocked": "bad", "parked": "busy", "verifying": "busy", "in_progress": "busy"}.get(row.status, "none")
    with _card(health, {"ticket": row.id, "status": row.status}):
        with ui.row().classes("w-full items-center justify-between no-wrap"):
            label(row.title, "text-base font-medium")
            chip(row.status.replace("_", " "), health)
        seen = f", seen {row.occurrences} times" if row.occurrences > 1 else ""
        label(f"{row.id} · {row.priority} · {row.holder or 'nobody works on it'}{seen}", "text-xs text-grey-7")
        if row.reason:
            label(row.reason, "text-xs text-grey-8 break-words")
        for question in questions:
            _question(question, answer)


def _question(question: Question, answer: Callable[[Question, bool], Act] | None) -> None:
    with ui.row().classes("w-full items-start gap-2 no-wrap bg-amber-1 rounded p-2 text-grey-10"):
        ui.icon("front_hand").classes("text-amber-9 pt-1")
        with ui.column().classes("gap-1 grow min-w-0"):
            label(question.text, "text-sm break-words")
            if answer is not None:
                with ui.row().classes("gap-1"):
                    small_button("approve", answer(question, True), "green-7", f"approve-{question.id}")
                    small_button("deny", answer(question, False), "red-7", f"deny-{question.id}")


def story_panel(story: Story, opened: Opened, *, newest: bool) -> None:
    """One incident: its title and outcome, and its timeline, which of the newest is open unless it was closed."""
    health = {"completed": "good", "verified": "good", "open": "bad", "escalated": "bad", "verifying": "busy"}
    with ui.expansion(
        value=opened.get(story.ticket, newest), on_value_change=lambda change: opened.update({story.ticket: bool(change.value)})
    ).classes("w-full bg-white dark:bg-gray-800 rounded shadow") as panel:
        panel.props["data-incident"] = story.ticket
        panel.props["data-status"] = story.status
        with panel.add_slot("header"), ui.row().classes("w-full items-center justify-between no-wrap"):
            label(story.title or story.ticket, "text-base font-medium")
            chip(story.status, health.get(story.status, "none"))
        with ui.column().classes("w-full gap-1"):
            for entry in story.entries:
                _entry(entry, opened)


def tone_icon(tone: Tone) -> None:
    """How a reader should take a line, as a picture."""
    colour, icon = _TONES[tone]
    ui.icon(icon).classes(f"{colour} pt-0.5")


def _entry(entry: Entry, opened: Opened) -> None:
    told = entry.words
    small = "text-xs text-grey-6" if told.tone in (Tone.QUIET, Tone.SAW) else "text-sm"
    with ui.row().classes("w-full items-start gap-2 no-wrap").props(f"data-tone={told.tone}"):
        label(f"{entry.seconds:+.1f} s", "text-xs text-grey-6 tabular-nums w-16 text-right shrink-0 pt-0.5")
        tone_icon(told.tone)
        with ui.column().classes("gap-0 grow min-w-0"):
            if told.detail and told.tone in _FOLDED:
                heading = told.who if told.tone is Tone.SAW else f"{told.who}: {told.text}"
                _folded(heading, small, told.detail, entry.ref, opened)
                return
            label(f"{told.who}: {told.text}", f"{small} break-words w-full")
            if told.detail:
                label(told.detail, f"{_DETAIL} max-h-40 overflow-auto")


def _folded(heading: str, classes: str, detail: str, ref: str, opened: Opened) -> None:
    """A line that shows more when it is clicked."""
    with ui.element("details").classes("w-full") as folded:
        folded.props["open"] = opened.get(ref, False)
        folded.on("toggle", lambda event: opened.update({ref: bool(event.args)}), js_handler="(e) => emit(e.target.open)")
        with ui.element("summary").classes(f"{classes} cursor-pointer break-words hover:underline"):
            ui.label(sanitise(heading)).classes("inline")
        label(detail, f"{_DETAIL} max-h-96 overflow-auto pt-1")


def numbers(counted: Statistics, open_tickets: int) -> None:
    """The figures above everything."""
    for text, value in (
        ("open tickets", open_tickets),
        ("incidents", counted.incidents),
        ("verified", counted.verified),
        ("to ticket", _seconds(counted.seconds_to_ticket)),
        ("to engage", _seconds(counted.seconds_to_engage)),
        ("to verified", _seconds(counted.seconds_to_verify)),
        ("human answers", counted.human_answers),
        ("events on the ledger", counted.events),
    ):
        with ui.column().classes("gap-0 items-start"):
            label(value, "text-2xl font-light tabular-nums").props["data-number"] = text
            label(text, "text-xs text-grey-7")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _time(us: int) -> str:
    return datetime.fromtimestamp(us / 1_000_000).astimezone().strftime("%H:%M:%S")
