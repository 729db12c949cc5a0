"""What the user configured: where the home is, what `harness.toml`, `HARNESS_*` and flags say, and who wins.

Owns finding and reading the files, precedence (flag over environment over file over default) and errors that name
file and line. Does not own any section: each package gives the struct of its own to `Settings.section`.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_origin

import msgspec

from harness import home as home_names
from harness.errors import HarnessError, SettingsError, UsageError
from harness.home import CONFIG_NAME, HOME_NAME

SECTIONS = ("agent", "envelope", "invariants", "monitor", "services", "sessions", "slos", "web")
SCALARS = ("database",)
_PREFIX = "HARNESS_"
_NOT_SETTINGS = ("HARNESS_HOME", "HARNESS_CONFIG", "HARNESS_TAG", "HARNESS_CHAOS_FILE")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")

T = TypeVar("T")

Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
"""A time for a section's field: above zero, and no `nan` or `inf`, which TOML has."""
SecondsOrNone = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
"""The same, where zero makes sense."""
Count = Annotated[int, msgspec.Meta(ge=1)]
"""A number of things, of which there has to be one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key of a TOML text stands; `start` and `end` enclose its value (a header's place is empty)."""

    line: int  # from 1
    start: int
    end: int


def places(text: str) -> dict[tuple[str, ...], Place]:
    """Where each key and table header of a valid TOML text stands; keys of inline tables are not listed."""
    return _Scanner(text).scan()


class _Scanner:
    """Walks valid TOML; what `tomllib` accepts is all that it has to understand."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[tuple[str, ...], Place] = {}

    def scan(self) -> dict[tuple[str, ...], Place]:
        table: tuple[str, ...] = ()
        while self._skip_blank():
            start = self.at
            if self.text[self.at] == "[":
                self.at += 2 if self.text.startswith("[[", self.at) else 1
                table = self._key()
                self.at = self.text.index("]", self.at) + 1
                self.at += self.text.startswith("]", self.at)
                self._note(table, start, self.at, self.at)
                continue
            key = (*table, *self._key())
            self.at += 1  # the equals sign
            self._skip_spaces()
            begin = self.at
            self._value()
            self._note(key, start, begin, self.at)
        return self.found

    def _note(self, key: tuple[str, ...], at: int, start: int, end: int) -> None:
        self.found.setdefault(key, Place(self.text.count("\n", 0, at) + 1, start, end))

    def _skip_blank(self) -> bool:
        match = _BLANK.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at < len(self.text)

    def _skip_spaces(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in " \t":
            self.at += 1

    def _key(self) -> tuple[str, ...]:
        parts: list[str] = []
        while True:
            self._skip_spaces()
            start = self.at
            if self.text[self.at] in "\"'":
                self._string()
                parts.append(str(tomllib.loads(f"k = {self.text[start : self.at]}")["k"]))
            else:
                match = _BARE.match(self.text, self.at)
                self.at = match.end() if match else self.at + 1
                parts.append(self.text[start : self.at])
            self._skip_spaces()
            if self.at >= len(self.text) or self.text[self.at] != ".":
                return tuple(parts)
            self.at += 1

    def _string(self) -> None:
        quote = self.text[self.at]
        mark = quote * 3 if self.text.startswith(quote * 3, self.at) else quote
        self.at += len(mark)
        while not self.text.startswith(mark, self.at):
            self.at += 2 if quote == '"' and self.text[self.at] == "\\" else 1
        self.at += len(mark)
        while len(mark) == 3 and self.text.startswith(quote, self.at):  # a quote may stand right before the closing three
            self.at += 1

    def _value(self) -> None:
        depth = 0
        end = self.at
        while self.at < len(self.text):
            sign = self.text[self.at]
            if sign in "\"'":
                self._string()
            elif sign == "#" and depth:
                self._skip_blank()
                continue
            elif depth == 0 and sign in "#\n":
                break
            else:
                depth += (sign in "[{") - (sign in "]}")
                self.at += 1
            end = self.at if not sign.isspace() else end
        self.at = end


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A TOML file as read, which knows the line of each of its keys."""

    path: Path
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def where(self, *keys: str) -> str:
        """`file:line` of the key, or of the nearest table around it."""
        found = places(self.text)
        for length in range(len(keys), 0, -1):
            inside = [place.line for key, place in found.items() if key[:length] == keys[:length]]
            if inside:
                return f"{self.path}:{min(inside)}"
        return str(self.path)

    def table(self, *keys: str, error: type[HarnessError] = SettingsError) -> Mapping[str, Any]:
        """The table under these keys; empty if absent. Raises `error` if it is not a table."""
        value: Mapping[str, Any] = self.data
        for depth, key in enumerate(keys, 1):
            inner: Any = value.get(key, {})
            if not isinstance(inner, dict):
                raise error(
                    f"{self.where(*keys[:depth])}: {'.'.join(keys[:depth])} must be a table, as [{'.'.join(keys[:depth])}]"
                )
            value = cast("Mapping[str, Any]", inner)
        return value


def read_document(path: Path) -> Document:
    """Read a TOML file. Raises `SettingsError` with file and line when it is missing or not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise SettingsError(f"{path}: not UTF-8 at byte {problem.start}") from problem
    except OSError as problem:
        raise SettingsError(f"{path}: cannot be read: {problem.strerror}") from problem
    return parse_document(text, path)


def parse_document(text: str, path: Path) -> Document:
    """A TOML text that is known as `path`. Raises `SettingsError` with file and line when it is not TOML."""
    try:
        return Document(path=path, text=text, data=tomllib.loads(text))
    except tomllib.TOMLDecodeError as problem:
        match = re.search(r"^(.*) \(at line (\d+), column \d+\)$", str(problem))
        line, said = (match[2], match[1]) if match else (str(text.count("\n") + 1), str(problem))
        raise SettingsError(f"{path}:{line}: not valid TOML: {said}") from problem


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`; did you mean 'x'?` with the known word that is nearest, or what is known when none is near."""
    words = sorted(known)
    match = difflib.get_close_matches(word, words, 1, cutoff)
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; known: {', '.join(words)}" if words else ""


def refuse_unknown(
    document: Document, keys: tuple[str, ...], known: Iterable[str], *, error: type[HarnessError] = SettingsError
) -> None:
    """Raise `error` for the first key of a table that nobody reads."""
    names = tuple(known)
    for key in document.table(*keys, error=error):
        if key not in names:
            place = f" in [{'.'.join(keys)}]" if keys else ""
            raise error(f"{document.where(*keys, key)}: unknown key {key!r}{place}{nearest(key, names)}")


def convert(
    document: Document,
    keys: tuple[str, ...],
    shape: type[T],
    *,
    extra: Mapping[str, Any] | None = None,
    hidden: Iterable[str] = (),
    error: type[HarnessError] = SettingsError,
) -> T:
    """The table under `keys` as a struct, with `extra` over it; `hidden` fields are no keys of the file.

    Raises `error` with file and line for an unknown key or a value of another type.
    """
    table = dict(document.table(*keys, error=error))
    refuse_unknown(document, keys, set(field_names(shape)) - set(hidden), error=error)
    try:
        return msgspec.convert({**table, **(extra or {})}, shape, strict=True)
    except msgspec.ValidationError as problem:
        said, _, at = str(problem).partition(" - at `$")
        inner = tuple(part for part in re.split(r"[.\[\]`]+", at) if part and part != "..." and not part.isdigit())
        path = (*keys, *inner)
        raise error(f"{document.where(*path)}: {'.'.join(path)}: {said[:1].lower()}{said[1:]}") from problem


def field_names(shape: type[Any]) -> tuple[str, ...]:
    """The keys that a struct is read from."""
    return tuple(name for name in shape.__struct_encode_fields__ if not name.startswith("_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything configured, by precedence: flag, environment, file, default."""

    home: Path
    root: Path  # of the project; relative paths in harness.toml start here
    document: Document
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    flags: Mapping[str, Any] = field(default_factory=dict[str, Any])  # by dotted name: `web.port`

    @property
    def database(self) -> str:
        """The ledger's place: a path, or a `postgresql://` address."""
        given = self.flags.get("database") or self.environment.get("HARNESS_DATABASE") or self.document.data.get("database")
        if given is None:
            return str(self.home / "harness.db")
        if not isinstance(given, str):
            raise SettingsError(f"{self.document.where('database')}: database: expected a path or an address as a string")
        return given if "://" in given else str(self.root / given)

    def section(self, name: str, shape: type[T]) -> T:
        """A package's own section as its struct. Raises `SettingsError` for what does not fit."""
        self._refuse_unread(name, shape)
        given = {key: self.flags[f"{name}.{key}"] for key in field_names(shape) if self.flags.get(f"{name}.{key}") is not None}
        spoken = {key: value for key in field_names(shape) if (value := self._environment(name, key, shape)) is not None}
        return convert(self.document, (name,), shape, extra={**spoken, **given})

    def _environment(self, section: str, key: str, shape: type[Any]) -> object:
        variable = f"{_PREFIX}{section}_{key}".upper()
        text = self.environment.get(variable)
        if text is None:
            return None
        kind = next(known.type for known in msgspec.structs.fields(shape) if known.encode_name == key)
        value = text.split(",") if get_origin(kind) is tuple else text
        try:
            return msgspec.to_builtins(msgspec.convert(value, kind, strict=False))
        except msgspec.ValidationError as problem:
            said = str(problem)
            raise SettingsError(f"{variable}={text!r}: {said[:1].lower()}{said[1:]}") from problem

    def _refuse_unread(self, section: str, shape: type[Any]) -> None:
        """A variable of a section that no key of it reads would be a setting without effect."""
        prefix = f"{_PREFIX}{section}_".upper()
        known = {f"{prefix}{key}".upper() for key in field_names(shape)}
        for variable in self.environment:
            if variable.startswith(prefix) and variable not in known:
                raise SettingsError(
                    f"{variable} is set in the environment, but [{section}] has no such key{nearest(variable, known)}"
                )


def load_settings(
    *,
    home: Path | str | None = None,
    config: Path | str | None = None,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> Settings:
    """Find the home and read `harness.toml`; writes nothing.

    `home` and `config` are the flags of those names. Raises `SettingsError` with file and line, and `HarnessError` where
    there is no current directory and the home is not named in full.
    """
    variables = dict(os.environ if environment is None else environment)
    given = home or variables.get("HARNESS_HOME") or None
    named = config or variables.get("HARNESS_CONFIG") or None
    start = _start(directory, given, named)
    where = (start / given).resolve() if given else None
    root = where.parent if where is not None and where.name == HOME_NAME else find_root(start)
    path = (start / named).resolve() if named else root / CONFIG_NAME
    document = read_document(path) if named or path.exists() else Document(path=path)
    refuse_unknown(document, (), (*SECTIONS, *SCALARS))
    _refuse_misspelt(variables)
    return Settings(home=where or root / HOME_NAME, root=root, document=document, environment=variables, flags=flags or {})


def _start(directory: Path | None, home: Path | str | None, config: Path | str | None) -> Path:
    """Where relative paths begin, and the search for the project."""
    here = directory or home_names.here()
    if here is not None:
        return Path(here).resolve()
    if home is None or not Path(home).is_absolute() or (config is not None and not Path(config).is_absolute()):
        raise HarnessError(f"{home_names.GONE}, or name the home in full with --home or HARNESS_HOME")
    return Path(home).parent


def find_root(start: Path) -> Path:
    """The project's root, found upwards as git finds its own; of a linked worktree it is the main worktree's."""
    return Path(home_names.find_root(str(start)))


def prepare_home(home: Path) -> Path:
    """Make the home, for its owner only and ignored by git. Idempotent; raises `UsageError` if it cannot be made."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        ignore = home / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
    except OSError as problem:
        raise UsageError(f"{home}: the home cannot be made: {problem.strerror}; choose another with --home") from problem
    return home


def _refuse_misspelt(variables: Mapping[str, str]) -> None:
    """Refuse a `HARNESS_…` that looks like a meant one; others may belong to other programs."""
    meant = {*_NOT_SETTINGS, "HARNESS_DATABASE"}
    prefixes = tuple(f"{_PREFIX}{name.upper()}_" for name in SECTIONS)
    for name in variables:
        if name.startswith(_PREFIX) and name not in meant and not name.startswith(prefixes):
            match = difflib.get_close_matches(name, meant, 1, 0.9)
            if match:
                raise SettingsError(f"{name} is set in the environment; did you mean {match[0]}?")
