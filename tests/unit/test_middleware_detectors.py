"""What is personal is found by form and checksum, and what only looks like it is left alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.kernel.middleware.detectors import Detector, IbanDetector, built_in, luhn, secret_field
from harness.kernel.middleware.national_ids import NationalIdDetector


def found(text: str) -> list[tuple[str, str]]:
    """Every finding, as its kind and its text."""
    return [(each.kind, text[each.start : each.end]) for detector in built_in() for each in detector.find(text)]


@pytest.mark.parametrize(
    ("kind", "text", "what"),
    [
        ("EMAIL", "Write to ann.o'hara+x@mail.example.co.uk, please", "ann.o'hara+x@mail.example.co.uk"),
        ("EMAIL", "<jürgen@bücher.example>", "jürgen@bücher.example"),
        ("PHONE", "call +49 (30) 901820-11 now", "+49 (30) 901820-11"),
        ("PHONE", "call +14155552671.", "+14155552671"),
        ("PHONE", "0049 30 901820", "0049 30 901820"),
        ("PHONE", "(415) 555-2671", "(415) 555-2671"),
        ("PHONE", "tel: 030/1234567", "030/1234567"),
        ("PHONE", "01 42 68 53 00", "01 42 68 53 00"),
        ("CARD", "card 4111 1111 1111 1111 exp", "4111 1111 1111 1111"),
        ("CARD", "378282246310005", "378282246310005"),
        ("CARD", "5555-5555-5555-4444", "5555-5555-5555-4444"),
        ("IBAN", "to DE89 3704 0044 0532 0130 00 AND then", "DE89 3704 0044 0532 0130 00"),
        ("IBAN", "gb82west12345698765432", "gb82west12345698765432"),
        ("IBAN", "NO9386011117947", "NO9386011117947"),
        ("API_KEY", "use sk-proj-abcdefghijklmnop1234 for it", "sk-proj-abcdefghijklmnop1234"),
        ("TOKEN", "ghp_abcdefghijklmnopqrstuvwxyz0123", "ghp_abcdefghijklmnopqrstuvwxyz0123"),
        ("SECRET", 'password="hunter22"', "hunter22"),
        ("NATIONAL_ID", "SSN 536-90-4399", "536-90-4399"),
        ("NATIONAL_ID", "Steuer-ID: 86 095 742 719", "86 095 742 719"),
        ("NATIONAL_ID", "2 55 08 14 168 025 38", "2 55 08 14 168 025 38"),
        ("NATIONAL_ID", "DNI 12345678Z", "12345678Z"),
        ("NATIONAL_ID", "NIE X1234567L", "X1234567L"),
        ("NATIONAL_ID", "RSSMRA85T10A562S", "RSSMRA85T10A562S"),
        ("NATIONAL_ID", "BSN 111222333", "111222333"),
        ("NATIONAL_ID", "NI AB 12 34 56 C", "AB 12 34 56 C"),
        ("NATIONAL_ID", "NHS 943 476 5919", "943 476 5919"),
        ("NATIONAL_ID", "PESEL 44051401359", "44051401359"),
        ("NATIONAL_ID", "529.982.247-25", "529.982.247-25"),
        ("NATIONAL_ID", "811218-9876", "811218-9876"),
        ("NATIONAL_ID", "131052-308T", "131052-308T"),
        ("NATIONAL_ID", "85.07.30-033.28", "85.07.30-033.28"),
        ("NATIONAL_ID", "756.9217.0769.85", "756.9217.0769.85"),
        ("NATIONAL_ID", "11010519491231002X", "11010519491231002X"),
        ("NATIONAL_ID", "Aadhaar 2341 2341 2346", "2341 2341 2346"),
    ],
)
def test_what_is_personal_is_found(kind: str, text: str, what: str) -> None:
    """Each kind, in the forms people write it in."""
    assert (kind, what) in found(text)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21T03:55:00+00:00 took 12345678 ms at 192.168.100.200",
        "order 4111111111111112, batch 1234567890123456, commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "DE88370400440532013000",  # wrong check digits
        "version 10.20.30 of 3,000,000 rows; 555-0100; ticket 86095742718; 1795228000000000",
        "the sum is +1000000 or 1e10, in 100-200-300 steps, from 000-00-0000",
        "12345678A RSSMRA85T10A562X 9434765918 44051401358",
        "user@localhost a@b @handle x @ y.z",
        "https://example.com/a/b?c=d#e",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    """Dates, versions, addresses of machines, order numbers, wrong checksums."""
    assert found(text) == []


@given(st.text(alphabet="0123456789", min_size=8, max_size=8), st.text(alphabet="0123456789", min_size=10, max_size=10))
def test_one_wrong_digit_makes_no_iban(bank: str, account: str) -> None:
    """The remainder by 97 finds every single wrong digit."""
    body = bank + account
    check = 98 - int(body + "131400") % 97
    right = f"DE{check:02}{body}"
    wrong = f"DE{check:02}{body[:-1]}{(int(body[-1]) + 1) % 10}"

    assert IbanDetector.valid(right)
    assert not IbanDetector.valid(wrong)


@given(st.text(max_size=300))
def test_any_text_can_be_searched(text: str) -> None:
    """No text is too odd, and findings lie within it."""
    for detector in built_in():
        for each in detector.find(text):
            assert 0 <= each.start < each.end <= len(text)
            assert re.fullmatch("[A-Z_]+", each.kind)


@pytest.mark.timeout(20)
def test_a_long_text_takes_no_quadratic_time() -> None:
    """A fifth of a megabyte of what nearly matches is searched in a moment."""
    for piece in ("a.", "1 ", "@a.", "+1 ", "DE89 ", "0", "a@", "(0"):
        text = piece * (200_000 // len(piece))
        for detector in built_in():
            sum(1 for _ in detector.find(text))


def test_fields_are_secret_by_their_name() -> None:
    """A password is one whatever it looks like; the token of the next page is none."""
    assert [name for name in ("password", "api_key", "nextPageToken", "page_token", "user") if secret_field(name)] == [
        "password",
        "api_key",
    ]


def test_the_detectors_keep_their_protocol() -> None:
    """What is built in is what a user may write."""
    assert all(isinstance(each, Detector) for each in built_in())
    assert isinstance(NationalIdDetector(), Detector)
    assert luhn("79927398713")
