"""What programs tell their terminal besides text: titles, their own status, bracketed paste; cut anywhere, and bounded."""

from __future__ import annotations

import base64
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.sessions.dialects.program_status import QUESTION, ProgramStatus, parse_status
from harness.sessions.dialects.titles import MAX_BYTES, PasteMode, Signal, StatusAsked, StatusTold, Title, TitleScanner


def scanned(*pieces: bytes) -> list[Signal]:
    scanner = TitleScanner()
    return [signal for piece in pieces for signal in scanner.feed(piece)]


@pytest.mark.parametrize(
    ("data", "signal"),
    [
        ("\x1b]0;✳ Claude Code\x07".encode(), Title("✳ Claude Code")),
        ("\x1b]2;⠋ w\x1b\\".encode(), Title("⠋ w")),
        (b"\x1b]0;\x07", Title("")),
        (b"\x1b]0;\xff\xfe\x07", Title("\ufffd\ufffd")),
        (b"\x1b]7501;state=idle:app=codex\x1b\\", StatusTold("state=idle:app=codex")),
        (QUESTION, StatusAsked()),
        (b"\x1b]7501;?\x07", StatusAsked()),
        (b"\x1b[?2004h", PasteMode(on=True)),
        (b"\x1b[?2004l", PasteMode(on=False)),
        (b"\x1b[?1049;2004h", PasteMode(on=True)),
    ],
)
def test_a_signal_is_found_in_text(data: bytes, signal: Signal) -> None:
    """Wherever it stands."""
    assert scanned(b"text \x1b[31m" + data + b"\r\nmore") == [signal]


@pytest.mark.parametrize(
    "data",
    [
        b"\x1b]0;cancelled\x18",
        b"\x1b]0;cut short\x1b[31m",
        b"\x1b]8;;http://example.invalid\x07link\x1b]8;;\x07",
        b"\x1b]1;an icon's name\x07",
        b"\x1b[?2026h",
        b"\x1b[2004h",
        b"20042004;2004",
        b"\x1b]0;" + b"x" * (MAX_BYTES + 1) + b"\x07",
    ],
)
def test_what_is_none_is_not_found(data: bytes) -> None:
    """Cancelled, too long, or something else."""
    assert scanned(data) == []


def test_a_title_is_cleaned_and_clipped() -> None:
    """It is text from outside, and ends up in the ledger."""
    (signal,) = scanned("\x1b]0;a\u202eb".encode() + b"c" * 1000 + b"\x07")

    assert isinstance(signal, Title)
    assert signal.text.startswith("abc")
    assert len(signal.text) == 256


def test_a_sequence_without_end_takes_no_memory() -> None:
    """What follows a title that never ends is read all the same."""
    scanner = TitleScanner()
    scanner.feed(b"\x1b]0;")
    for _ in range(100):
        scanner.feed(b"x" * 10_000)

    assert sys.getsizeof(scanner._held) < 2 * MAX_BYTES
    assert scanner.feed(b"\x07\x1b]0;next\x07") == [Title("next")]


SIGNALS = st.sampled_from(
    [
        b"\x1b]0;title\x07", b"\x1b]2;other\x1b\\", b"\x1b]7501;state=done\x1b\\", b"\x1b]7501;?\x1b\\", b"\x1b[?2004h",
        b"\x1b[?2004l", b"\x1b]0;cut\x1b]0;whole\x07", b"\x1b]", b"\x1b[?", b"\x1b", b"\x1b[?1;", b"2004h", b"0;x\x07",
        b"\x1b\\", b"\x18",
    ]
)  # fmt: skip
PIECES = st.lists(st.one_of(SIGNALS, st.binary(max_size=8)), max_size=20)


def by_kind(signals: list[Signal]) -> dict[type, list[Signal]]:
    """Those of each kind in their order; between kinds there is none that matters."""
    return {kind: [each for each in signals if type(each) is kind] for kind in (Title, StatusTold, StatusAsked, PasteMode)}


@settings(deadline=None)
@given(PIECES, st.data())
def test_where_output_is_cut_makes_no_difference(pieces: list[bytes], data: st.DataObject) -> None:
    """However it is read, the same signals are found."""
    output = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(min_value=0, max_value=len(output)), max_size=10)))
    parts = [output[start:end] for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True)]

    assert by_kind(scanned(*parts)) == by_kind(scanned(output))


@settings(deadline=None)
@given(PIECES)
def test_byte_by_byte_is_the_same(pieces: list[bytes]) -> None:
    """Also in the smallest pieces."""
    output = b"".join(pieces)

    assert by_kind(scanned(*(output[place : place + 1] for place in range(len(output))))) == by_kind(scanned(output))


# The Program Status Protocol


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("state=idle:app=codex", ProgramStatus(stage="idle", app="codex")),
        ("state=working", ProgramStatus(stage="working")),
        (
            f"state=blocked:app=claude-code:kind=permission:msg={encoded('approve Bash: touch made.txt')}",
            ProgramStatus(stage="blocked", kind="permission", app="claude-code", message="approve Bash: touch made.txt"),
        ),
        ("state=working:id=bu7w71wvv:title=Ymc=", ProgramStatus(stage="working", id="bu7w71wvv")),
        ("state=done:kind=permission", ProgramStatus(stage="done")),
        ("state=blocked:kind=lunch", ProgramStatus(stage="blocked")),
        ("nonsense:state=error:future=1", ProgramStatus(stage="error")),
        ("state=idle:state=working", ProgramStatus(stage="working")),
        (f"state=done:msg={encoded('ä').rstrip('=')}", ProgramStatus(stage="done", message="ä")),
    ],
)
def test_a_status_is_read(body: str, status: ProgramStatus) -> None:
    """As the specification has it: unknown keys are ignored, and the last of two counts."""
    assert parse_status(body) == status


@pytest.mark.parametrize(
    "body",
    [
        "",
        "state=",
        "state=asleep",
        "kind=permission",
        f"state=done:msg={encoded('a' + chr(27) + 'b')}",
        "state=done:msg=A",
        "state=done:msg=/w==",
    ],
)
def test_a_status_that_a_terminal_must_ignore_is_ignored(body: str) -> None:
    """No state, one that is not known, text that is none or that has control characters."""
    assert parse_status(body) is None


@settings(deadline=None)
@given(st.text(max_size=200))
def test_no_status_makes_it_raise(body: str) -> None:
    """It is text from outside."""
    parse_status(body)
