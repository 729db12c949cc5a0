"""Where a rehearsed program keeps its own sessions, so that another process of it can resume them."""

from __future__ import annotations

import json
import os
import re

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class VendorStore:
    """One session's counters in a file of a folder; without a folder nothing is kept and nothing is known."""

    def __init__(self, folder: str, session: str) -> None:
        self._path = os.path.join(folder, f"{session}.json") if folder and _NAME.fullmatch(session) else ""  # noqa: PTH118

    def create(self, counters: dict[str, int]) -> bool:
        """Whether the session is new; it exists from now on."""
        if not self._path:
            return False
        os.makedirs(os.path.dirname(self._path), exist_ok=True)  # noqa: PTH103, PTH120
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return False
        os.write(descriptor, json.dumps(counters).encode())
        os.close(descriptor)
        return True

    def load(self) -> dict[str, int] | None:
        """Its counters; None if there is no such session."""
        try:
            with open(self._path, encoding="utf-8") as file:  # noqa: PTH123
                return json.load(file)
        except OSError:
            return None

    def save(self, counters: dict[str, int]) -> None:
        """Write them so that a death at any moment leaves the old or the new ones."""
        with open(f"{self._path}.new", "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(counters, file)
        os.replace(f"{self._path}.new", self._path)  # noqa: PTH105
