"""Finding what is personal or secret in a text: e-mail addresses, phones, cards, bank accounts, keys and tokens. Pure.

A detector says where something is and of what kind; `placeholders` decides what stands there instead. Numbers are found
by their checksums where they have one, so that an order number is not taken for a card.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from harness.text import find_secrets, secret_name


class Finding(NamedTuple):
    """Where something is, and its kind: capital letters and `_`."""

    start: int
    end: int
    kind: str


@runtime_checkable
class Detector(Protocol):
    """Finds one sort of thing. The same text always gives the same findings; they may overlap those of others."""

    def find(self, text: str) -> Iterable[Finding]: ...


def luhn(digits: str) -> bool:
    """The checksum of cards (ISO/IEC 7812-1)."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if index % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


class EmailDetector:
    """E-mail addresses."""

    _pattern = re.compile(r"(?<![\w.+%-])[\w][\w.+%'-]{0,63}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")

    def find(self, text: str) -> Iterator[Finding]:
        if "@" in text:
            yield from (Finding(match.start(), match.end(), "EMAIL") for match in self._pattern.finditer(text))


class PhoneDetector:
    """Phone numbers: international ones, and national ones that are written with separators."""

    _international = re.compile(r"(?<![\w+])(?:\+|00)[1-9]\d{0,2}(?:[ .\-/]{0,2}\(?\d{1,5}\)?){1,7}(?!\w)")
    _national = re.compile(
        r"(?<![\w.+-])(?:\(\d{3}\) ?\d{3}[-. ]\d{4}|\d{3}[-. ]\d{3}[-. ]\d{4}"  # North America
        r"|\(?0[1-9]\d{1,4}\)?(?: ?[/-] ?| )\d{3,8}(?:[ -]\d{1,5}){0,4}"  # 0xxx followed by a separator: most of Europe
        r"|0[1-9](?:[ .]\d{2}){4})(?![\w-])"  # France
    )

    def find(self, text: str) -> Iterator[Finding]:
        for pattern in (self._international, self._national):
            for match in pattern.finditer(text):
                if 8 <= sum(letter.isdigit() for letter in match[0]) <= 16:
                    yield Finding(match.start(), match.end(), "PHONE")


class CardDetector:
    """Payment cards: the beginnings and lengths that issuers use, and the Luhn checksum."""

    _pattern = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])")
    _issued = re.compile(
        r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
        r"|(?:6011|65\d\d|64[4-9]\d|3528|35[3-8]\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}|62\d{14,17}|(?:50|5[6-9]|6[37]\d\d)\d{10,17}"
    )

    def find(self, text: str) -> Iterator[Finding]:
        for match in self._pattern.finditer(text):
            digits = re.sub(r"[ -]", "", match[0])
            if self._issued.fullmatch(digits) and luhn(digits):
                yield Finding(match.start(), match.end(), "CARD")


# The registry's lengths (SWIFT, IBAN Registry).
_IBAN_LENGTHS = {
    code: length
    for length, codes in {
        15: "NO", 16: "BE", 18: "DK FO FI GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG DJ",
        25: "LY PT ST", 26: "IS TR", 27: "BI FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA",
        30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for code in codes.split()
}  # fmt: skip


class IbanDetector:
    """Bank accounts: a country's length and the remainder by 97 (ISO 13616)."""

    _start = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?=[ -]?[A-Za-z0-9])")

    def find(self, text: str) -> Iterator[Finding]:
        for match in self._start.finditer(text):
            length = _IBAN_LENGTHS.get(match[0][:2].upper())
            end = None if length is None else _end_of(text, match.start(), length)
            if end is not None and self.valid(text[match.start() : end]):
                yield Finding(match.start(), end, "IBAN")

    @staticmethod
    def valid(iban: str) -> bool:
        """Whether the check digits are right."""
        plain = re.sub(r"[ -]", "", iban).upper()
        return int("".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])) % 97 == 1


def _end_of(text: str, start: int, length: int) -> int | None:
    """Where `length` letters and digits end that may stand in groups; None if more of them follow."""
    at = start
    while length:
        if at < len(text) and text[at] in " -" and at + 1 < len(text) and text[at - 1].isalnum():
            at += 1
        if at >= len(text) or not (text[at].isascii() and text[at].isalnum()):
            return None
        at += 1
        length -= 1
    return None if at < len(text) and text[at].isascii() and text[at].isalnum() else at


class SecretDetector:
    """API keys, tokens, passwords and private keys, by their form or by the name they are given."""

    def find(self, text: str) -> Iterator[Finding]:
        for secret in find_secrets(text):
            start, end = secret.start, secret.end
            if end - start > 2 and text[start] == text[end - 1] and text[start] in "\"'":
                start, end = start + 1, end - 1  # the quotes stay, so that JSON stays JSON
            yield Finding(start, end, _KIND.get(secret.kind, "SECRET"))


_KIND = {
    "api-key": "API_KEY", "google-key": "API_KEY", "aws-key": "API_KEY", "jwt": "TOKEN", "github-token": "TOKEN",
    "gitlab-token": "TOKEN", "slack-token": "TOKEN", "hugging-face-token": "TOKEN", "npm-token": "TOKEN",
    "private-key": "PRIVATE_KEY",
}  # fmt: skip
_PLACE_IN_A_LIST = re.compile(r"(?:page|sync|continuation|cursor|next|resume).*token$", re.IGNORECASE)


def secret_field(name: str) -> bool:
    """Whether a JSON field of this name holds a secret; the place in a long list that is called a token does not."""
    return secret_name(name) and not _PLACE_IN_A_LIST.search(name)


def built_in() -> tuple[Detector, ...]:
    """All detectors that come with Harness."""
    from harness.kernel.middleware.national_ids import NationalIdDetector

    return (SecretDetector(), EmailDetector(), IbanDetector(), CardDetector(), NationalIdDetector(), PhoneDetector())
