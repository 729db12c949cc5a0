"""Where screen rules are: the user's own in HOME/screens, ours beside this module. Apart from `screens`, which is slow."""

from __future__ import annotations

import re
from pathlib import Path

_FOLDER = Path(__file__).parent / "screens"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def find_rules(name: str, home: Path | None = None) -> Path | None:
    """The file with the rules of this name, the user's before ours; None if there is none."""
    if not _NAME.fullmatch(name):
        return None
    folders = [_FOLDER] if home is None else [home / "screens", _FOLDER]
    return next((file for folder in folders if (file := folder / f"{name}.toml").is_file()), None)
