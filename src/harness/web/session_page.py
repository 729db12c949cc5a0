"""The pages of agents' sessions, and the table of them, which is pushed anew when a session's event comes."""

from __future__ import annotations

from typing import Any, cast

from fastapi import Request
from nicegui import ui

from harness.errors import HarnessError
from harness.sessions.client import Sessions
from harness.web import parts, session_parts
from harness.web.context import Context
from harness.web.guard import Access
from harness.web.parts import heading
from harness.web.session_feed import Rows, SessionFeed
from harness.web.session_view import SessionView
from harness.web.sessions import run_of

_NOT_YOURS = (
    "Sessions are shown to the user whom this door runs for. Open the page once with ?token=… at the end of its address, "
    "where the token is web.token or HARNESS_WEB_TOKEN."
)
STYLE = """
:root { --h-good: #388e3c; --h-bad: #d32f2f; --h-busy: #ff8f00; --h-none: #9e9e9e; }
body { background: #f5f6f8; } body.body--dark { background: #14171c; }
.h-panel { background: white; border-radius: 6px; box-shadow: 0 1px 3px rgb(0 0 0 / 16%); }
body.body--dark .h-panel { background: #1f2937; }
.h-soft { background: #f1f3f5; } body.body--dark .h-soft { background: #111827; }
.h-mine { background: #e3f2fd; } body.body--dark .h-mine { background: #1e3a5f; }
.h-ask { background: #fff8e1; border-left: 4px solid #ffa000; } body.body--dark .h-ask { background: #33290f; }
.h-dim { color: #69727d; } body.body--dark .h-dim { color: #a3abb8; }
.h-terminal { background: #14171c; border: 1px solid #374151; border-radius: 6px; overflow: auto; padding: 8px; }
"""


def install(context: Context, sessions: Sessions, access: Access, feed: SessionFeed) -> None:
    """Serve the pages."""

    def trusted(request: Request) -> bool:
        return access.trusts(request.headers, request.scope)

    async def one(request: Request, name: str) -> None:
        _head(context, "sessions")
        if not trusted(request):
            _refused()
            return
        try:
            row = await run_of(name, context, sessions)
        except HarnessError as error:
            with ui.column().classes("w-full max-w-screen-2xl mx-auto p-4"):
                parts.label(error, "text-lg").props["data-error"] = "not-found"
            return
        await SessionView(context, sessions, row).build()

    if context.only:

        @ui.page("/")
        async def only(request: Request) -> None:  # pyright: ignore[reportUnusedFunction]
            await one(request, context.only)

        return

    @ui.page("/sessions")
    def listed(request: Request) -> None:  # pyright: ignore[reportUnusedFunction]
        _head(context, "sessions")
        if not trusted(request):
            _refused()
            return
        with ui.column().classes("w-full max-w-screen-2xl mx-auto p-4 gap-5"):
            Table(feed, "Running", live=True, empty="none; `harness run claude --detach` starts one").build()
            Table(feed, "Ended", live=False, empty="none so far").build()

    @ui.page("/sessions/{name}")
    async def session(request: Request, name: str) -> None:  # pyright: ignore[reportUnusedFunction]
        await one(request, name)


def navigation(here: str) -> None:
    """The links between the pages, in the header."""
    for name, target in (("overview", "/"), ("sessions", "/sessions")):
        ui.link(name, target).classes(
            f"text-white no-underline text-sm {'font-semibold' if name == here else 'opacity-70'}"
        ).props(f"data-link={name}")  # fmt: skip


def _head(context: Context, here: str) -> None:
    ui.add_css(STYLE)
    ui.add_head_html(session_parts.TICKER)
    ui.query(".nicegui-content").classes("p-0 w-full")
    with ui.header().classes("bg-slate-800 text-white items-center gap-4 py-2"):
        ui.label("Harness").classes("text-xl font-semibold")
        if not context.only:
            navigation(here)
        parts.label(context.root, "text-xs opacity-70 grow truncate")


def _refused() -> None:
    with ui.column().classes("w-full max-w-screen-2xl mx-auto p-4"):
        ui.label(_NOT_YOURS).props["data-error"] = "token"


class Table:
    """One browser's table of sessions under its heading. Without words for an empty one, that is not there at all."""

    def __init__(self, feed: SessionFeed, name: str, *, live: bool, empty: str = "") -> None:
        self._feed = feed
        self._name = name
        self._live = live
        self._empty = empty
        self._shown: list[dict[str, Any]] | None = None
        self._whole: Any = None
        self._table: Any = None
        self._none: Any = None

    def build(self) -> None:
        """Put it where we are, and follow the feed for as long as the page is open."""
        with ui.column().classes("w-full gap-3") as self._whole:
            heading(self._name)
            self._none = parts.label(self._empty, "h-dim")
            self._table = session_parts.table(self._name.lower()).classes("h-panel")
        self._show(self._feed.rows or ())
        cast("Any", ui.context.client).on_delete(self._feed.listen(self._show))

    def _show(self, rows: Rows) -> None:
        shown = session_parts.rows_of(row for row in rows if row.live == self._live)
        if shown == self._shown:
            return
        self._shown = shown
        self._table.rows = shown
        self._table.update()
        self._table.set_visibility(bool(shown))
        self._none.set_visibility(not shown)
        self._whole.set_visibility(bool(shown or self._empty))
