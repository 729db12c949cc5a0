"""What was typed: bytes of a terminal as keys, pastes and text. No I/O."""

from __future__ import annotations

import re

PASTE_BEGINS = b"\x1b[200~"
PASTE_ENDS = b"\x1b[201~"
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -Z\\^-~])")

Key = tuple[str, bytes]
"""A kind (text, paste, enter, escape, control, other) and its bytes."""


class Keys:
    """Cuts a stream of bytes into keys; what is not complete waits for the rest."""

    def __init__(self) -> None:
        self._held = b""

    @property
    def undecided(self) -> bool:
        """Whether a lone ESC waits: it is the key unless more comes at once."""
        return self._held == b"\x1b"

    def feed(self, data: bytes) -> list[Key]:
        """The keys that are complete now."""
        self._held += data
        keys: list[Key] = []
        while self._held:
            key, length = self._first()
            if length == 0:
                break
            self._held = self._held[length:]
            if key is not None:
                keys.append(key)
        return keys

    def flush(self) -> list[Key]:
        """What waits, as it is: nothing more comes at once."""
        held, self._held = self._held, b""
        return [("escape", held)] if held else []

    def _first(self) -> tuple[Key | None, int]:
        held = self._held
        if held.startswith(PASTE_BEGINS):
            end = held.find(PASTE_ENDS)
            return (None, 0) if end < 0 else (("paste", held[len(PASTE_BEGINS) : end]), end + len(PASTE_ENDS))
        if held[:1] == b"\x1b":
            match = _SEQUENCE.match(held)
            if match is not None:
                return ("other", match[0]), match.end()
            beginning = len(held) == 1 or held[1:2] in b"[]O"
            return (None, 0) if beginning else (("escape", b"\x1b"), 1)
        if held[:1] in b"\r\n":
            return ("enter", held[:1]), 1
        if held[0] < 0x20 or held[0] == 0x7F:
            return ("control", held[:1]), 1
        end = next((at for at, byte in enumerate(held) if byte < 0x20 or byte == 0x7F), len(held))
        return ("text", held[:end]), end
