"""Lines that no Claude Code should write, and real ones (2.1.329) that were damaged: nothing raises, nothing is lost."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sessions import facts
from harness.sessions.dialects.claude_stream import ClaudeStream
from harness.sessions.reports import (
    ApprovalAsked,
    Decision,
    Progress,
    Report,
)

Told = TypeVar("Told")
RECORDED = Path(__file__).parent / "recorded" / "claude"
NAMES = sorted(path.stem for path in RECORDED.glob("*.jsonl"))


def recorded(name: str) -> list[bytes]:
    return (RECORDED / f"{name}.jsonl").read_bytes().splitlines()


def stream() -> ClaudeStream:
    """A dialect that has been opened, as a host does."""
    dialect = ClaudeStream()
    dialect.opening()
    return dialect


def told(lines: Iterable[bytes], dialect: ClaudeStream | None = None) -> list[Report]:
    """What these lines tell, without mere signs of life; whatever is asked is allowed."""
    dialect = dialect or stream()
    found: list[Report] = []
    for line in lines:
        for report in dialect.feed(line).reports:
            if isinstance(report, ApprovalAsked):
                dialect.decide(report.request, Decision(allow=True))
            if not isinstance(report, Progress):
                found.append(report)
    return found


def only(kind: type[Told], reports: Iterable[Report]) -> list[Told]:
    return [report for report in reports if isinstance(report, kind)]


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def said(data: bytes) -> Any:
    """The one line of JSON that is to be written."""
    assert data.endswith(b"\n")
    assert data.count(b"\n") == 1
    return json.loads(data)


def test_nothing_that_the_real_program_wrote_is_unrecognised() -> None:
    """All recordings, in which nothing is noted as output that is no JSON either."""
    for name in NAMES:
        reports = told(recorded(name))
        assert only(facts.Unrecognised, reports) == [], name
        assert not any(noted.kind == "output" for noted in only(facts.Noted, reports)), name


@pytest.mark.parametrize("name", [name for name in NAMES if name != "no_such_session"])
def test_every_turn_that_began_is_over_once(name: str) -> None:
    """In each recording the turns that are completed are those that were started, in order."""
    reports = told(recorded(name))

    begun = [turn.turn for turn in only(facts.TurnStarted, reports)]
    over = [turn.turn for turn in only(facts.TurnCompleted, reports)]
    assert begun == over
    assert len(set(begun)) == len(begun)


def test_what_is_not_json_is_noted() -> None:
    """A warning of a wrapper on stdout must not stop the session."""
    assert told([b"npm warn \x1b[31mold\x1b[0m \xff"]) == [facts.Noted(kind="output", text="npm warn old \ufffd")]


def test_an_unknown_kind_is_kept_raw_and_clipped() -> None:
    """Nothing is dropped; a megabyte of it is not written down either."""
    (unknown,) = told([line(type="telepathy", thought="x" * 1_000_000)])

    assert isinstance(unknown, facts.Unrecognised)
    assert unknown.kind == "telepathy"
    assert len(unknown.raw) <= 2_000
    assert unknown.raw.startswith('{"type": "telepathy"')
    assert told([b"[1]", b"{}", line(type="system", subtype="dream")]) == [
        facts.Unrecognised(kind="no object", raw="[1]"),
        facts.Unrecognised(kind="no type", raw="{}"),
        facts.Unrecognised(kind="system/dream", raw='{"type": "system", "subtype": "dream"}'),
    ]


def test_keep_alive_is_no_sign_of_progress() -> None:
    """It says that the program's loop turns, and nothing about the agent."""
    assert stream().feed(line(type="keep_alive")).reports == ()


def test_half_a_letter_does_not_cost_the_line() -> None:
    """JavaScript cuts texts between the halves of a surrogate pair, and writes the half as an escape."""
    cut = rb'{"type":"result","subtype":"success","is_error":false,"result":"cut \ud83d"}'

    (turn,) = only(facts.TurnCompleted, told([cut]))

    assert turn.summary == "cut ?"


def test_lines_that_are_nested_too_deep_are_no_reason_to_fall() -> None:
    """However deep."""
    dialect = stream()
    for depth in (*range(800, 1000), 20_000):
        nested = b"[" * depth + b"]" * depth
        dialect.feed(b'{"type":"control_request","request_id":"r1","request":{"subtype":"x","a":%s}}' % nested)
        dialect.feed(b'{"type":"assistant","message":{"content":[{"type":"tool_use","name":"x","input":{"a":%s}}]}}' % nested)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
REAL = [each for name in NAMES for each in recorded(name)]


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place in a decoded line."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(each for key, inner in below for each in places(inner, (*path, key)))]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real line in which something is missing or is another thing."""
    value = copy.deepcopy(json.loads(draw(st.sampled_from(REAL))))
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from([place for place in places(value) if place]))
        inner = value
        for step in parents:
            inner = inner[step]
        if draw(st.booleans()):
            inner[last] = draw(JSON)
        else:
            del inner[last]
        if not value:
            break
    return json.dumps(value).encode()


def survives(dialect: ClaudeStream, line_: bytes) -> None:
    """It is read, what it tells can be written down, and what is answered is one line of JSON."""
    step = dialect.feed(line_)
    for report in step.reports:
        msgspec.json.encode(report)
        if isinstance(report, ApprovalAsked):
            said(dialect.decide(report.request, Decision(allow=True, reason="yes")))
    for reply in step.replies:
        said(reply)


@given(st.lists(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()), max_size=8))
def test_any_bytes_are_read(lines: list[bytes]) -> None:
    """Garbage raises nothing."""
    dialect = stream()
    for each in lines:
        survives(dialect, each)


@given(st.lists(mutated() | st.sampled_from(REAL), max_size=12))
def test_real_lines_that_are_damaged_and_in_any_order_are_read(lines: list[bytes]) -> None:
    """Fields of other types, missing fields, turns that end before they begin."""
    dialect = stream()
    for each in lines:
        survives(dialect, each)
    dialect.interrupt()
    dialect.probe()
