"""Canonical bytes, hashes and names of events."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import LedgerError
from harness.ledger.events import canonical, hash_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.text(), JSON))
def test_the_canonical_form_does_not_depend_on_the_order_of_keys(payload: dict[str, object]) -> None:
    """Sorted at every depth, and it reads back as the same."""
    backwards = dict(reversed(list(payload.items())))

    assert canonical(payload) == canonical(backwards)
    assert json.loads(canonical(payload)) == payload


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nan_is_refused_at_any_depth_also_in_structs(bad: float) -> None:
    """JSON has no word for it, and null would be a lie."""

    class Reading(msgspec.Struct):
        value: float

    for payload in ({"a": [None, {"b": bad}]}, Reading(bad), {"a": (1, bad)}):
        with pytest.raises(LedgerError, match="NaN"):
            canonical(payload)
    assert canonical({"a": None, "b": "null"}) == b'{"a":null,"b":"null"}'


def test_json_that_is_encoded_already_may_hold_null() -> None:
    """The kernel records answers and results as the JSON they came as; a null in it is no NaN."""

    class Result(msgspec.Struct):
        result: msgspec.Raw

    assert canonical(Result(msgspec.Raw(b'{"a":null}'))) == b'{"result":{"a":null}}'


def test_a_payload_that_is_too_large_is_refused() -> None:
    """64 MB is the limit, and the message says what to do."""
    with pytest.raises(LedgerError, match="store it as an artifact"):
        canonical({"a": "x" * (64 * 1024 * 1024)})


FIELDS = ("item/a", 1, "a.b", 7, "me", "t", None, None, 1, bytes(32), bytes(32))


def test_the_hash_is_the_documented_one() -> None:
    """A fixed vector, written out by hand: changing it breaks every ledger there is."""
    text = b"6:item/a" + b"3:a.b" + b"2:me" + b"1:t" + b"5:1,7,1" + b"-" + b"-" + bytes(64)

    assert hash_of(*FIELDS) == hashlib.sha256(text).digest()


OTHERS: list[tuple[int, object]] = [
    *((0, "item/b"), (1, 2), (2, "a.c"), (3, 8), (4, "you"), (5, "u"), (6, "x"), (6, "")),
    *((7, "k"), (7, ""), (8, 2), (9, b"1" * 32), (10, b"1" * 32)),
]


@pytest.mark.parametrize(("place", "value"), OTHERS)
def test_every_field_is_under_the_hash(place: int, value: object) -> None:
    """Changing any one of them changes it; None is not the empty string."""
    changed = (*FIELDS[:place], value, *FIELDS[place + 1 :])

    assert hash_of(*changed) != hash_of(*FIELDS)  # type: ignore[arg-type]


def test_fields_cannot_run_into_each_other() -> None:
    """Lengths come first, so moving a letter from one field to the next is seen."""
    assert hash_of("item/a", 1, "a.b", 7, "mee", "t", *FIELDS[6:]) != hash_of("item/a", 1, "a.b", 7, "me", "et", *FIELDS[6:])
    assert hash_of(*FIELDS[:6], "1:k", None, *FIELDS[8:]) != hash_of(*FIELDS[:6], "1", "k", *FIELDS[8:])
