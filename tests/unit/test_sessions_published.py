"""Public events: every type of the ledger's is mapped, described by the schema, and documented."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.ledger import Event
from harness.ledger.events import canonical
from harness.sessions import facts, published, summary_file

KEY = "w1@0f3a9c21"
PAGE = (Path(__file__).parents[2] / "docs" / "events.md").read_text(encoding="utf-8")
SCHEMA: dict[str, Any] = json.loads(published.schema())
VALID = jsonschema.Draft202012Validator(SCHEMA)
ENVELOPE = ["schema_version", "seq", "ts", "id", "type", "session"]
PUBLIC = {kind.type for kind in published.KINDS.values()}


def event(type_: str, payload: msgspec.Struct | None, *, seq: int = 1, ts: int = 1_772_442_000_000_250) -> Event:
    data = None if payload is None else canonical(payload)
    return Event(
        position=seq, stream=facts.stream_of(KEY), seq=seq, type=type_, ts=ts, actor="host", tenant="t", parent=None, key=None,
        schema=1, data=data, salt=b"", stored_digest=None, prev=b"", hash=b"",
    )  # fmt: skip


def shown(type_: str, payload: msgspec.Struct | None, **values: int) -> dict[str, Any]:
    """The public line, read back as another program would."""
    line = published.line(event(type_, payload, **values), KEY)
    assert line is not None
    return json.loads(line)


def sections() -> dict[str, str]:
    """The page's text about each type."""
    found = re.split(r"^### (\w+)$", PAGE.partition("\n## session.json")[0], flags=re.MULTILINE)[1:]
    return dict(zip(found[::2], found[1::2], strict=True))


COUNT = st.integers(0, 2**53)
JSON = st.recursive(
    st.none() | st.booleans() | COUNT | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def _of(annotation: Any) -> st.SearchStrategy[Any]:
    """Values that a field of a payload may have."""
    match msgspec.inspect.type_info(annotation):
        case msgspec.inspect.IntType():
            return COUNT
        case msgspec.inspect.AnyType():
            return JSON
        case msgspec.inspect.UnionType(types=types) if any(isinstance(kind, msgspec.inspect.IntType) for kind in types):
            return st.none() | COUNT
        case msgspec.inspect.UnionType(types=types) if any(isinstance(kind, msgspec.inspect.FloatType) for kind in types):
            return st.none() | st.floats(0, 1e9)
        case msgspec.inspect.FloatType():
            return st.floats(0, 1e9)
        case msgspec.inspect.StructType(cls=cls):
            return payloads(cls)
        case _:
            return st.from_type(annotation)


def payloads(shape: type[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct]:
    hints = {field.name: field.type for field in msgspec.structs.fields(shape)}
    required = {name: _of(hint) for name, hint in hints.items()}
    return st.builds(shape, **required)


EVENTS = st.sampled_from(sorted(facts.SHAPES)).flatmap(
    lambda type_: st.tuples(st.just(type_), payloads(facts.SHAPES[type_]), st.integers(1, 2**53), st.integers(0, 2**53))
)


def test_every_type_of_the_ledger_is_public_but_the_claim() -> None:
    """What is added to the ledger is added here, or left out on purpose."""
    assert set(facts.SHAPES) - set(published.KINDS) == {facts.CLAIMED}
    assert published.line(event("session.dreamt", None), KEY) is None


def test_mapping_schema_and_page_tell_of_the_same_types() -> None:
    """None is mapped without being described, or described without being mapped."""
    branches = [branch["if"]["properties"]["type"]["const"] for branch in SCHEMA["else"]["allOf"]]

    assert set(SCHEMA["properties"]["type"]["enum"]) == PUBLIC
    assert set(branches) == PUBLIC
    assert set(sections()) == PUBLIC


def test_mapping_schema_and_page_tell_of_the_same_fields() -> None:
    """Each field that an event may have stands in the schema and, in backticks, in its part of the page."""
    special = {"send": {"msg", "msg_truncated"}, "delivery": {"status"}, "exited": {"code"}, "usage": {"cumulative"}}
    times = {"until_us": "until", "expires_us": "expires", "deadline_us": "deadline"}
    for kind in published.KINDS.values():
        named = {times.get(name, name) for name in (*kind.always, *kind.sometimes)} | special.get(kind.type, set())
        described = SCHEMA["$defs"][kind.type]
        text = sections()[kind.type].partition("```")[0]

        assert set(described["properties"]) == named, kind.type
        assert set(described["required"]) <= named, kind.type
        assert {name for name in named if f"`{name}`" not in text} == set(), kind.type


def test_the_schema_is_one_and_refuses_what_it_does_not_describe() -> None:
    """It follows draft 2020-12, and an unknown type or a missing field is an error to it."""
    line = shown(facts.NOTED, facts.Noted(kind="k", text="t"))

    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert VALID.is_valid(line)
    for wrong in ({**line, "type": "noticed"}, {**line, "text": 5}, {name: line[name] for name in line if name != "kind"}):
        assert not VALID.is_valid(wrong), wrong


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_the_example_of_each_type_is_a_real_line(name: str) -> None:
    """It fits the schema, begins with the envelope, and names no field that no event has."""
    (text,) = re.findall(r"^```json\n(.*)\n```$", sections()[name], re.MULTILINE)
    example = json.loads(text)

    VALID.validate(example)
    assert list(example)[: len(ENVELOPE)] == ENVELOPE
    assert example["type"] == name
    assert set(example) - set(ENVELOPE) <= set(SCHEMA["$defs"][name]["properties"])


@given(EVENTS)
def test_a_line_of_any_event_fits_the_schema(given_: tuple[str, msgspec.Struct, int, int]) -> None:
    """Whatever the payload is, the line is one line of UTF-8 that the schema accepts, and it names the event's place."""
    type_, payload, seq, ts = given_
    line = published.line(event(type_, payload, seq=seq, ts=ts), KEY)
    if type_ == facts.CLAIMED:
        assert line is None
        return

    assert line is not None
    read = json.loads(line)
    VALID.validate(read)
    assert len(line.decode().splitlines()) == 1
    assert list(read)[: len(ENVELOPE)] == ENVELOPE
    assert set(read) - set(ENVELOPE) <= set(SCHEMA["$defs"][read["type"]]["properties"])
    assert (read["seq"], read["session"], read["id"]) == (seq, KEY, "w1")


@given(EVENTS)
def test_keys_come_in_one_order(given_: tuple[str, msgspec.Struct, int, int]) -> None:
    """Two lines of a type never name two fields in opposite orders."""
    type_, payload, seq, ts = given_
    line = published.public(event(type_, payload, seq=seq, ts=ts), KEY)
    if line is None:
        return

    order = list(published.public(event(type_, payload), KEY) or {})
    kind = published.KINDS[type_]
    names = [published.renamed(name) for name in (*kind.always, *kind.sometimes)]

    assert list(line) == order
    assert [name for name in line if name in names] == [name for name in names if name in line]


def test_a_field_that_has_nothing_to_tell_is_absent() -> None:
    """Neither null nor empty; what the schema requires is there even then, and false and zero are something."""
    line = shown(facts.ITEM_COMPLETED, facts.ItemCompleted(kind="tool", ok=False, exit_code=0, duration_ms=0))

    assert {name: line[name] for name in line if name not in ENVELOPE} == {
        "kind": "tool", "ok": False, "duration_ms": 0, "exit_code": 0,
    }  # fmt: skip
    assert shown(facts.TURN_STARTED, facts.TurnStarted(turn="t"))["message_ids"] == []


@pytest.mark.parametrize("type_", sorted(published.KINDS))
def test_of_an_erased_event_only_the_envelope_is_left(type_: str) -> None:
    """It says so, and the schema accepts it."""
    line = shown(type_, None)

    assert list(line) == [*ENVELOPE, "erased"]
    VALID.validate(line)


def test_a_payload_of_another_shape_costs_nobody_the_other_events() -> None:
    """The envelope is told, and that the rest cannot be read."""
    line = shown(facts.EXITED, facts.Noted(kind="k", text="t"))

    assert list(line) == [*ENVELOPE, "unreadable"]
    VALID.validate(line)


@pytest.mark.parametrize(("length", "cut"), [(0, False), (200, False), (201, True), (5000, True)])
def test_a_message_is_shown_to_200_characters(length: int, cut: bool) -> None:
    """Characters and not bytes; what is left out is said."""
    line = shown(facts.QUEUED, facts.Queued(message_id="m", text="ü" * length, expires_us=0))

    assert line["msg"] == "ü" * min(length, 200) + "…" * cut
    assert line["msg_truncated"] is cut


@pytest.mark.parametrize(("type_", "status"), [*facts.STATUS_AFTER.items()])
def test_every_status_of_a_message_is_told(type_: str, status: facts.MessageStatus) -> None:
    """Queued as `send`, all others as `delivery` with the status that the fold gives it too."""
    if type_ == facts.QUEUED:
        assert shown(type_, facts.Queued(message_id="m", text="t", expires_us=0))["type"] == "send"
        return

    line = shown(type_, facts.Moved(message_id="m", reason="r"))

    assert (line["type"], line["status"], line["message_id"], line["reason"]) == ("delivery", str(status), "m", "r")


@pytest.mark.parametrize(
    ("exited", "code"),
    [
        (facts.Exited(reason=facts.ExitReason.FAILURE, code=7), 7),
        (facts.Exited(reason=facts.ExitReason.KILLED, signal=9), 137),
        (facts.Exited(reason=facts.ExitReason.STOPPED, code=0, signal=15), 0),
        (facts.Exited(reason=facts.ExitReason.LOST), None),
    ],
)
def test_the_exit_code_is_the_shells(exited: facts.Exited, code: int | None) -> None:
    """A signal counts as 128 and its number; what nobody saw is null and not 0."""
    assert shown(facts.EXITED, exited)["code"] == code


def test_times_are_utc_with_microseconds() -> None:
    """Also where they fall on a whole second, and where a vendor names a moment that no calendar has."""
    limited = facts.Limited(kind="five_hour", until_us=1_772_442_000_000_000)

    line = shown(facts.LIMITED, limited, ts=1_772_442_000_000_250)

    assert (line["ts"], line["until"]) == ("2026-03-02T09:00:00.000250Z", "2026-03-02T09:00:00.000000Z")
    assert shown(facts.LIMITED, facts.Limited(kind="k", until_us=2**60))["until"] == "9999-12-31T23:59:59.999999Z"
    assert "until" not in shown(facts.LIMITED, facts.Limited(kind="k"))


def test_a_line_has_no_end_inside_for_any_reader() -> None:
    """Some readers split at U+2028 and U+0085 as well."""
    text = "a\u2028b\u2029c\x85d\ne"

    line = published.line(event(facts.NOTED, facts.Noted(kind="k", text=text)), KEY)

    assert line is not None
    assert line.decode().splitlines() == [line.decode()]
    assert json.loads(line)["text"] == text


def test_every_key_of_the_summary_is_on_the_page() -> None:
    """`session.json` has no secret keys, and the page names none that are not there."""
    session = summary_file.Session(key=KEY)
    claimed = facts.Claimed(
        id="w1", cli="claude", mode=facts.Mode.STREAM, argv=("claude",), cwd="/", machine="m", guard_pid=1, guard_started=1,
        host_pid=2, host_started=1,
    )  # fmt: skip
    queued = facts.Queued(message_id="m", text="t", expires_us=0)
    asked = facts.ApprovalRequested(request="r", tool="Bash")
    exited = facts.Exited(reason=facts.ExitReason.SUCCESS, code=0)
    told = ((facts.CLAIMED, claimed), (facts.QUEUED, queued), (facts.APPROVAL_REQUESTED, asked), (facts.EXITED, exited))
    for seq, (type_, payload) in enumerate(told, 1):
        session.fold(event(type_, payload, seq=seq))
    document: dict[str, Any] = summary_file.document(session)
    page = PAGE.partition("\n## session.json")[2]
    keys = set(document)
    for part in (document["state"], document["totals"], document["exited"], *document["inbox"], *document["approvals"]):
        keys |= set(part)

    assert {key for key in keys if f"`{key}`" not in page} == set()
    assert set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in page.splitlines() if row.startswith("|")))) <= keys
