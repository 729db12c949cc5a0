"""How the demo looks: a timeline of lines as they happen, and a summary. With `--json`, one object at the end."""

from __future__ import annotations

import contextlib
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from harness.cli.demo.stage import Leaked, Stage, is_interactive
from harness.cli.output import json_line

if TYPE_CHECKING:
    from harness.cli.demo.play import Plan
    from harness.cli.demo.result import Outcome
    from harness.ledger import Event
    from harness.web.overview import Overview

_STYLES = {"bad": "red", "good": "green", "ask": "yellow", "act": "cyan", "info": ""}
_DETAIL_LINES = 6
_SAW = 120
_DETAILED = frozenset({"service.exited", "incident.analysed", "incident.escalated", "config.changed"})
_STAGES = (
    ("chaos.", "fault"), ("incident.opened", "ticket"), ("incident.analysed", "diagnosis"), ("step.", "diagnosis"),
    ("incident.engaged", "diagnosis"), ("incident.action", "action"), ("action.", "action"), ("config.", "action"),
    ("incident.concluded", "action"), ("incident.verif", "verified"), ("incident.attempt", "verified"),
    ("incident.closed", "closed"), ("incident.escalated", "person"), ("check.", "check"), ("service.exited", "detected"),
    ("service.", "service"),
)  # fmt: skip


def _stage(event: Event) -> str:
    """Which part of the story an event belongs to."""
    return next((stage for beginning, stage in _STAGES if event.type.startswith(beginning)), "")


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


class Show(Protocol):
    """What the course of the demo tells."""

    def opening(self, stage: Stage, plan: Plan) -> None: ...
    def waiting(self, text: str) -> AbstractContextManager[object]: ...
    def ready(self, seen: Overview) -> None: ...
    def act(self, number: int, times: int | None, chaos: str) -> None: ...
    def event(self, event: Event, *, since_us: int) -> None: ...
    def problem(self, text: str) -> None: ...
    def staying(self, stage: Stage) -> None: ...
    def down(self, leaked: Leaked) -> None: ...
    def kept(self, stage: Stage) -> None: ...
    def interrupted(self) -> None: ...
    def summary(self, found: Outcome) -> None: ...


def show_for(plan: Plan) -> Show:
    """The show that fits the options."""
    return Silence() if plan.json else Lines()


class Silence:
    """For scripts: one JSON object, last."""

    def opening(self, stage: Stage, plan: Plan) -> None: ...
    def ready(self, seen: Overview) -> None: ...
    def act(self, number: int, times: int | None, chaos: str) -> None: ...
    def event(self, event: Event, *, since_us: int) -> None: ...
    def staying(self, stage: Stage) -> None: ...
    def down(self, leaked: Leaked) -> None: ...

    def waiting(self, text: str) -> AbstractContextManager[object]:
        return contextlib.nullcontext()

    def problem(self, text: str) -> None:
        print(f"harness: {text}", file=sys.stderr)

    def kept(self, stage: Stage) -> None:
        print(f"kept: {stage.root}", file=sys.stderr)

    def interrupted(self) -> None:
        print("harness: interrupted; nothing is left running", file=sys.stderr)

    def summary(self, found: Outcome) -> None:
        json_line(found)


class Lines:
    """For people."""

    def __init__(self) -> None:
        from rich.console import Console

        narrow = sys.stdout.isatty()
        self._console = Console(highlight=False, soft_wrap=not narrow, width=None if narrow else 200)

    def _line(self, when: str, who: str, text: str, style: str = "") -> None:
        from rich.text import Text

        line = Text.assemble((f"{when:>10}  ", "dim"), (f"{who:<11} ", "bold"), (text, style))
        line.no_wrap = False
        self._console.print(line)

    def opening(self, stage: Stage, plan: Plan) -> None:
        from rich.text import Text

        told = Text.assemble(("Harness demo", "bold"), f" in {stage.root}")
        self._console.print(told)
        if plan.model == "rules":
            self._console.print("  decisions: the built-in rule model, no key needed (--model chooses another)", style="dim")
        else:
            self._console.print(f"  decisions: {plan.model}", style="dim", markup=False)
        for port in stage.moved:
            self._console.print(f"  port {port} is somebody else's and is left alone; using another", style="yellow")
        if plan.raised_limits:
            self._console.print(
                "  limits raised for breaking it again and again: 1000 actions an hour, 1000 recurrences", style="yellow"
            )

    def waiting(self, text: str) -> AbstractContextManager[object]:
        if not is_interactive():
            return contextlib.nullcontext()
        return self._console.status(text, spinner="dots")

    def ready(self, seen: Overview) -> None:
        names = ", ".join(f"{row.name} ({row.pid})" for row in seen.services)
        self._line("", "ready", names, "green")

    def act(self, number: int, times: int | None, chaos: str) -> None:
        of = f" of {times}" if times and times > 1 else ""
        self._console.rule(f"fault {number}{of}: {chaos}", style="red")

    def event(self, event: Event, *, since_us: int) -> None:
        from harness.web.words import words_of

        told = words_of(event)
        if told is None or told.tone == "quiet" or event.ts < since_us:
            return
        seconds = (event.ts - since_us) / 1_000_000
        quiet = told.tone == "saw"
        text = told.text if not quiet else _cut(told.text, _SAW)
        self._line(
            f"{seconds:+.2f} s", _stage(event), f"{told.who}: {text}", "dim" if quiet else _STYLES.get(told.tone.value, "")
        )
        for detail in told.detail.splitlines()[:_DETAIL_LINES] if event.type in _DETAILED else ():
            self._console.print(f"{'':>25}{_cut(detail, 160)}", style="dim", markup=False)

    def problem(self, text: str) -> None:
        self._console.print(text, style="bold red", markup=False)

    def staying(self, stage: Stage) -> None:
        told = "keys: k kill, h hang, s slow, 5 503, q end" if is_interactive() else "Ctrl-C ends it"
        self._console.print(f"\n  dashboard: {stage.address}    {told}\n", style="bold", markup=False)

    def down(self, leaked: Leaked) -> None:
        clean = not leaked.processes and not leaked.ports
        text = "everything has ended" if clean else f"left behind: {leaked.processes} processes, {leaked.ports} ports"
        self._line("", "end", text, "green" if clean else "bold red")

    def kept(self, stage: Stage) -> None:
        self._console.print(f"kept: {stage.root}    harness --home {stage.home} incident list", markup=False)

    def interrupted(self) -> None:
        self._console.print("interrupted; nothing is left running", style="yellow")

    def summary(self, found: Outcome) -> None:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="seconds since the fault", title_style="dim")
        for heading in ("ticket", "detected", "ticketed", "acted", "verified", "status"):
            table.add_column(heading, justify="left" if heading in ("ticket", "status") else "right")
        for each in found.incidents:
            times = (each.detected_s, each.ticket_s, each.acted_s, each.verified_s)
            style = "green" if each.status == "completed" else "red"
            table.add_row(each.ticket, *("-" if at is None else f"{at:.2f}" for at in times), each.status, style=style)
        self._console.print(table)
        ledger = found.ledger
        word = "ledger verified" if ledger.verified else "LEDGER NOT VERIFIED"
        self._console.print(
            f"{word}: {ledger.events} events in {ledger.streams} streams; "
            f"left behind: {found.leaked.processes} processes, {found.leaked.ports} ports; decided by: {found.model}",
            style="green" if found.ok else "bold red", markup=False,
        )  # fmt: skip
