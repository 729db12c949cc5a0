"""A service's configuration file: one value changed, every version kept, any version put back byte for byte.

Edits are pure (`edited`); `ConfigFile` is the file with its versions, which are kept in the home under their digests.
An intent is written before a file is replaced, so that after a crash it is known whether that has happened.
Does not decide who may change what.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from harness.errors import UsageError
from harness.recovery.facts import Value
from harness.settings import places
from harness.text import redact

ABSENT = ""
"""The version of a file that does not exist."""

_MAX_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """From one version to another."""

    path: str
    before: str  # SHA-256 of the bytes, or ABSENT
    after: str
    diff: str  # unified, with secrets masked

    @property
    def nothing(self) -> bool:
        return self.before == self.after


def version_of(content: bytes | None) -> str:
    """The name of a version: the digest of its bytes."""
    return ABSENT if content is None else hashlib.sha256(content).hexdigest()


def edited(content: bytes | None, key: str, value: Value, *, suffix: str) -> bytes:
    """The content with one dotted key set, everything else byte for byte as it was; `suffix` is .toml or .json.

    Raises `UsageError` when that cannot be done or would change anything else.
    """
    text = _decoded(content)
    parts = tuple(part.strip() for part in key.split("."))
    if not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in parts):
        raise UsageError(f"{key!r} is no dotted key of letters, digits, `_` and `-`")
    match suffix:
        case ".toml":
            return _edited_toml(text, parts, value).encode()
        case ".json":
            return _edited_json(text, parts, value).encode()
        case _:
            raise UsageError(f"only .toml and .json files can be edited, not {suffix or 'a file without a suffix'!r}")


def _decoded(content: bytes | None) -> str:
    try:
        return (content or b"").decode("utf-8")
    except UnicodeDecodeError as problem:
        raise UsageError(f"the configuration is not UTF-8 at byte {problem.start}") from problem


def _edited_toml(text: str, parts: tuple[str, ...], value: Value) -> str:
    wanted = _with(_parsed_toml(text), parts, value)
    if value is None:
        raise UsageError("TOML has no null; set another value")
    written = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    found = places(text)
    place = found.get(parts)
    if place is not None and place.start < place.end:
        result = f"{text[: place.start]}{written}{text[place.end :]}"
    else:
        result = _with_toml_line(text, parts, written)
    try:
        right = tomllib.loads(result) == wanted
    except tomllib.TOMLDecodeError:
        right = False
    if not right:
        raise UsageError(f"{'.'.join(parts)} cannot be set here without changing something else")
    return result


def _with_toml_line(text: str, parts: tuple[str, ...], written: str) -> str:
    """A new line at the end of the key's own table, or a new table at the end of the file."""
    newline = "\r\n" if "\r\n" in text else "\n"
    table, line = parts[:-1], f"{parts[-1]} = {written}{newline}"
    found = places(text)
    ends = [place.end for key, place in found.items() if key[:-1] == table and place.start < place.end]
    header = found.get(table)
    if header is not None and header.start == header.end:
        ends.append(header.end)
    if ends:
        at = max(ends)
        end = text.find("\n", at)
        head, tail = (text, "") if end < 0 else (text[: end + 1], text[end + 1 :])
        return f"{head}{'' if head.endswith(chr(10)) else newline}{line}{tail}"
    if not table:
        return line + text
    gap = "" if not text else newline if text.endswith("\n") else newline * 2
    return f"{text}{gap}[{'.'.join(table)}]{newline}{line}"


def _parsed_toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise UsageError(f"the configuration is not valid TOML: {problem}") from problem


def _edited_json(text: str, parts: tuple[str, ...], value: Value) -> str:
    try:
        data: Any = json.loads(text) if text.strip() else {}
    except ValueError as problem:
        raise UsageError(f"the configuration is not valid JSON: {problem}") from problem
    if not isinstance(data, dict):
        raise UsageError("the configuration is not a JSON object")
    indent = re.search(r"^\{\s*\n([ \t]+)", text)
    changed = _with(cast("dict[str, Any]", data), parts, value)
    return json.dumps(changed, indent=indent[1] if indent else 2, ensure_ascii=False) + "\n"


def _with(data: dict[str, Any], parts: tuple[str, ...], value: Value) -> dict[str, Any]:
    """A copy with one value set."""
    head, *rest = parts
    if not rest:
        if isinstance(data.get(head), dict | list):
            raise UsageError(f"{head} is a table or a list; only single values can be set")
        return {**data, head: value}
    inner: Any = data.get(head, {})
    if not isinstance(inner, dict):
        raise UsageError(f"{head} is a value, so it has no {'.'.join(rest)}")
    return {**data, head: _with(cast("dict[str, Any]", inner), tuple(rest), value)}


def difference(path: str, before: bytes | None, after: bytes | None) -> str:
    """A unified diff with the values of secret-looking keys masked."""
    lines = difflib.unified_diff(
        (before or b"").decode(errors="replace").splitlines(),
        (after or b"").decode(errors="replace").splitlines(),
        f"{path} (before)" if before is not None else "(absent)",
        f"{path} (after)" if after is not None else "(absent)",
        lineterm="",
    )
    return redact("\n".join(lines))


class ConfigFile:
    """One service's configuration file and its versions."""

    def __init__(self, path: Path, versions: Path) -> None:
        self.path = path
        self._versions = versions

    def content(self) -> bytes | None:
        """What the file holds now; None if it does not exist. Raises `UsageError` if it cannot be read."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise UsageError(f"{self.path}: cannot be read: {problem.strerror}") from problem
        if len(content) > _MAX_BYTES:
            raise UsageError(f"{self.path}: {len(content)} bytes are too many for a configuration")
        return content

    def set(self, key: str, value: Value, *, action_id: str) -> Change:
        """Set one key and put the result in the file's place at once."""
        before = self.content()
        return self._replace(before, edited(before, key, value, suffix=self.path.suffix), action_id)

    def revert(self, version: str, *, action_id: str) -> Change:
        """Put a kept version back, byte for byte. Raises `UsageError` for one that is not kept."""
        return self._replace(self.content(), self.kept(version), action_id)

    def kept(self, version: str) -> bytes | None:
        """The bytes of a version that was before or after a change."""
        if version == ABSENT:
            return None
        if not re.fullmatch(r"[0-9a-f]{64}", version):
            raise UsageError(f"{version!r} is no version: a SHA-256 in hexadecimal")
        try:
            content = (self._versions / version).read_bytes()
        except OSError as problem:
            raise UsageError(f"{self.path}: version {version[:12]} is not kept") from problem
        if version_of(content) != version:
            raise UsageError(f"{self.path}: what is kept as version {version[:12]} has other bytes")
        return content

    def resolve(self, action_id: str) -> Change | None:
        """After a crash: the change that this action intended if it is in the file; None if it never began.

        Raises `UsageError` when somebody else has changed the file since.
        """
        try:
            intent = json.loads((self._versions / _intent_name(action_id)).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        now, before, after = version_of(self.content()), str(intent["before"]), str(intent["after"])
        if now == after:
            return self._change(self.kept(before), self.kept(after))
        if now == before:
            return None
        raise UsageError(f"{self.path}: neither as before nor as after the change; somebody else has written it")

    def _replace(self, before: bytes | None, after: bytes | None, action_id: str) -> Change:
        change = self._change(before, after)
        if change.nothing:
            return change
        try:
            self._versions.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._keep(before)
            self._keep(after)
            intent = json.dumps({"before": change.before, "after": change.after})
            _write(self._versions / _intent_name(action_id), intent.encode(), mode=0o600)
            if after is None:
                self.path.unlink()
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _write(self.path.resolve(), after, mode=_mode(self.path))
        except OSError as problem:
            raise UsageError(f"{self.path}: cannot be changed: {problem.strerror or problem}") from problem
        return change

    def _change(self, before: bytes | None, after: bytes | None) -> Change:
        name = self.path.name
        return Change(
            path=str(self.path), before=version_of(before), after=version_of(after), diff=difference(name, before, after)
        )  # fmt: skip

    def _keep(self, content: bytes | None) -> None:
        if content is not None and not (self._versions / version_of(content)).exists():
            _write(self._versions / version_of(content), content, mode=0o600)


def _intent_name(action_id: str) -> str:
    return f"intent-{hashlib.sha256(action_id.encode()).hexdigest()[:32]}"


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777 if path.exists() else 0o600


def _write(path: Path, content: bytes, *, mode: int) -> None:
    """Put a whole new file in the place at once, on the disk when this returns."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
