"""Which texts are paths inside a root at all. Pure: what a path really leads to is `rooted`'s to find out."""

from __future__ import annotations

MAX_PATH_CHARACTERS = 4096


def relative_parts(path: str) -> tuple[str, ...]:
    """The components of a relative path that stays below where it starts. Raises `ValueError` saying what is wrong.

    `.` and empty components are nothing. A component `.git` is refused whatever its case: what git keeps there decides
    which programs git runs.
    """
    if "\0" in path:
        raise ValueError("a path may not contain NUL")
    if len(path) > MAX_PATH_CHARACTERS:
        raise ValueError(f"a path has at most {MAX_PATH_CHARACTERS} characters, not {len(path)}")
    if path.startswith(("/", "~")):
        raise ValueError(f"{path[:100]!r} is not relative to the sandbox root")
    if "\\" in path:
        raise ValueError(f"{path[:100]!r} has a backslash; components are divided by '/'")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if ".." in parts:
        raise ValueError(f"{path[:100]!r} leads out of the sandbox root by '..'")
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path[:100]!r} is not valid Unicode") from None
    return checked_parts(parts)


def checked_parts(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The components, if none of them is git's own. Raises `ValueError`."""
    for part in parts:
        if part.casefold().rstrip(". ") == ".git":
            raise ValueError(f"{'/'.join(parts)[:100]!r} leads into git's own files")
    return parts


def check_path(path: str) -> str:
    """The path itself. Raises `ValueError`, as pydantic wants it."""
    relative_parts(path)
    return path


def check_argument(argument: str) -> str:
    """One word of a command, if it names nothing outside the directory it runs in. Raises `ValueError`.

    An option's value is looked at too: `--rootdir=/etc` and `-c../x.ini` are refused as `/etc` and `../x.ini` are.
    """
    if "\0" in argument:
        raise ValueError("an argument may not contain NUL")
    value = argument.rpartition("=")[2]
    for text in {argument, value}:
        words = text.replace(":", "/").split("/")
        if text.startswith(("/", "~")) or ".." in words or (text.startswith("-") and any(w.endswith("..") for w in words)):
            raise ValueError(f"{argument[:100]!r} names something outside the sandbox")
        if text.startswith("-") and "/" in text and text.lstrip("-")[1:2] == "/":
            raise ValueError(f"{argument[:100]!r} names something outside the sandbox")
    return argument
