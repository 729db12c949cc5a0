"""What commands print: JSON for machines, tables and short lines for people. It decides no content."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

MICROSECONDS = 1_000_000


def json_line(value: object) -> None:
    """One JSON value on one line of stdout, keys in the order given."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def line(text: str = "") -> None:
    """One line for a person."""
    print(text)


def note(text: str) -> None:
    """A remark for a person that is not the result: stderr."""
    print(text, file=sys.stderr)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str, cut: bool = False) -> None:
    """Aligned columns; `empty` is said instead when there are no rows. Text is shown as it is, without markup.

    Where a terminal is too narrow, cells are folded. With `cut` only the last column is shortened, and the others, such as
    ids that are to be copied, stay whole.
    """
    listed = [[plain("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not listed:
        note(empty)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if cut and sys.stdout.isatty():
        _cut(listed, headings, Console().width)
    wide = cut or not sys.stdout.isatty()
    console = Console(highlight=False, soft_wrap=wide, width=10_000 if wide else None)
    view = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        view.add_column(heading, overflow="fold")
    for row in listed:
        view.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    console.print(view)


def _cut(rows: list[list[str]], headings: Sequence[str], width: int) -> None:
    """Shorten the last cells to what the others leave of the width."""
    from rich.cells import cell_len
    from rich.text import Text

    others = sum(max(map(cell_len, column)) + _GAP for column in list(zip(headings, *rows, strict=True))[:-1])
    for row in rows:
        last = Text(row[-1])
        last.truncate(max(width - others, _LEAST), overflow="ellipsis")
        row[-1] = last.plain


_GAP = 3  # between two columns
_LEAST = 12  # of the last column; a terminal that has less room breaks the line itself
_COLOURS = {
    "up": "green", "ready": "green", "running": "green", "pass": "green", "completed": "green", "ok": "green",
    "down": "red", "fail": "red", "failed": "red", "error": "red", "blocked": "red",
    "unknown": "yellow", "starting": "yellow", "in_progress": "yellow", "verifying": "yellow", "parked": "yellow",
}  # fmt: skip


def plain(text: str) -> str:
    """Text on one line, without anything that could steer a terminal or mislead a reader."""
    from harness.text import sanitise

    return " ".join(sanitise(text).split("\n")).replace("\t", " ")


def ago(then_us: int | None, now_us: int) -> str:
    """How long ago, in words of one unit: `12 s`, `3 min`, `5 h`, `2 d`."""
    if then_us is None:
        return "-"
    seconds = max(0, (now_us - then_us) // MICROSECONDS)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def now_us() -> int:
    """The time, in microseconds since 1970."""
    import time

    return time.time_ns() // 1000


def clock_time(us: int) -> str:
    """A moment as local time of day with milliseconds."""
    from datetime import datetime

    return datetime.fromtimestamp(us / MICROSECONDS).astimezone().strftime("%H:%M:%S.%f")[:-3]
