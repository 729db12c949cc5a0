"""Splitting output into lines."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.processes import Lines

TEXT = st.text(alphabet="ab\n\r\0", max_size=60).map(str.encode)


@settings(deadline=None)
@given(data=TEXT, cuts=st.lists(st.integers(0, 60), max_size=6))
def test_lines_do_not_depend_on_how_the_bytes_arrive(data: bytes, cuts: list[int]) -> None:
    """However a read cuts the stream, the lines are those of the whole."""
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    lines = Lines()

    found = [line for a, b in pairwise(places) for line in lines.feed(data[a:b])]

    assert found + lines.flush() == (data.split(b"\n") if data[-1:] not in (b"\n", b"") else data.split(b"\n")[:-1])


@settings(deadline=None)
@given(parts=st.lists(TEXT, max_size=6), limit=st.integers(1, 7))
def test_a_long_line_comes_in_pieces(parts: list[bytes], limit: int) -> None:
    """No piece is over the limit, nothing is lost, and less than a line is held back."""
    lines = Lines(max_bytes=limit)

    found = [line for part in parts for line in lines.feed(part)] + lines.flush()

    assert all(len(line) <= limit for line in found)
    assert b"".join(found) == b"".join(parts).replace(b"\n", b"")
    assert found.count(b"") == sum(not line for line in b"".join(parts).split(b"\n")[:-1])


def test_an_unterminated_line_is_not_held_for_ever() -> None:
    """A program that never ends its line fills no memory."""
    lines = Lines(max_bytes=1000)

    found = [line for _ in range(100) for line in lines.feed(b"x" * 999)]

    assert sum(map(len, found)) >= 99_900 - 1000
