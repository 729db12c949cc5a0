"""What goes from the page's terminal to the program."""

from __future__ import annotations

import pytest

from harness.web.terminal import typed


@pytest.mark.parametrize(
    "reply",
    [
        "\x1b[?1;2c", "\x1b[>0;276;0c", "\x1b[0n", "\x1b[24;80R", "\x1b[?24;80R", "\x1b[?2026;2$y",
        "\x1b]10;rgb:d8d8/dede/e9e9\x07", "\x1b]11;rgb:1414/1717/1c1c\x1b\\", "\x1bP1$r0m\x1b\\", "\x1b[I", "\x1b[O",
    ],
)  # fmt: skip
def test_what_the_terminal_answers_by_itself_is_not_typed(reply: str) -> None:
    """Each of several browsers would answer a program's question, and answer it again when the page is opened."""
    assert typed(f"a{reply}b") == "ab"


@pytest.mark.parametrize(
    "keys", ["ls -la\r", "\x03", "\x1b", "\x1b[A", "\x1b[1;5C", "\x1bOP", "\x1b[200~two\nlines\x1b[201~", "ä漢"]
)
def test_keys_are_typed_as_they_are(keys: str) -> None:
    """Also those that begin with an escape."""
    assert typed(keys) == keys
