"""The page of one session: its terminal or conversation, its inbox, what it asks for, its events, and a person's buttons.

Everything is drawn when the session's own events come; `session_parts` says how things look, `terminal` shows the terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast

from nicegui import background_tasks, ui

from harness.errors import Conflict, HarnessError
from harness.ledger import Event
from harness.sessions import facts
from harness.sessions.client import Row, Sessions
from harness.sessions.facts import MessageStatus, Placing, State
from harness.sessions.record import Session
from harness.web import parts, session_parts
from harness.web.context import Context
from harness.web.conversation import Conversation, Said
from harness.web.parts import heading
from harness.web.session_parts import thousands
from harness.web.session_rows import how_it_ended
from harness.web.terminal import LiveTerminal

_GATHER_SECONDS = 0.1
_EVENTS_SHOWN = 300
_SAID_SHOWN = 100
_OVER_SHOWN = 15
_PLACINGS = {Placing.QUEUE: "at its prompt", Placing.STEER: "into the turn", Placing.INTERRUPT: "after an interrupt"}


class SessionView:
    """One browser's view of one session."""

    def __init__(self, context: Context, sessions: Sessions, row: Row) -> None:
        self._context = context
        self._sessions = sessions
        self._row = row
        self._key = row.key
        self._pty = row.mode == facts.Mode.PTY
        self._talk = Conversation(Session(key=row.key), terminal=False)
        self._terminal: LiveTerminal | None = None
        self._events: Any = None
        self._told: Any = None
        self._lines: list[Any] = []
        self._placing: Any = None
        self._force: Any = None
        self._text: Any = None

    @property
    def _session(self) -> Session:
        return self._talk.session

    async def build(self) -> None:
        """Lay the page out, and follow the session for as long as it is open."""
        events = await self._context.store.read(facts.stream_of(self._key))
        for event in events:
            self._talk.fold(event)
        with ui.column().classes("w-full max-w-screen-2xl mx-auto p-4 gap-4"):
            self._heading()
            with ui.row().classes("w-full gap-4 items-start lg:flex-nowrap"):
                with ui.column().classes("w-full lg:w-2/3 min-w-0 gap-3"):
                    self._left()
                with ui.column().classes("w-full lg:w-1/3 min-w-0 gap-3"):
                    self._approvals()
                    self._send_box()
                    self._inbox()
                    self._facts()
        self._add(events[-_EVENTS_SHOWN:])
        start = cast("Any", background_tasks).create
        tasks = [start(self._follow(), name="a session's page")]
        if self._terminal is not None:
            tasks.append(start(self._terminal.run(lambda: self._session.live), name="a session's terminal"))
        cast("Any", ui.context.client).on_delete(lambda: [task.cancel() for task in tasks])

    def _left(self) -> None:
        if self._pty:
            with ui.row().classes("w-full items-center justify-between"):
                heading("Terminal")
                with ui.row().classes("items-center gap-3"):
                    self._told = parts.label("", "text-xs h-dim")
                    switch = ui.switch("type into it", on_change=lambda change: self._let_type(bool(change.value)))
                    switch.props("dense size=sm data-switch=type")
            with ui.element("div").classes("h-terminal w-full").props("data-terminal"):
                self._terminal = LiveTerminal(self._sessions.folder(self._key), self._tell)
                self._terminal.build()
        else:
            heading("Conversation")
            with ui.scroll_area().classes("h-panel w-full h-96"):
                self._conversation()
        heading("Events")
        with ui.column().classes("h-panel w-full p-3 gap-1 max-h-[32rem] overflow-auto flex-nowrap") as self._events:
            pass

    def _tell(self, text: str) -> None:
        self._told.set_text(text)

    def _let_type(self, wanted: bool) -> None:
        if self._terminal is not None:
            self._terminal.let_type(wanted)

    # Following

    async def _follow(self) -> None:
        """Take events in as they come, several at once, and draw what they change."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(1000)
        pump = asyncio.ensure_future(self._pump(queue))
        try:
            while (event := await queue.get()) is not None:
                await asyncio.sleep(_GATHER_SECONDS)
                events = [event]
                while not queue.empty() and (event := queue.get_nowait()) is not None:
                    events.append(event)
                self._take(events)
                if event is None:
                    break
            await pump
        finally:
            pump.cancel()

    async def _pump(self, queue: asyncio.Queue[Event | None]) -> None:
        async with contextlib.aclosing(self._sessions.follow(self._key, after=self._session.seq)) as feed:
            async for event in feed:
                await queue.put(event)
        await queue.put(None)

    def _take(self, events: list[Event]) -> None:
        said: list[Said] = []
        for event in events:
            said += self._talk.fold(event)
        self._add(events)
        self._heading.refresh()
        kinds = {event.type.partition(".")[0] for event in events}
        over = not self._session.live
        if over:
            self._send_box.refresh()
        if over or "approval" in kinds:
            self._approvals.refresh()
        if over or "message" in kinds:
            self._inbox.refresh()
        if kinds - {"message", "approval"}:
            self._facts.refresh()
        if said and not self._pty:
            self._conversation.refresh()
        if self._terminal is not None:
            self._terminal.nudge()

    def _add(self, events: list[Event]) -> None:
        """Put events at the top of the list."""
        with self._events:
            for event in events:
                line = session_parts.event_line(event)
                if line is not None:
                    line.move(target_index=0)
                    self._lines.append(line)
        for line in self._lines[:-_EVENTS_SHOWN]:
            line.delete()
        self._lines = self._lines[-_EVENTS_SHOWN:]

    # Parts

    @ui.refreshable_method
    def _heading(self) -> None:
        session, claimed = self._session, self._session.claimed
        lost = session.live and self._row.state == State.LOST
        with ui.row().classes("h-panel w-full items-center justify-between p-3 gap-3"):
            with ui.column().classes("gap-1 min-w-0"):
                with ui.row().classes("items-center gap-3"):
                    parts.label(session.id or self._row.id, "text-2xl font-light").props["data-id"] = self._key
                    parts.chip(session.cli or "?", "none")
                    session_parts.state_chip(
                        State.LOST if lost else session.state, session.state_detail, session.state_source,
                        session.state_confidence,
                    )  # fmt: skip
                    if session.exited is not None:
                        parts.label(how_it_ended(session), "text-sm")
                    elif session.stop is not None:
                        parts.chip("stopping", "busy")
                if claimed is not None and claimed.description:
                    parts.label(claimed.description, "text-sm break-words")
            with ui.row().classes("items-center gap-2"):
                if session.live:
                    self._button("interrupt", self._interrupt, "amber-9")
                    self._button("stop", self._ask_to_stop, "red-7")

    def _button(self, text: str, act: Callable[[], Awaitable[None]], colour: str) -> None:
        ui.button(text, on_click=self._acting(act), color=colour).props(
            f"outline no-caps dense padding='4px 12px' data-button={text}"
        )

    @ui.refreshable_method
    def _conversation(self) -> None:
        with ui.column().classes("w-full gap-2"):
            for said in self._talk.messages[-_SAID_SHOWN:]:
                session_parts.said_bubble(said)
            if not self._talk.messages:
                ui.label("nothing was said yet").classes("h-dim")

    @ui.refreshable_method
    def _approvals(self) -> None:
        waiting = self._session.open_approvals if self._session.live else []
        if not waiting:
            return
        heading("Asks for leave")
        for approval in waiting:
            session_parts.approval_card(approval, self._deciding(approval.request))

    @ui.refreshable_method
    def _send_box(self) -> None:
        if not self._session.live:
            return
        heading("Message")
        with ui.column().classes("h-panel w-full p-3 gap-2"):
            self._text = ui.textarea(placeholder="to the agent; Ctrl+Enter sends").props(
                "autogrow outlined dense data-input=text"
            )
            self._text.classes("w-full").on("keydown.ctrl.enter", self._acting(self._send))
            with ui.row().classes("w-full items-center justify-between"):
                self._placing = ui.select(_PLACINGS, value=Placing.QUEUE).props("dense outlined options-dense").classes("w-44")
                self._force = ui.checkbox("force").props("dense").tooltip("also where its state is not known")
                ui.button("send", on_click=self._acting(self._send)).props("no-caps dense padding='4px 16px' data-button=send")

    @ui.refreshable_method
    def _inbox(self) -> None:
        messages = list(self._session.messages.values())
        over = [message for message in messages if not message.open][-_OVER_SHOWN:]
        shown = [*(message for message in messages if message.open), *reversed(over)]
        waiting = sum(message.status is MessageStatus.QUEUED for message in messages)
        heading(f"Inbox ({waiting} waiting)" if waiting else "Inbox")
        with ui.column().classes("h-panel w-full p-3 gap-2"):
            if not shown:
                ui.label("no messages").classes("h-dim")
            for message in shown:
                session_parts.message_card(message, self._withdrawing(message.id) if self._session.live else None)

    @ui.refreshable_method
    def _facts(self) -> None:
        session, claimed, totals = self._session, self._session.claimed, self._session.totals
        cost = "" if totals.cost_usd is None else f"${totals.cost_usd:.4f}"
        told = (
            ("model", session.model), ("version", session.cli_version), ("repository", "" if claimed is None else claimed.repo),
            ("branch", "" if claimed is None else claimed.branch),
            ("program", "" if claimed is None else f"pid {session.pid}, {session.mode}"),
            ("tokens", f"{thousands(totals.input_tokens)} in, {thousands(totals.output_tokens)} out"),
            ("cost", cost), ("limits", "" if claimed is None else _bounds(claimed.limits)),
            ("turns", f"{totals.turns}, {totals.tools} tools, {totals.errors} errors"),
            ("its session", session.vendor_session), ("escalated", session.escalated), ("run", session.key),
        )  # fmt: skip
        heading("Facts")
        with ui.grid(columns="auto 1fr").classes("h-panel w-full p-3 gap-x-4 gap-y-1 text-sm"):
            ui.label("age").classes("h-dim")
            age = session_parts.moment(session.started_us)
            if session.exited is not None:
                age.props["data-end"] = session.exited_us / 1e6
            for name, value in told:
                if value:
                    ui.label(name).classes("h-dim")
                    parts.label(value, "break-words min-w-0")

    # What a person does

    def _acting(self, do: Callable[[], Awaitable[None]]) -> Callable[[], Any]:
        async def act() -> None:
            try:
                await do()
            except HarnessError as error:
                ui.notify(str(error), type="negative")

        return act

    async def _send(self) -> None:
        text = str(self._text.value or "")
        placing = Placing(self._placing.value)
        await self._sessions.send(self._key, text, placing=placing, forced=bool(self._force.value))
        self._text.set_value("")

    def _withdrawing(self, message_id: str) -> Callable[[], Any]:
        async def withdraw() -> None:
            status = await self._sessions.withdraw(self._key, message_id, reason="taken back on the page")
            if status is not MessageStatus.WITHDRAWN:
                raise Conflict(f"it cannot be taken back: it is {status}")

        return self._acting(withdraw)

    def _deciding(self, request: str) -> Callable[[bool], Callable[[], Any]]:
        def decided(allow: bool) -> Callable[[], Any]:
            return self._acting(
                lambda: self._sessions.decide(self._key, request, allow=allow, by=self._context.actor, reason="")
            )

        return decided

    async def _interrupt(self) -> None:
        await self._sessions.interrupt(self._key, by=self._context.actor, reason="on the page")

    async def _ask_to_stop(self) -> None:
        """Ask once more: what an agent was doing is gone then."""
        with ui.dialog() as dialog, ui.card():
            parts.label(f"Stop {self._session.id}? Its own exit first, then TERM, then KILL within 30 s.")
            with ui.row().classes("w-full justify-end gap-2"):
                ui.button("no", on_click=lambda: dialog.submit(None)).props("flat no-caps")
                ui.button("kill at once", on_click=lambda: dialog.submit("kill"), color="red-9").props(
                    "outline no-caps data-button=kill"
                )
                ui.button("stop", on_click=lambda: dialog.submit("stop"), color="red-7").props("no-caps data-button=stop-now")
        answer = await dialog
        dialog.delete()
        if answer is not None:
            await self._sessions.stop(self._key, by=self._context.actor, kill=answer == "kill", reason="on the page")


def _bounds(limits: facts.Limits) -> str:
    """What the host enforces, in words."""
    told: list[str] = []
    if limits.max_budget_usd is not None:
        told.append(f"${limits.max_budget_usd:.2f}")
    if limits.max_turns is not None:
        told.append(f"{limits.max_turns} turns")
    if limits.max_wall_seconds is not None:
        told.append(f"{limits.max_wall_seconds:g} s")
    return " · ".join(told)
