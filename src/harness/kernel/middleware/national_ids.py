"""National identity, tax and insurance numbers of several countries, found by form and checksum. Pure.

A number that is only digits and whose checksum lets one in ten pass is taken for one only where a word beside it says
so. Sources: each country's published rule, named in the table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from harness.kernel.middleware.detectors import Finding, luhn

_NEAR = 48  # characters before a number in which a word may say what it is


def _weighted(digits: str, weights: Sequence[int]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))


def us_ssn(number: str) -> bool:
    """SSN: no area 000, 666, 9xx, no group 00, no serial 0000 (SSA)."""
    return number[:3] not in {"000", "666"} and number[0] != "9" and number[3:5] != "00" and number[5:] != "0000"


def de_tax_id(number: str) -> bool:
    """Steuerliche Identifikationsnummer: ISO 7064 MOD 11,10, and one digit that is repeated."""
    product = 10
    for digit in number[:10]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    repeated = [number[:10].count(digit) for digit in set(number[:10])]
    return (11 - product) % 10 == int(number[10]) and number[0] != "0" and sum(n > 1 for n in repeated) == 1


def fr_nir(number: str) -> bool:
    """Numéro de sécurité sociale: 97 minus the remainder by 97; Corsica's 2A and 2B count as 19 and 18."""
    body = number[:13].replace("2A", "19").replace("2B", "18")
    return body.isdigit() and 97 - int(body) % 97 == int(number[13:])


def es_dni(number: str) -> bool:
    """DNI and NIE: the letter of the remainder by 23."""
    digits = {"X": "0", "Y": "1", "Z": "2"}.get(number[0], number[0]) + number[1:-1]
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(digits) % 23] == number[-1]


_CF_ODD = dict(
    zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18,
        20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23], strict=True)
)  # fmt: skip


def it_codice_fiscale(number: str) -> bool:
    """Codice fiscale: the check letter of D.M. 345/1976."""
    total = sum(
        _CF_ODD[letter] if index % 2 == 0 else (int(letter) if letter.isdigit() else ord(letter) - 65)
        for index, letter in enumerate(number[:15])
    )
    return chr(65 + total % 26) == number[15]


def nl_bsn(number: str) -> bool:
    """Burgerservicenummer: the elfproef."""
    return number != "000000000" and _weighted(number, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def uk_nino(number: str) -> bool:
    """National Insurance number: the prefixes that HMRC gives out."""
    return number[:2] not in {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"}


def uk_nhs(number: str) -> bool:
    """NHS number: modulus 11."""
    return (11 - _weighted(number, range(10, 1, -1)) % 11) % 11 == int(number[9])


def pl_pesel(number: str) -> bool:
    """PESEL: weights 1 3 7 9, and a month that exists."""
    check = (10 - _weighted(number, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10) % 10
    return check == int(number[10]) and 1 <= int(number[2:4]) % 20 <= 12 and 1 <= int(number[4:6]) <= 31


def br_cpf(number: str) -> bool:
    """CPF: two check digits."""
    if len(set(number)) == 1:
        return False
    return all(_weighted(number, range(n, 1, -1)) * 10 % 11 % 10 == int(number[n - 1]) for n in (10, 11))


def se_personnummer(number: str) -> bool:
    """Personnummer: Luhn over ten digits, and a month and day that exist."""
    ten = number[-10:]
    return luhn(ten) and 1 <= int(ten[2:4]) <= 12 and 1 <= int(ten[4:6]) % 60 <= 31


def fi_hetu(number: str) -> bool:
    """Henkilötunnus: the remainder by 31."""
    return "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(number[:6] + number[7:10]) % 31] == number[10]


def be_national(number: str) -> bool:
    """Rijksregisternummer: 97 minus the remainder by 97; those born since 2000 with a 2 before."""
    return int(number[9:]) in {97 - int(number[:9]) % 97, 97 - int("2" + number[:9]) % 97}


def ch_ahv(number: str) -> bool:
    """AHV number: EAN-13 with the country 756."""
    return (10 - _weighted(number, (1, 3) * 6) % 10) % 10 == int(number[12])


def cn_resident(number: str) -> bool:
    """Resident identity card: ISO 7064 MOD 11-2, and a month and day that exist."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    dated = 1 <= int(number[10:12]) <= 12 and 1 <= int(number[12:14]) <= 31
    return dated and "10X98765432"[_weighted(number[:17], weights) % 11] == number[17]


# The dihedral group of order ten, and Verhoeff's permutations, a row each.
_D = (
    "0123456789",
    "1234067895",
    "2340178956",
    "3401289567",
    "4012395678",
    "5987604321",
    "6598710432",
    "7659821043",
    "8765932104",
    "9876543210",
)
_P = ("0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258")


def in_aadhaar(number: str) -> bool:
    """Aadhaar: Verhoeff."""
    check = 0
    for index, digit in enumerate(reversed(number)):
        check = int(_D[check][int(_P[index % 8][int(digit)])])
    return check == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """One country's number: its form, its checksum, and the words that must stand near it, if any."""

    form: re.Pattern[str]
    valid: Callable[[str], bool]
    near: re.Pattern[str] | None = None


def _rule(form: str, valid: Callable[[str], bool], near: str = "") -> _Rule:
    return _Rule(
        form=re.compile(rf"(?<![\w.+-])(?:{form})(?![\w-])", re.IGNORECASE),
        valid=valid,
        near=re.compile(near, re.IGNORECASE) if near else None,
    )


_RULES = (
    _rule(r"\d{3}-\d{2}-\d{4}", us_ssn),
    _rule(r"\d{9}|\d{3} \d{2} \d{4}", us_ssn, r"\bssn\b|social.security"),
    _rule(r"\d{11}|\d{2} \d{3} \d{3} \d{3}", de_tax_id, r"steuer|\btin\b|idnr|tax"),
    _rule(r"[12] ?\d{2} ?(?:0[1-9]|1[0-2]|[2-9]\d) ?(?:\d{2}|2[AB]) ?\d{3} ?\d{3} ?\d{2}", fr_nir),
    _rule(r"[XYZ]-?\d{7}-?[A-Z]|\d{8}-?[A-Z]", es_dni),
    _rule(r"[A-Z]{6}[0-9LMNP-V]{2}[ABCDEHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]", it_codice_fiscale),
    _rule(r"\d{9}", nl_bsn, r"\bbsn\b|burgerservice|sofi"),
    _rule(r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d{2} ?\d{2} ?\d{2} ?[A-D]", uk_nino),
    _rule(r"\d{3}[ -]?\d{3}[ -]?\d{4}", uk_nhs, r"\bnhs\b"),
    _rule(r"\d{11}", pl_pesel, r"pesel"),
    _rule(r"\d{3}\.\d{3}\.\d{3}-\d{2}", br_cpf),
    _rule(r"\d{11}", br_cpf, r"\bcpf\b"),
    _rule(r"(?:19|20)?\d{6}[-+]\d{4}", se_personnummer),
    _rule(r"\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]", fi_hetu),
    _rule(r"\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}", be_national),
    _rule(r"756\.?\d{4}\.?\d{4}\.?\d{2}", ch_ahv),
    _rule(r"[1-9]\d{5}(?:19|20)\d{9}[\dX]", cn_resident),
    _rule(r"[2-9]\d{3} ?\d{4} ?\d{4}", in_aadhaar, r"aadhaar|uidai"),
)


_DIGITS = re.compile(r"(?:\d[^\d\n]{0,3}){4}")


class NationalIdDetector:
    """Numbers of the United States, Germany, France, Spain, Italy, the Netherlands, the United Kingdom, Poland, Brazil,
    Sweden, Finland, Belgium, Switzerland, China and India."""

    def find(self, text: str) -> Iterator[Finding]:
        if not _DIGITS.search(text):  # each of these has some near each other
            return
        for rule in _RULES:
            if rule.near is not None and not rule.near.search(text):
                continue
            for match in rule.form.finditer(text):
                if rule.near is not None and not rule.near.search(text, max(0, match.start() - _NEAR), match.start()):
                    continue
                if rule.valid(_plain(match[0], rule)):
                    yield Finding(match.start(), match.end(), "NATIONAL_ID")


def _plain(number: str, rule: _Rule) -> str:
    """The number without its separators; the Finnish one's says the century, and stays."""
    return number.upper() if rule.valid is fi_hetu else re.sub(r"[ .+-]", "", number.upper())
