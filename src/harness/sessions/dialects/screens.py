"""Reads a program's state off its rendered screen and its title, by rules in TOML. Pure, but for loading the rules.

A rule looks at one region only, so that what an answer quotes, what was typed, or what scrolled by cannot pass for a prompt:
the *composer* is where a person types, the *footer* what is below it, *below* what is under the lowest ruled line, where the
programs put their dialogs. What asks for an answer goes before what is busy, and that before the prompt.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import UsageError
from harness.sessions.dialects.rule_files import find_rules
from harness.sessions.dialects.screen_rules import ScreenRule, ScreenRules
from harness.sessions.facts import Source, State
from harness.sessions.reports import Reading

_REGION = re.compile(r"screen|below|composer|footer|cursor|(?:bottom|above):([1-9]\d?)")
_SEVERITY = {State.BLOCKED: 0, State.LIMITED: 1, State.BUSY: 2, State.PROMPT: 3}
_RULED = ("─" * 20, "━" * 20)
_MAX_COMPOSER = 60
_MAX_FOOTER = 8
_CLIP = 200


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a dialog asks leave for, and the keys that answer it."""

    tool: str
    arguments: Mapping[str, str]
    allow: bytes
    deny: bytes


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at the screen found."""

    reading: Reading
    composer: str | None = None  # what stands in it; None: there is none
    empty: bool = False  # nothing was typed there: what it shows, if anything, is a hint of the program's own
    ask: Ask | None = None
    error: str = ""  # what it shows of the last failed turn, if that is to be seen
    said: int = 0  # another number when it shows other words, whatever its spinner does
    version: str = ""
    model: str = ""

    @property
    def blocked(self) -> bool:
        return self.reading.state is State.BLOCKED


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A screen as it is rendered: rows without spaces at their ends, the cursor's row and column, whether all is there."""

    lines: Sequence[str]
    cursor: tuple[int, int] = (0, 0)
    whole: bool = True


class _Compiled(msgspec.Struct, frozen=True):
    rule: ScreenRule
    all: tuple[re.Pattern[str], ...]
    none: tuple[re.Pattern[str], ...]
    subject: re.Pattern[str] | None


class _Regions(msgspec.Struct):
    """The parts of one screen, found once."""

    snapshot: Snapshot
    composer: tuple[int, int] | None  # rows, the last one not included
    found: dict[str, str] = msgspec.field(default_factory=dict[str, str])

    def get(self, name: str) -> str | None:
        """The text of a region; None where the screen has no such part."""
        if name not in self.found:
            lines = self._lines(name)
            if lines is None:
                return None
            self.found[name] = "\n".join(lines)
        return self.found[name]

    def _lines(self, name: str) -> Sequence[str] | None:
        lines, composer = self.snapshot.lines, self.composer
        kind, _, number = name.partition(":")
        match kind:
            case "below":
                return lines[_lowest_ruled(lines) + 1 :]
            case "bottom":
                return [line for line in lines if line][-int(number) :]
            case "cursor":
                row, column = self.snapshot.cursor
                return [lines[row][:column]] if row < len(lines) else None
            case "composer":
                return None if composer is None else lines[composer[0] : composer[1]]
            case "footer":
                return None if composer is None else lines[composer[1] :]
            case "above":
                above = [] if composer is None else [line for line in lines[: composer[0]] if line and not _ruled(line)]
                return None if composer is None else above[-int(number) :]
            case _:
                return lines


class ScreenReader:
    """Applies one set of rules. Raises `UsageError` when it is made from rules that make no sense."""

    def __init__(self, rules: ScreenRules, *, name: str = "rules") -> None:
        self._name = name
        self._composer = rules.composer
        self._glyph = self._pattern(rules.composer.glyph, "composer") if rules.composer else None
        self._footer = self._pattern(rules.composer.footer, "composer") if rules.composer and rules.composer.footer else None
        self._error = self._pattern(rules.error, "error") if rules.error else None
        ordered = sorted(rules.rules, key=lambda rule: _SEVERITY.get(rule.state, len(_SEVERITY)))
        self._rules = tuple(self._compiled(rule) for rule in ordered)
        self._moving = tuple(
            pattern for compiled in self._rules if compiled.rule.state is State.BUSY for pattern in compiled.all
        )
        told = rules.identity
        self._identity = tuple(self._pattern(text, "identity") if text else None for text in (told.version, told.model))
        self._titles = tuple((self._pattern(title.match, "titles"), title) for title in rules.titles)

    def _pattern(self, text: str, where: str) -> re.Pattern[str]:
        try:
            return re.compile(text, re.MULTILINE)
        except re.error as error:
            raise UsageError(f"screen rules {self._name}: {where}: {text!r} is no regular expression: {error}") from error

    def _compiled(self, rule: ScreenRule) -> _Compiled:
        if not _REGION.fullmatch(rule.region):
            raise UsageError(f"screen rules {self._name}: {rule.name}: there is no region {rule.region!r}")
        return _Compiled(
            rule,
            tuple(self._pattern(text, rule.name) for text in rule.all),
            tuple(self._pattern(text, rule.name) for text in rule.none),
            None if rule.ask is None else self._pattern(rule.ask.subject, rule.name),
        )

    @property
    def has_composer(self) -> bool:
        """Whether these rules know where a person types."""
        return self._composer is not None

    def title(self, text: str) -> Reading:
        """What the window's title says; unknown if it says nothing."""
        for pattern, rule in self._titles:
            if pattern.search(text):
                return Reading(
                    state=rule.state, source=Source.TITLE, confidence=rule.confidence, detail=rule.detail, evidence=text[:_CLIP]
                )
        return Reading(state=State.UNKNOWN, source=Source.TITLE, confidence=0.0)

    def look(self, snapshot: Snapshot) -> Look:
        """What the screen says; unknown if no rule knows it."""
        lines = snapshot.lines[: _used(snapshot.lines)]
        snapshot = Snapshot(lines=lines, cursor=snapshot.cursor, whole=snapshot.whole)
        box = self._find_composer(lines)
        regions = _Regions(snapshot, box)
        written = regions.get("composer") if box is not None else None
        empty = box is not None and self._is_empty(snapshot, box)
        reading, ask = Reading(state=State.UNKNOWN, source=Source.SCREEN, confidence=0.0), None
        for compiled in self._rules:
            found = _matched(compiled, regions)
            if found is not None:
                reading = _reading(compiled.rule, found, whole=snapshot.whole)
                ask = _ask(compiled, regions) if snapshot.whole else None
                break
        version, model = (_first(pattern, lines) for pattern in self._identity)
        return Look(
            reading=reading, composer=written, empty=empty, ask=ask, error=self._last_error(lines),
            said=self._said(lines if box is None else lines[: box[0]]), version=version, model=model,
        )  # fmt: skip

    def _said(self, lines: Sequence[str]) -> int:
        return hash(tuple(line for line in lines if not any(pattern.search(line) for pattern in self._moving)))

    def _last_error(self, lines: Sequence[str]) -> str:
        found = self._error.findall("\n".join(lines)) if self._error is not None else []
        return " ".join(str(found[-1]).split()) if found else ""

    def _find_composer(self, lines: Sequence[str]) -> tuple[int, int] | None:
        if self._composer is None or self._glyph is None:
            return None
        return self._find_box(lines) if self._composer.kind == "box" else self._find_line(lines)

    def _find_box(self, lines: Sequence[str]) -> tuple[int, int] | None:
        bottom = _lowest_ruled(lines)
        if bottom < 0 or len(lines) - bottom - 1 > _MAX_FOOTER:
            return None
        top = _lowest_ruled(lines[:bottom])
        if top < 0 or bottom - top > _MAX_COMPOSER or top + 1 == bottom:
            return None
        assert self._glyph is not None
        return (top + 1, bottom) if self._glyph.match(lines[top + 1]) else None

    def _find_line(self, lines: Sequence[str]) -> tuple[int, int] | None:
        """The lowest line with the glyph, what is typed below it, an empty line, and then the footer."""
        assert self._glyph is not None
        starts = [row for row, line in enumerate(lines) if self._glyph.match(line)]
        if not starts:
            return None
        start = starts[-1]
        footers = (row for row in range(start + 1, len(lines)) if self._footer is not None and self._footer.match(lines[row]))
        end = next(footers, None)
        if end is None or len(lines) - end > _MAX_FOOTER:
            return None
        while end > start + 1 and not lines[end - 1]:
            end -= 1
        return start, end

    def _is_empty(self, snapshot: Snapshot, box: tuple[int, int]) -> bool:
        """The cursor stands right behind the glyph: a hint may be shown, but nothing was typed."""
        assert self._glyph is not None
        row, column = snapshot.cursor
        first = snapshot.lines[box[0]]
        match = self._glyph.match(first)
        assert match is not None
        if not first[match.end() :].strip():
            return not any(line.strip() for line in snapshot.lines[box[0] + 1 : box[1]])
        return row == box[0] and column <= match.end() + (0 if match[0].endswith(" ") else 1)


def _used(lines: Sequence[str]) -> int:
    """How many rows there are down to the last one that has anything: a program may begin at the top of its window."""
    return next((row + 1 for row in range(len(lines) - 1, -1, -1) if lines[row]), 0)


def _first(pattern: re.Pattern[str] | None, lines: Sequence[str]) -> str:
    match = None if pattern is None else next(filter(None, map(pattern.search, lines)), None)
    return match[1][:80] if match is not None else ""


def _ruled(line: str) -> bool:
    """Whether this is a line drawn over the window, as boxes begin and end with; a title may stand in it."""
    return line.startswith(_RULED)


def _lowest_ruled(lines: Sequence[str]) -> int:
    return next((row for row in range(len(lines) - 1, -1, -1) if _ruled(lines[row])), -1)


def _matched(compiled: _Compiled, regions: _Regions) -> str | None:
    """The text that gave the rule away; None if it does not hold."""
    rule = compiled.rule
    if rule.composer is not None and rule.composer != (regions.composer is not None):
        return None
    text = regions.get(rule.region)
    if text is None or any(pattern.search(text) for pattern in compiled.none):
        return None
    matches = [pattern.search(text) for pattern in compiled.all]
    if not all(matches):
        return None
    first = next((match for match in matches if match is not None), None)
    return "" if first is None else first[0]


def _reading(rule: ScreenRule, found: str, *, whole: bool) -> Reading:
    evidence = f"{rule.name}: {' '.join(found.split())}"[:_CLIP] if found.strip() else rule.name
    confidence = rule.confidence if whole else min(rule.confidence, 0.3)
    return Reading(state=rule.state, source=Source.SCREEN, confidence=confidence, detail=rule.detail, evidence=evidence)


def _ask(compiled: _Compiled, regions: _Regions) -> Ask | None:
    ask, text = compiled.rule.ask, regions.get(compiled.rule.region)
    if ask is None or compiled.subject is None or text is None:
        return None
    match = compiled.subject.search(text)
    if match is None:
        return None
    subject = "\n".join(line.strip().removeprefix("│").strip() for line in match[1].splitlines()).strip()
    return Ask(tool=ask.tool, arguments={ask.argument: subject}, allow=ask.allow.encode(), deny=ask.deny.encode())


def load_rules(name: str, home: Path | None = None) -> ScreenReader:
    """The rules of this name. Raises `UsageError` if there are none or they cannot be used."""
    file = find_rules(name, home)
    if file is None:
        raise UsageError(f"there are no screen rules {name!r}: write HOME/screens/{name}.toml")
    try:
        given: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        rules = msgspec.convert(given, ScreenRules)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"{file}: {error}") from error
    return ScreenReader(rules, name=str(file))
