"""What the programs' own records tell of tokens, as the real ones (Claude Code 2.1.329, Codex 0.169) wrote them, and worse."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sessions.dialects.claude.record import ClaudeRecord
from harness.sessions.dialects.codex.record import CodexRecord, read_rollout
from harness.sessions.dialects.tally import Tally
from harness.sessions.reports import Cumulative, Report

RECORDED = Path(__file__).parent / "recorded" / "records"
MODEL = "claude-opus-5-5"
LONG_AGO, NOW, LATER = 0.0, 2e9, 2e9 + 60
"""Seconds since 1970; the recorded lines are of November 2026."""


def recorded(name: str) -> list[bytes]:
    return (RECORDED / f"{name}.jsonl").read_bytes().splitlines()


def moment(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def said(id_: str, output: int, *, model: str = MODEL, at: float = LATER, **more: Any) -> bytes:
    """One line of Claude Code's."""
    usage = {"input_tokens": 100, "output_tokens": output, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 20}
    message = {"id": id_, "role": "assistant", "model": model, "content": [], "usage": usage, **more}
    return json.dumps({"message": message, "type": "assistant", "timestamp": moment(at)}, separators=(",", ":")).encode()


def counted(total: int, *, last: int | None = None, at: float = LATER) -> bytes:
    """One line of Codex's."""

    def usage(tokens: int) -> dict[str, int]:
        return {"input_tokens": tokens, "cached_input_tokens": 0, "output_tokens": 0, "reasoning_output_tokens": 0}

    info = {"total_token_usage": usage(total), "last_token_usage": usage(total if last is None else last)}
    return json.dumps({"timestamp": moment(at), "type": "event_msg", "payload": {"type": "token_count", "info": info}}).encode()


def context(model: str) -> bytes:
    return json.dumps({"timestamp": moment(LATER), "type": "turn_context", "payload": {"model": model}}).encode()


def used(reports: Iterable[Report]) -> dict[str, int]:
    """Input tokens by model that this run used, as the host reckons them from such reports."""
    at: dict[str, int] = {}
    found: dict[str, int] = {}
    for report in reports:
        assert isinstance(report, Cumulative)
        if not report.before:
            found[report.model] = found.get(report.model, 0) + max(0, report.input_tokens - at.get(report.model, 0))
        at[report.model] = report.input_tokens
    return found


def claude(lines: Iterable[bytes], *, began: float = NOW) -> list[Report]:
    record = ClaudeRecord(began)
    for line in lines:
        record.feed(line)
    return record.told()


def codex(lines: Iterable[bytes], *, began: float = NOW) -> list[Report]:
    record = CodexRecord(began)
    for line in lines:
        record.feed(line)
    return record.told()


# Claude Code


def test_each_message_of_a_real_record_counts_once() -> None:
    """One of three blocks and two calls has four lines; the sub-agent has a file of its own, and what nobody said is free."""
    record = ClaudeRecord(LONG_AGO)

    for line in recorded("claude"):
        record.feed(line)
    alone = record.told()
    for line in recorded("claude_agent"):
        record.feed(line)

    begin, end = alone
    assert begin == Cumulative(model=MODEL, before=True, turn=end.turn)
    assert (end.input_tokens, end.cached_tokens, end.cache_write_tokens) == (
        100 + 100 + 110 + 1000 + 2000 + 100 + 100 + 100,
        100,
        23,
    )
    assert end.output_tokens == 2 + 7 + 9 + 1 + 2 + 2 + 6 + 2
    assert end.turn
    (with_agent,) = record.told()
    assert with_agent.input_tokens - end.input_tokens == 10_000 + 20_000
    assert record.told() == []


def test_what_another_session_had_said_is_not_counted_again() -> None:
    """A fork has the earlier lines with their own times: they are where it begins."""
    times = [json.loads(line)["timestamp"] for line in recorded("claude_fork") if b'"assistant"' in line]
    assert len(times) == 2
    from datetime import datetime

    between = sum(datetime.fromisoformat(time).timestamp() for time in times) / 2

    reports = claude(recorded("claude_fork"), began=between)

    assert [(each.before, each.input_tokens) for each in reports] == [(True, 100), (False, 200)]


def test_the_last_line_of_a_message_is_right() -> None:
    """Also where it says less than one before, and where another message came between them."""
    record = ClaudeRecord(NOW)
    for line in (said("a", 1), said("b", 3), said("a", 9), said("b", 2)):
        record.feed(line)

    assert [each.output_tokens for each in record.told()] == [0, 11]

    record.feed(said("a", 9))
    assert record.told() == []
    record.feed(said("a", 12))
    assert [(each.before, each.output_tokens) for each in record.told()] == [(False, 14)]


def test_two_models_are_counted_apart() -> None:
    """Each begins where it stood when this run began, which is at nothing for one that is new."""
    lines = [said("a", 1, at=NOW - 60), said("b", 1), said("c", 1, model="small"), said("d", 1, model="<synthetic>")]

    reports = claude(lines)

    assert [(each.model, each.before, each.input_tokens) for each in reports] == [
        (MODEL, True, 100), (MODEL, False, 200), ("small", True, 0), ("small", False, 100)
    ]  # fmt: skip


def test_what_is_found_later_to_be_older_moves_the_beginning() -> None:
    """A sub-agent of an earlier run that goes on has old lines as well."""
    record = ClaudeRecord(NOW)
    record.feed(said("a", 1))
    reports = record.told()
    for line in (said("b", 1, at=NOW - 60), said("c", 1)):
        record.feed(line)
    reports += record.told()

    assert used(reports) == {MODEL: 200}
    assert reports[-1].input_tokens == 300


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"\xff\xfe\x00", b"[]", b'{"type":"assistant","message":{"usage":', b'"usage" "assistant"',
        b'{"type":"assistant","message":"usage"}', b'{"type":"assistant","message":{"id":7,"model":"m","usage":{}}}',
        b'{"type":"assistant","message":{"id":"x","model":"m","usage":[]}}', b"[" * 100_000 + b'"usage" "assistant"',
        b'{"type":"user","message":{"id":"x","model":"m","usage":{"input_tokens":7}},"says":"assistant"}',
        b'{"promptId":7,"type":"user"}',
    ],
)  # fmt: skip
def test_garbage_in_a_record_is_passed_over(line: bytes) -> None:
    """Whatever a line holds, the others count."""
    assert used(claude([said("a", 1), line, said("b", 1)])) == {MODEL: 200}


def test_numbers_that_are_none_count_nothing() -> None:
    """Negative, huge, or another type."""
    odd = (
        said("a", 1).replace(b'"input_tokens":100', b'"input_tokens":-5').replace(b'"output_tokens":1', b'"output_tokens":"1"')
    )
    huge = said("b", 1).replace(b'"input_tokens":100', b'"input_tokens":1e300')

    reports = claude([odd, huge])

    assert [(each.input_tokens, each.output_tokens, each.cached_tokens) for each in reports] == [(0, 0, 0), (0, 1, 80)]


def test_half_a_letter_costs_no_message() -> None:
    """JavaScript writes halves of surrogate pairs where it has cut a text in two."""
    line = said("a", 1, content=[{"type": "text", "text": "cut HERE"}]).replace(b"HERE", b"\\ud83d")

    assert used(claude([line])) == {MODEL: 100}


def test_messages_are_not_remembered_for_ever() -> None:
    """A session of a month must not fill the host."""
    record = ClaudeRecord(NOW)
    for number in range(10_000):
        record.feed(said(f"m{number}", 1))

    assert len(record._messages) <= 4096  # pyright: ignore[reportPrivateUsage]
    assert used(record.told()) == {MODEL: 1_000_000}


# Codex


def test_a_real_rollout_is_counted_by_its_totals() -> None:
    """Its input is what no cache held, as everywhere."""
    begin, end = codex(recorded("codex"), began=LONG_AGO)

    assert begin == Cumulative(model="gpt-5.5-codex", before=True)
    assert (end.input_tokens, end.cached_tokens, end.output_tokens) == (633 - 100, 100, 25)


def test_a_resumed_thread_begins_where_it_stood() -> None:
    """What was counted before this run began is not counted again."""
    lines = [
        context("m"),
        counted(100, at=NOW - 60),
        counted(250, last=150, at=NOW - 50),
        counted(300, last=50),
        counted(300, last=50),
    ]

    reports = codex(lines)

    assert [(each.before, each.input_tokens) for each in reports] == [(True, 250), (False, 300)]


def test_a_forked_thread_begins_where_the_other_stood() -> None:
    """It has none of the other's lines, and goes on with its total."""
    reports = codex(recorded("codex_fork"), began=LONG_AGO)

    assert [(each.before, each.input_tokens) for each in reports] == [(True, 3000), (False, 3100)]


def test_what_is_new_goes_to_the_model_of_the_moment() -> None:
    """A thread's total knows no models; threads have their own."""
    record = CodexRecord(NOW)
    for line in (context("big"), counted(100), context("small"), counted(130, last=30)):
        record.feed(line, "one")
    for line in (context("big"), counted(7)):
        record.feed(line, "two")

    assert used(record.told()) == {"big": 107, "small": 30}


def test_a_rollout_without_sense_counts_nothing() -> None:
    """Also one whose totals go back, or have no info."""
    empty = b'{"type":"event_msg","payload":{"type":"token_count","info":null}}'
    lines = [context("m"), empty, b'{"token_count"', b'"token_count"', counted(100), counted(40, last=40), counted(60, last=20)]

    assert used(codex(lines)) == {"m": 120}


def test_a_rollout_says_what_it_is_of() -> None:
    """Its thread, folder and prompts; any other file says nothing."""
    rollout = read_rollout(recorded("codex"))

    assert rollout.thread.startswith("01a229")
    assert rollout.cwd == "/w/work"
    assert "says one" in rollout.prompts
    assert read_rollout([]).thread == read_rollout([b"{"]).thread == read_rollout(recorded("claude")).thread == ""


# Sums


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 1000), st.booleans(), st.booleans()),
        max_size=30,
    )
)
def test_nothing_is_lost_and_nothing_counted_twice(steps: list[tuple[str, int, bool, bool]]) -> None:
    """However often it is told, what the host makes of it is what was used since this run began."""
    tally, reports = Tally(), list[Report]()
    ours: dict[str, int] = {}
    for model, tokens, before, tell in steps:
        tally.add(model, (tokens, 0, 0, 0, 0), before=before)
        if not before:
            ours[model] = ours.get(model, 0) + tokens
        if tell:
            reports += tally.told("")
    reports += tally.told("")

    assert used(reports) == {model: tokens for model, tokens in ours.items() if tokens}
