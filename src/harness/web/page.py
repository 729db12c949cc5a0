"""The page at `/`: everything of a home at a glance, live, with a person's buttons. `parts` says how each thing looks.

It is pushed over its own socket, without a reload, and every asset comes from this door.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI, Request
from nicegui import app as nicegui_app
from nicegui import ui

from harness.errors import HarnessError
from harness.people import Question
from harness.recovery import approvals, facts
from harness.recovery import pause as pausing
from harness.sessions.client import Sessions
from harness.web import parts, requests, session_page, session_parts
from harness.web.context import Context
from harness.web.errors import body
from harness.web.feed import Feed, View
from harness.web.guard import Access
from harness.web.parts import heading
from harness.web.session_feed import SessionFeed

pages = cast("Any", nicegui_app)  # its callbacks are declared without their arguments

if TYPE_CHECKING:
    from fastapi.responses import Response

_WAITING = "waiting for the ledger …"


def install(app: FastAPI, context: Context, access: Access) -> None:
    """Serve the pages of an application. Once per process: NiceGUI is one per process."""
    sessions = Sessions(context.store, context.home)
    session_feed = SessionFeed(context.store, sessions)
    session_page.install(context, sessions, access, session_feed)
    if context.only:
        _keep_running()
    else:
        feed = Feed(context.store)
        _keep_running(feed, session_feed)
        _install_dashboard(context, access, feed, session_feed)

    @app.api_route("/api/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
    def unknown(rest: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return body(404, "not_found", f"no such path: /api/{rest}; /openapi.json lists them")

    cast("Any", ui).run_with(app, title="Harness", dark=None, show_welcome_message=False, gzip_middleware_factory=None)


def _install_dashboard(context: Context, access: Access, feed: Feed, session_feed: SessionFeed) -> None:
    @ui.page("/")
    def dashboard(request: Request) -> None:  # pyright: ignore[reportUnusedFunction]
        seen = session_feed if access.trusts(request.headers, request.scope) else None
        Page(context, feed, seen, may_act=access.holds_token(request.headers)).build()


def _keep_running(*feeds: Feed | SessionFeed) -> None:
    running: list[asyncio.Task[None]] = []

    def start() -> None:
        running.extend(asyncio.get_running_loop().create_task(feed.run(), name="a page's feed") for feed in feeds)

    async def stop() -> None:
        for task in running:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    pages.on_startup(start)
    pages.on_shutdown(stop)


class Page:
    """One browser's page."""

    def __init__(self, context: Context, feed: Feed, session_feed: SessionFeed | None, *, may_act: bool) -> None:
        self._context = context
        self._feed = feed
        self._session_feed = session_feed  # None: this browser may not see sessions
        self._may_act = may_act
        self._opened: parts.Opened = {}
        self._shown: View | None = feed.view

    def build(self) -> None:
        """Lay the page out, and follow the feed for as long as it is open."""
        ui.add_css(session_page.STYLE)
        ui.add_head_html(session_parts.TICKER)
        ui.query(".nicegui-content").classes("p-0 w-full")
        with ui.header().classes("bg-slate-800 text-white items-center gap-4 py-2"):
            ui.label("Harness").classes("text-xl font-semibold")
            session_page.navigation("overview")
            parts.label(self._context.root, "text-xs opacity-70 grow truncate")
            self._controls()
        with ui.column().classes("w-full max-w-7xl mx-auto p-4 gap-5"):
            with ui.row().classes("w-full gap-8"):
                self._numbers()
            if self._session_feed is not None:
                session_page.Table(self._session_feed, "Agents", live=True).build()
            heading("Services")
            with ui.row().classes("w-full gap-3"):
                self._services()
            heading("Checks")
            with ui.row().classes("w-full gap-3"):
                self._checks()
            with ui.row().classes("w-full gap-5 items-start"):
                with ui.column().classes("w-full lg:w-2/5 gap-3"):
                    heading("Open tickets")
                    self._tickets()
                with ui.column().classes("w-full lg:grow lg:w-1/2 gap-3"):
                    heading("Incidents")
                    self._incidents()
        cast("Any", ui.context.client).on_delete(self._feed.listen(self._show))

    def _show(self, view: View) -> None:
        """Redraw what differs from what is shown."""
        before, self._shown = self._shown, view
        for part, changed in (
            (self._controls, before is None or _state(before) != _state(view)),
            (self._numbers, before is None or before.statistics != view.statistics),
            (self._services, before is None or before.overview.services != view.overview.services),
            (self._checks, before is None or before.overview.checks != view.overview.checks),
            (self._tickets, before is None or _asked(before) != _asked(view)),
            (self._incidents, before is None or before.stories != view.stories),
        ):
            if changed:
                part.refresh()

    @ui.refreshable_method
    def _controls(self) -> None:
        if self._shown is None:
            return
        seen = self._shown.overview
        parts.chip("supervised" if seen.supervised else "no supervisor", "good" if seen.supervised else "bad")
        if seen.paused:
            parts.chip("paused", "busy")
        if self._may_act:
            text, act = ("unpause", self._unpause) if seen.paused else ("pause", self._pause)
            ui.button(text, on_click=act).props(f"dense outline no-caps color=white data-button={text}")

    @ui.refreshable_method
    def _numbers(self) -> None:
        if self._shown is not None:
            parts.numbers(self._shown.statistics, len(self._shown.overview.tickets))

    @ui.refreshable_method
    def _services(self) -> None:
        for row in self._shown.overview.services if self._shown else ():
            breakable = self._may_act and self._context.chaos and not row.own
            parts.service_card(
                row,
                chaos=self._chaos(row.name) if breakable else None,
                restart=self._acting(lambda name=row.name: self._restart(name)) if self._may_act and not row.own else None,
            )

    @ui.refreshable_method
    def _checks(self) -> None:
        for row in self._shown.overview.checks if self._shown else ():
            parts.check_card(row)

    @ui.refreshable_method
    def _tickets(self) -> None:
        tickets = self._shown.overview.tickets if self._shown else ()
        if not tickets:
            parts.label("none" if self._shown else _WAITING, "text-grey-6")
        for row in tickets:
            asked = [question for question in self._shown.questions if question.subject == row.id] if self._shown else []
            parts.ticket_card(row, asked, self._answer if self._may_act else None)

    @ui.refreshable_method
    def _incidents(self) -> None:
        stories = self._shown.stories if self._shown else ()
        if not stories:
            parts.label("none so far", "text-grey-6")
        for number, story in enumerate(stories):
            parts.story_panel(story, self._opened, newest=number == 0)

    # What a person does

    def _acting(self, do: Callable[[], Any]) -> Callable[[], Any]:
        """A handler that does it and tells the person what went wrong, if something did."""

        async def act() -> None:
            try:
                await do()
            except HarnessError as error:
                ui.notify(str(error), type="negative")

        return act

    async def _pause(self) -> None:
        await pausing.pause(self._context.store, by=self._context.actor, reason="on the page")

    async def _unpause(self) -> None:
        await pausing.unpause(self._context.store, by=self._context.actor, reason="on the page")

    def _answer(self, question: Question, approved: bool) -> Callable[[], Any]:
        return self._acting(
            lambda: approvals.answer(
                self._context.store, question.subject, approved=approved, by=self._context.actor, question=question.id
            )
        )

    def _chaos(self, service: str) -> Callable[[facts.ChaosKind], Callable[[], Any]]:
        return lambda kind: self._acting(
            lambda: requests.break_service(self._context.store, kind, service, by=self._context.actor)
        )

    async def _restart(self, service: str) -> None:
        answer = await requests.act(
            self._context.store, facts.ActionKind.RESTART_SERVICE, service, by=self._context.actor, reason="on the page"
        )
        if isinstance(answer, facts.ActionRefused):
            raise HarnessError(f"refused: {answer.reason}")


def _state(view: View) -> tuple[bool, bool]:
    return view.overview.supervised, view.overview.paused


def _asked(view: View) -> tuple[object, object]:
    return view.overview.tickets, view.questions
