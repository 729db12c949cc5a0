"""What stands for a personal value outside this process: `<EMAIL_3f9a2c51d07b>`. Pure.

A placeholder is made of the value and a key, so the same value has the same one in every run of the tenant, at any
time and in any process, and nobody who lacks the key can tell or test which value it is. So a recorded input that holds
placeholders still says whether it is the same input. The way back is known only to a `Scrubber` that saw the value.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, cast

import msgspec

from harness.kernel.middleware.detectors import Detector, Finding, secret_field

PLACEHOLDER = re.compile(r"<[A-Z]{2,20}(?:_[A-Z]{1,20}){0,3}_[0-9a-f]{12}>")
_SHORTEST = 5  # a shorter text holds nothing personal
_LONG = 64  # a longer text is looked at once
_MAX_KNOWN_TEXTS = 2048
_MAX_VALUES = 100_000
_SMALLEST_NUMBER = 10**11  # a smaller one is no card
_MAX_DEPTH = 4  # of placeholders within what placeholders stand for
_OPAQUE = frozenset({"signature", "encrypted_content", "data", "id"})  # of a provider's own blocks
_encode = msgspec.json.Encoder(order="sorted").encode


class NoKeyYet(Exception):
    """Something was found, and there is no key to make its placeholder with."""


def placeholder(key: bytes, kind: str, value: str) -> str:
    """What stands for this value."""
    digest = hmac.new(key, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
    return f"<{kind}_{digest[:12]}>"


@functools.cache
def _kind(kind: str) -> str:
    """A detector's word in the form that placeholders have."""
    parts = [part[:20] for part in re.split(r"[^A-Z]+", kind.upper()) if part][:4]
    return "_".join(parts) if parts and len(parts[0]) > 1 else "PERSONAL"


class Scrubber:
    """Scrubs texts and JSON, and remembers what it took out. Scrubbing twice is scrubbing once."""

    def __init__(self, detectors: Sequence[Detector], *, allow: Collection[str] = (), key: bytes | None = None) -> None:
        self.key = key
        self.values: dict[str, str] = {}  # what each placeholder stands for
        self._detectors = detectors
        self._allow = frozenset(allow)
        self._known: dict[str, str] = {}  # long texts and what became of them

    def text(self, text: str) -> str:
        """The text with placeholders. Raises `NoKeyYet`."""
        if len(text) < _SHORTEST:
            return text
        known = self._known.get(text)
        if known is None:
            known = self._scrubbed(text)
            if len(text) > _LONG:
                if len(self._known) >= _MAX_KNOWN_TEXTS:
                    self._known.clear()
                self._known[text] = known
        return known

    def _scrubbed(self, text: str) -> str:
        parts: list[str] = []
        at = 0
        for found in self._found(text):
            parts += (text[at : found.start], self._hidden(found.kind, text[found.start : found.end]))
            at = found.end
        return "".join((*parts, text[at:])) if parts else text

    def _hidden(self, kind: str, value: str) -> str:
        if self.key is None:
            raise NoKeyYet
        hidden = placeholder(self.key, _kind(kind), value)
        if hidden not in self.values:
            if len(self.values) >= _MAX_VALUES:
                del self.values[next(iter(self.values))]
            self.values[hidden] = value
        return hidden

    def _found(self, text: str) -> list[Finding]:
        """What is to be replaced, in order and without overlaps; what detectors find together is one thing."""
        found = [
            (each.start, priority, each)
            for priority, detector in enumerate(self._detectors)
            for each in detector.find(text)
            if text[each.start : each.end] not in self._allow
        ]
        if not found:
            return []
        hidden = [match.span() for match in PLACEHOLDER.finditer(text)]
        merged: list[tuple[int, Finding]] = []
        for start, priority, each in sorted(found):
            if any(begin <= start and each.end <= end for begin, end in hidden):
                continue
            if merged and start < merged[-1][1].end:
                before, last = merged[-1]
                kind = each.kind if priority < before else last.kind
                merged[-1] = (min(priority, before), Finding(last.start, max(last.end, each.end), kind))
            else:
                merged.append((priority, each))
        return [each for _, each in merged]

    def json(self, data: bytes, *, numbers: bool = True) -> bytes:
        """JSON text with placeholders; the very same bytes if there is nothing to hide. Raises `NoKeyYet`."""
        value = msgspec.json.decode(data)
        scrubbed = self.value(value, numbers=numbers)
        return data if scrubbed == value else _encode(scrubbed)

    def value(self, value: Any, *, numbers: bool = True, opaque: Collection[str] = ()) -> Any:
        """A JSON value with placeholders in its texts, its names and, with `numbers`, for cards that are numbers."""
        match value:
            case str():
                return self.text(value)
            case bool():
                return value
            case int() if numbers and abs(value) >= _SMALLEST_NUMBER:
                text = str(value)
                found = self._found(text)
                return self._hidden(found[0].kind, text) if found and len(text) == found[0].end - found[0].start else value
            case dict():
                named = cast("dict[str, Any]", value)
                return {self.text(name): self._field(name, each, numbers, opaque) for name, each in named.items()}
            case list() | tuple():
                return [self.value(each, numbers=numbers, opaque=opaque) for each in cast("list[Any]", value)]
            case _:
                return value

    def _field(self, name: str, value: Any, numbers: bool, opaque: Collection[str]) -> Any:
        if name in opaque:
            return value
        if isinstance(value, str) and value and secret_field(name) and not PLACEHOLDER.fullmatch(value):
            return value if value in self._allow else self._hidden("SECRET", value)
        return self.value(value, numbers=numbers, opaque=opaque)

    def blocks(self, blocks: Any) -> bool:
        """Whether a provider's own blocks hold nothing to hide. They cannot be changed, since they may be signed."""
        plain = msgspec.to_builtins(blocks)
        return bool(self.value(plain, numbers=False, opaque=_OPAQUE) == _as_lists(plain))

    # The way back

    def restored(self, value: Any) -> Any:
        """A JSON value with what its placeholders stand for, as far as that is known here."""
        return _mapped(value, self._restored_text)

    def _restored_text(self, text: str) -> str:
        for _ in range(_MAX_DEPTH):
            before = text
            text = PLACEHOLDER.sub(lambda match: self.values.get(match[0], match[0]), text)
            if text == before:
                break
        return text


def placeholders_in(value: Any) -> Iterator[str]:
    """Every placeholder in a JSON value."""
    match value:
        case str():
            yield from PLACEHOLDER.findall(value)
        case dict():
            for name, each in cast("dict[str, Any]", value).items():
                yield from placeholders_in(name)
                yield from placeholders_in(each)
        case list():
            for each in cast("list[Any]", value):
                yield from placeholders_in(each)
        case _:
            return


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    match value:
        case str():
            return change(value)
        case dict():
            return {change(name): _mapped(each, change) for name, each in cast("dict[str, Any]", value).items()}
        case list():
            return [_mapped(each, change) for each in cast("list[Any]", value)]
        case _:
            return value


def _as_lists(value: Any) -> Any:
    match value:
        case dict():
            return {name: _as_lists(each) for name, each in cast("dict[str, Any]", value).items()}
        case list() | tuple():
            return [_as_lists(each) for each in cast("list[Any]", value)]
        case _:
            return value
