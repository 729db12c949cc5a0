"""A session's terminal in the page: fed from its host's socket, read-only until somebody asks to type.

The browser is never sent more than it can take: what comes while it draws is gathered, and of too much the middle is left
out and the program asked to paint its window anew.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import re
from collections.abc import Callable
from typing import Any, cast

from nicegui import ui

from harness.errors import HarnessError, NotFound
from harness.processes import LogReader
from harness.sessions import Folder
from harness.sessions.client import panes
from harness.sessions.client.terminal_feed import TerminalFeed, open_terminal
from harness.web.session_rows import files_of

_HELD_BYTES = 1 << 18  # that the browser may be behind
_KEPT_BYTES = 1 << 15
_TYPED_CHARACTERS = 1 << 16
_DRAW_SECONDS = 10.0
_GATHER_SECONDS = 0.02
_OUR_COLOURS = {"background": "#14171c", "foreground": "#d8dee9", "cursor": "#88c0d0", "selectionBackground": "#3b4252"}
_REPLIES = re.compile(
    "\x1b\\[[?>=]?[0-9;]*[cnRy]"  # what it is, how it is, where the cursor is, which modes it has
    "|\x1b\\[[?>]?[0-9;]*\\$y"
    "|\x1b[]P][^\x07\x1b]*(?:\x07|\x1b\\\\)"  # colours, settings
    "|\x1b\\[[IO]"  # that it has or lost the focus
)
"""What the browser's terminal answers to a program's questions; the host answers those, once for all who watch."""
_FIT = """
const terminal = getElement(%d).terminal, box = getElement(%d).$el.parentElement;
const fit = () => {
  const size = Math.max(7, Math.min(14, Math.floor((box.clientWidth - 22) / (terminal.cols * 0.602) * 4) / 4));
  if (terminal.options.fontSize !== size) terminal.options.fontSize = size;
};
new ResizeObserver(fit).observe(box); fit(); window.hFit = fit;
"""


def typed(text: str) -> str:
    """What a person has typed, without what the browser's terminal says by itself."""
    return _REPLIES.sub("", text[:_TYPED_CHARACTERS])


class LiveTerminal:
    """One browser's view of one session's terminal."""

    def __init__(self, folder: Folder, told: Callable[[str], None]) -> None:
        self._folder = folder
        self._told = told
        self._feed: TerminalFeed | None = None
        self._widget: Any = None
        self._size = (0, 0)
        self._held = bytearray()  # for the browser, which has not asked for it yet
        self._cut = False  # whether something was left out of that
        self._more = asyncio.Event()
        self._again = asyncio.Event()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.typing = False

    def build(self) -> None:
        """Put the widget where we are."""
        self._size = self._window()
        columns, rows = self._size
        options = {
            "cols": columns, "rows": rows, "fontSize": 12, "fontFamily": "'DejaVu Sans Mono', Menlo, Consolas, monospace",
            "theme": _OUR_COLOURS, "scrollback": 2000, "cursorBlink": False, "disableStdin": True,
        }  # fmt: skip
        self._widget = cast("Any", ui).xterm(options)
        self._widget.on("data", self._typed)

    def nudge(self) -> None:
        """Something has happened to the session: worth another attempt to see its terminal."""
        self._again.set()

    def let_type(self, wanted: bool) -> None:
        """Whether what is typed here goes to the program."""
        self.typing = wanted
        self._script(f"terminal.options.disableStdin = {str(not wanted).lower()}; {'terminal.focus();' if wanted else ''}")

    async def run(self, live: Callable[[], bool]) -> None:
        """Show the terminal for as long as the session lives and this is not cancelled; then what it left."""
        await self._widget.client.connected()
        self._widget.client.run_javascript(_FIT % (self._widget.id, self._widget.id))
        async with asyncio.TaskGroup() as tasks:
            drawing = tasks.create_task(self._draw())
            try:
                while live():
                    self._again.clear()
                    try:
                        await self._connected()
                    except NotFound:
                        self._told("waiting for its terminal …")
                    except HarnessError as error:
                        self._told(str(error))
                    if live():
                        await self._again.wait()
                await self._left()
                await drawing
            finally:
                drawing.cancel()

    async def _connected(self) -> None:
        """Show what comes, until the connection ends."""
        self._feed = feed = await open_terminal(self._folder)
        try:
            self._told("")
            self._take(b"\x1bc")  # what was there before is told again
            await self._repaint()
            async with contextlib.aclosing(feed.output()) as output:
                async for data in output:
                    self._take(data)
        finally:
            self._feed = None
            feed.close()

    async def _left(self) -> None:
        """What is left of a session that nobody hosts any more, from its transcript."""
        files = files_of(self._folder)
        if files is None:
            self._told("its terminal is not on this machine")
            return
        log = LogReader(files / self._folder.transcript.name)
        self._take(b"\x1bc" + log.read(max(log.start, log.end - _KEPT_BYTES * 2)).data + b"\x1b[?25l")
        self._told("")

    def _take(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > _HELD_BYTES:
            self._held[:] = b"\x1bc" + self._held[-_KEPT_BYTES:]
            self._cut = True
        self._more.set()

    async def _draw(self) -> None:
        """Give the browser what there is, and more when it has drawn that."""
        while True:
            await self._more.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._more.clear()
            text, cut = self._decoder.decode(bytes(self._held)), self._cut
            self._held.clear()
            self._cut = False
            self._resize()
            with contextlib.suppress(TimeoutError):
                await self._widget.run_method("write", text, timeout=_DRAW_SECONDS)
            if cut:
                await self._repaint()

    def _resize(self) -> None:
        """Follow the window, which somebody else may have resized: then the program has painted it anew."""
        size = self._window()
        if size != self._size:
            self._size = size
            self._script(f"terminal.resize({size[0]}, {size[1]}); window.hFit && window.hFit();")

    async def _repaint(self) -> None:
        """Ask the program to paint its window anew, in the size that it has."""
        files = files_of(self._folder)
        if self._feed is not None and files is not None and (files / "size").exists():
            columns, rows = panes.window(self._folder)
            await self._feed.resize(columns=columns, rows=rows)

    def _window(self) -> tuple[int, int]:
        files = files_of(self._folder)
        columns, rows = (120, 40) if files is None else panes.window(self._folder)
        return min(max(columns, 2), 500), min(max(rows, 2), 200)

    def _script(self, code: str) -> None:
        self._widget.client.run_javascript(f"const terminal = getElement({self._widget.id}).terminal; {code}")

    async def _typed(self, event: Any) -> None:
        text = typed(str(event.args)) if self.typing else ""
        if not text or self._feed is None:
            return
        try:
            await self._feed.type(text.encode("utf-8", "replace"))
        except HarnessError as error:
            ui.notify(str(error), type="negative")
