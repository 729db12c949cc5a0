"""Claude Code's lines, as the real program (2.1.329) wrote them, read into reports."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from harness.errors import UsageError
from harness.sessions import facts
from harness.sessions.dialects.base import LineDialect
from harness.sessions.dialects.claude_stream import ClaudeStream
from harness.sessions.facts import Mode, State
from harness.sessions.reports import (
    ApprovalAsked,
    Cumulative,
    Decision,
    Outgoing,
    Progress,
    Reading,
    Receipt,
    Report,
)

Told = TypeVar("Told")
RECORDED = Path(__file__).parent / "recorded" / "claude"
MESSAGE = "0f3a9c21-7a4e-4c55-9d3c-0d8f1f0f6c11"


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


def states(reports: Iterable[Report]) -> list[tuple[State, str]]:
    """States and details, repetitions left out."""
    found: list[tuple[State, str]] = []
    for reading in only(Reading, reports):
        if not found or found[-1] != (reading.state, reading.detail):
            found.append((reading.state, reading.detail))
    return found


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


# Turns, state, messages


def test_it_is_a_line_dialect() -> None:
    """It has everything that a host calls, and says what it can."""
    dialect: LineDialect = ClaudeStream()

    assert dialect.can == {"messages", "steer", "interrupt", "approve", "receipts", "probe", "usage", "resume"}
    assert ClaudeStream(Mode.ONCE).can == {"usage", "resume"}


def test_the_answer_to_the_greeting_is_the_first_sign_of_the_prompt() -> None:
    """Before any turn the program says nothing by itself; that it has started is told by its first answer."""
    dialect = ClaudeStream()
    (greeting,) = dialect.opening()
    answer = recorded("allowed_and_denied")[0]

    reports = told([answer], dialect)

    assert json.loads(greeting)["request"]["subtype"] == "initialize"
    assert states(reports) == [(State.PROMPT, "")]
    assert only(facts.Identified, reports) == [facts.Identified(cli_version="2.1.329")]


def test_a_turn_with_a_tool_is_told_in_order() -> None:
    """Busy, a receipt, the turn, an approval, the call, the text, the count, the end, the prompt: in that order."""
    lines = recorded("allowed_and_denied")
    end = next(at for at, each in enumerate(lines) if b'"state":"idle"' in each)

    reports = told(lines[1 : end + 1])

    kinds = [type(report).__name__ for report in reports if not isinstance(report, Reading)]
    assert kinds == [
        "Receipt", "TurnStarted", "Receipt", "Identified", "ApprovalAsked", "ItemCompleted", "ItemCompleted", "Cumulative",
        "TurnCompleted", "Receipt",
    ]  # fmt: skip
    assert states(reports) == [(State.BUSY, ""), (State.BLOCKED, "permission"), (State.BUSY, ""), (State.PROMPT, "")]
    queued, started, done = only(Receipt, reports)
    assert (queued.stage, queued.turn, queued.proof) == ("accepted", "", "queued")
    assert (started.stage, started.proof) == ("accepted", "started")
    (begun,), (over,) = only(facts.TurnStarted, reports), only(facts.TurnCompleted, reports)
    assert begun.turn == started.turn == over.turn == done.turn
    assert begun.message_ids == over.message_ids == (queued.message_id,)
    assert (over.outcome, over.summary, over.error, over.more) == ("success", "Made it.", "", False)
    call, text = only(facts.ItemCompleted, reports)
    assert (call.kind, call.name, call.summary, call.ok, call.duration_ms) == ("tool", "Bash", "touch made-by-tool", True, None)
    assert (text.kind, text.summary) == ("text", "Made it.")


def test_what_the_program_says_of_itself_is_told_once() -> None:
    """Every turn begins with the same words about itself; only what is new is reported."""
    first, *rest = only(facts.Identified, told(recorded("allowed_and_denied")[1:]))

    assert first.vendor_session == "f79d338d-f758-4c3c-885f-fd1098578ac6"
    assert first.model == "claude-opus-5-5"
    assert first.cli_version == "2.1.329"
    assert first.transcript == f"/home/user/home/.claude/projects/-home-user-w/{first.vendor_session}.jsonl"
    assert "msg_lifecycle_v1" in first.capabilities
    assert rest == []


def test_after_clear_the_program_has_another_session_and_counts_anew() -> None:
    """`/clear` changes the session's id; the counters go back to nothing, which is said before they are read."""
    reports = told(recorded("odd_lines"))

    first, cleared = only(facts.Identified, reports)
    assert first.vendor_session != cleared.vendor_session
    assert (cleared.model, cleared.cli_version) == ("", "")
    counted = [(usage.before, usage.input_tokens) for usage in only(Cumulative, reports)]
    assert counted == [(False, 100), (False, 200), (False, 300), (False, 400), (True, 0), (False, 100), (False, 200)]


def test_a_denied_call_is_one_that_failed() -> None:
    """The turn goes on after a denial, and is interrupted by one that asks for it."""
    reports = told(recorded("allowed_and_denied"))

    calls = [item for item in only(facts.ItemCompleted, reports) if item.kind == "tool"]
    assert [(call.ok, call.summary.split("\n")[0]) for call in calls] == [
        (True, "touch made-by-tool"), (False, "touch other"), (False, "touch third"),
    ]  # fmt: skip
    assert calls[1].summary == "touch other\nnot on this branch"
    assert [turn.outcome for turn in only(facts.TurnCompleted, reports)] == ["success", "success", "interrupted"]


def test_messages_that_come_while_it_works_join_the_turn_or_wait() -> None:
    """Priority `next` is taken into the turn under way, and done with it; `later` gets a turn of its own."""
    reports = told(recorded("two_while_busy"))

    first, second = only(facts.TurnCompleted, reports)
    assert len(first.message_ids) == 2
    assert len(second.message_ids) == 1
    assert (first.more, second.more) == (True, False)
    place = reports.index(first)
    done = [at for at, report in enumerate(reports) if isinstance(report, Receipt) and report.stage == "done"]
    assert len(done) == 3
    assert min(done) > place
    joined = [receipt for receipt in only(Receipt, reports) if receipt.message_id == first.message_ids[1]]
    assert [(receipt.stage, receipt.turn) for receipt in joined] == [
        ("accepted", ""), ("accepted", first.turn), ("done", first.turn),
    ]  # fmt: skip
    assert states(reports) == [(State.BUSY, ""), (State.PROMPT, "")]


def test_priority_now_ends_the_turn_under_way() -> None:
    """Which is why a steering message is not sent with it."""
    reports = told(recorded("priority_now"))

    assert [turn.outcome for turn in only(facts.TurnCompleted, reports)] == ["interrupted", "success"]
    assert [receipt.stage for receipt in only(Receipt, reports) if receipt.stage != "accepted"] == ["cancelled", "done"]


def test_an_interrupted_turn_cancels_its_message_and_the_next_one_runs() -> None:
    """What waited in the program's own queue is taken up after an interruption."""
    reports = told(recorded("interrupted"))

    turns = only(facts.TurnCompleted, reports)
    assert [turn.outcome for turn in turns] == ["interrupted", "interrupted", "success", "success"]
    assert turns[0].error == "aborted_streaming"
    assert [turn.more for turn in turns] == [False, True, False, False]
    assert [receipt.stage for receipt in only(Receipt, reports) if receipt.stage != "accepted"] == [
        "cancelled", "cancelled", "done", "done",
    ]  # fmt: skip


def test_a_message_that_is_cancelled_before_any_turn_has_none() -> None:
    """The program gives up what waits when it is told to."""
    receipts = only(Receipt, told(recorded("cancelled_in_queue")))

    cancelled = [receipt for receipt in receipts if receipt.stage == "cancelled"]
    assert [bool(receipt.turn) for receipt in cancelled] == [False, True]


def test_the_same_message_again_begins_no_turn() -> None:
    """A program that continues a session knows the messages it had: it says so and does nothing."""
    reports = told(recorded("same_id_again"))

    assert only(facts.TurnStarted, reports) == []
    assert [(receipt.stage, receipt.proof) for receipt in only(Receipt, reports)] == 2 * [
        ("accepted", "replayed"), ("done", "it had been taken up before"),
    ]  # fmt: skip
    assert states(reports) == [(State.PROMPT, "")]


@pytest.mark.parametrize(
    ("name", "outcomes"),
    [
        ("provider_errors", ["error", "error", "error", "success", "error"]),
        ("max_turns", ["limit", "limit"]),
        ("max_budget", ["limit", "limit"]),
        ("once_failed", ["error"]),
    ],
)
def test_a_turn_that_failed_is_not_called_a_success(name: str, outcomes: list[str]) -> None:
    """`subtype` says success of a turn that an API error ended; the other fields are believed."""
    reports = told(recorded(name))

    turns = only(facts.TurnCompleted, reports)
    assert [turn.outcome for turn in turns] == outcomes
    assert all(turn.error for turn in turns if turn.outcome != "success")
    errors = [item for item in only(facts.ItemCompleted, reports) if item.kind == "error"]
    assert len(errors) == outcomes.count("error")


@pytest.mark.parametrize(
    ("before", "fields", "outcome"),
    [
        ([], {"subtype": "error_max_turns"}, "limit"),
        ([], {"subtype": "error_max_structured_output_retries"}, "error"),
        ([], {"is_error": True, "terminal_reason": "prompt_too_long"}, "error"),
        ([], {"stop_reason": "refusal"}, "refused"),
        ([line(type="system", subtype="model_refusal_no_fallback")], {"is_error": True}, "refused"),
        ([line(type="system", subtype="model_refusal_no_fallback")], {}, "success"),
        ([line(type="rate_limit_event", rate_limit_info={"status": "rejected"})], {}, "success"),
        ([line(type="rate_limit_event", rate_limit_info={"status": "rejected"})], {"is_error": True}, "limit"),
    ],
)
def test_how_a_turn_ended_is_read_from_all_that_was_said(before: list[bytes], fields: dict[str, Any], outcome: str) -> None:
    """Some ends have not been seen of a real program here: they are as its types have them."""
    reports = told([line(type="system", subtype="init", uuid="t1"), *before, result(**fields)])

    assert [turn.outcome for turn in only(facts.TurnCompleted, reports)] == [outcome]


def test_the_message_of_a_failed_turn_has_failed() -> None:
    """The program calls it cancelled, whatever the reason."""
    stages = [receipt.stage for receipt in only(Receipt, told(recorded("provider_errors"))) if receipt.stage != "accepted"]

    assert stages == ["failed", "failed", "failed", "done", "failed"]


def test_a_provider_that_fails_is_retried_and_the_agent_is_still_busy() -> None:
    """Each announced attempt is told with its number, its delay and the reason."""
    reports = told(recorded("provider_errors"))

    first = only(facts.Retried, reports)[0]
    assert first == facts.Retried(attempt=1, maximum=2, delay_seconds=0.567, error="529 overloaded")
    assert set(states(reports)) == {(State.BUSY, ""), (State.PROMPT, "")}


def test_a_call_that_a_limit_forestalled_has_no_result() -> None:
    """The budget was used up between the call and its execution: it is told as one that did not succeed."""
    calls = [item for item in only(facts.ItemCompleted, told(recorded("max_budget"))) if item.kind == "tool"]

    assert [(call.ok, call.summary) for call in calls] == [(False, "echo 1 (no result)")]


def test_a_usage_limit_holds_the_session_though_it_calls_itself_idle() -> None:
    """The program is at its prompt, but what is sent would fail until the limit is over."""
    reports = told(recorded("usage_limit"))

    assert only(facts.Limited, reports) == [facts.Limited(kind="five_hour", until_us=1795989267_000000)]
    assert states(reports) == [(State.BUSY, ""), (State.LIMITED, "five_hour")]
    assert only(Reading, reports)[-1].until_us == 1795989267_000000
    assert only(facts.TurnCompleted, reports)[0].outcome == "limit"


def test_a_limit_that_another_turn_has_outlived_is_over() -> None:
    """The next turn runs, and the prompt after it is one."""
    dialect = stream()
    told(recorded("usage_limit"), dialect)

    reports = told(recorded("continued"), dialect)

    assert states(reports) == [(State.BUSY, ""), (State.PROMPT, "")]


def test_a_limit_is_over_when_the_model_answers_after_all() -> None:
    """Such as after a change to another model within the turn."""
    dialect = stream()
    *before, answer, over, _completed, _idle = recorded("continued")

    reports = told([*before, limit(resetsAt=9), answer, over], dialect)

    assert states(reports)[-3:] == [(State.BUSY, ""), (State.LIMITED, "seven_day"), (State.BUSY, "")]
    assert only(facts.TurnCompleted, reports)[0].outcome == "success"


def limit(status: str = "rejected", **info: Any) -> bytes:
    return line(type="rate_limit_event", rate_limit_info={"status": status, "rateLimitType": "seven_day", **info})


def state(name: str) -> bytes:
    return line(type="system", subtype="session_state_changed", state=name)


def result(**fields: Any) -> bytes:
    return line(**{"type": "result", "subtype": "success", "is_error": False, "uuid": "t1", **fields})


def test_a_limit_is_over_when_the_next_turn_runs_even_if_that_fails() -> None:
    """It fails of something else then."""
    dialect = stream()
    told(recorded("usage_limit"), dialect)

    reports = told(recorded("once_failed"), dialect)

    assert states(reports) == [(State.BUSY, ""), (State.PROMPT, "")]
    assert only(facts.TurnCompleted, reports)[0].outcome == "error"


def test_a_limit_holds_through_an_approval_within_its_turn() -> None:
    """Leave that is given begins no new turn."""
    dialect = stream()
    told([state("running"), limit(), state("requires_action"), state("running")], dialect)

    assert states(told([state("idle")], dialect)) == [(State.LIMITED, "seven_day")]


def test_a_limit_that_is_lifted_at_the_prompt_makes_it_one() -> None:
    """Also where credits are used beyond the limit, nothing holds the session."""
    dialect = stream()
    told([state("running"), limit(), state("idle")], dialect)

    assert told([limit("allowed")], dialect) == [
        Reading(state=State.PROMPT, source=facts.Source.PROTOCOL, evidence="rate_limit_event")
    ]
    assert only(Reading, told([limit(isUsingOverage=True)], dialect)) == []


@pytest.mark.parametrize("resets", [None, -5, 0, True, "soon", 1e30])
def test_a_limit_without_a_moment_lasts_for_nobody_knows_how_long(resets: object) -> None:
    """A moment that cannot be is none."""
    assert only(facts.Limited, told([limit(resetsAt=resets)])) == [facts.Limited(kind="seven_day")]


def test_a_program_that_does_not_tell_its_state_is_limited_too() -> None:
    """At the result there is nothing to go by but what was said before."""
    reports = told([line(type="system", subtype="init", uuid="t1"), limit(), result(is_error=True)])

    assert states(reports) == [(State.BUSY, ""), (State.LIMITED, "seven_day")]


def test_a_warning_about_a_limit_is_noted_and_holds_nothing() -> None:
    """Only a rejection is a limit."""
    info = {"status": "allowed_warning", "rateLimitType": "five_hour", "utilization": 0.91}

    assert told([line(type="rate_limit_event", rate_limit_info=info)]) == [
        facts.Noted(kind="rate_limit", text="five_hour: allowed_warning, 91% used")
    ]


# Background work and sub-agents


def test_a_turn_is_not_the_last_one_while_work_goes_on_in_the_background() -> None:
    """The program is at its prompt, wakes of itself when the command has ended, and takes a turn nobody asked for."""
    reports = told(recorded("background_command"))

    first, second = only(facts.TurnCompleted, reports)
    assert (first.more, second.more) == (True, False)
    assert second.message_ids == ()
    assert states(reports) == [(State.BUSY, ""), (State.PROMPT, ""), (State.BUSY, ""), (State.PROMPT, "")]
    (notice,) = [item for item in only(facts.ItemCompleted, reports) if item.kind == "notice"]
    assert notice.ok
    assert "completed (exit code 0)" in notice.summary


def test_the_programs_own_background_tasks_are_waited_for_by_nobody() -> None:
    """They are called ambient."""
    tasks = [{"task_id": "b1", "ambient": True}]
    changed = line(type="system", subtype="background_tasks_changed", tasks=tasks)

    assert [turn.more for turn in only(facts.TurnCompleted, told([changed, result()]))] == [False]


def test_turns_that_wait_in_the_program_are_more_to_come() -> None:
    """It is not at its prompt between them."""
    reports = told([line(type="system", subtype="init", uuid="t1"), result(queued_turn_count=1)])

    assert [turn.more for turn in only(facts.TurnCompleted, reports)] == [True]
    assert states(reports) == [(State.BUSY, "")]


def test_what_a_sub_agent_does_is_told_as_its_own() -> None:
    """The session stays busy between the agent's turn and that in which it hears from its sub-agent."""
    reports = told(recorded("sub_agent"))

    items = only(facts.ItemCompleted, reports)
    assert [(item.kind, bool(item.agent)) for item in items] == [
        ("tool", False), ("text", False), ("tool", True), ("text", True), ("notice", True), ("text", False),
    ]  # fmt: skip
    assert all(item.ok for item in items)
    assert len({item.agent for item in items}) == 2
    assert states(reports) == [(State.BUSY, ""), (State.PROMPT, "")]
    assert only(facts.TurnCompleted, reports)[0].more


def test_a_sub_agent_that_asks_blocks_the_session_though_the_turn_is_over() -> None:
    """A result is not the prompt."""
    reports = told(recorded("sub_agent_asks"))

    assert len(only(ApprovalAsked, reports)) == 1
    assert states(reports) == [(State.BUSY, ""), (State.BLOCKED, "permission"), (State.BUSY, ""), (State.PROMPT, "")]


# Tools


def test_calls_are_told_with_what_they_touched_and_how_long_they_took() -> None:
    """A written file has its path; a file that was read has not."""
    items = [item for item in only(facts.ItemCompleted, told(recorded("files_written"))) if item.kind == "tool"]

    assert [(item.name, item.paths) for item in items] == [
        ("Write", ("/home/user/w/f.txt",)), ("Read", ()), ("Edit", ("/home/user/w/f.txt",)),
    ]  # fmt: skip
    assert all(item.duration_ms is not None and item.duration_ms < 1000 for item in items)


def test_the_same_call_has_the_same_digest_whatever_the_order_of_its_arguments() -> None:
    """An agent that repeats itself is known by it."""

    def call(given: dict[str, Any]) -> str:
        use = {"type": "tool_use", "id": "t1", "name": "Bash", "input": given}
        failed = {"type": "tool_result", "tool_use_id": "t1", "content": "Exit code 3\nno", "is_error": True}
        lines = [
            line(type="assistant", message={"content": [use]}),
            line(type="user", message={"content": [failed]}),
        ]
        (item,) = only(facts.ItemCompleted, told(lines))
        assert (item.ok, item.exit_code, item.summary) == (False, 3, "ls\nExit code 3\nno")
        return item.call

    assert call({"command": "ls", "timeout": 5}) == call({"timeout": 5, "command": "ls"})
    assert call({"command": "ls", "timeout": 5}) != call({"command": "ls", "timeout": 6})


def test_a_long_command_shows_signs_of_life_while_it_runs() -> None:
    """The heartbeat of a tool is progress in a tool; its result ends that."""
    dialect = stream()
    progress = [report for each in recorded("long_command") for report in only(Progress, dialect.feed(each).reports)]

    in_tool = [report.in_tool for report in progress if report.what == "tool"]
    assert in_tool == [True, True, False]
    assert [item.kind for item in only(facts.ItemCompleted, told(recorded("long_command")))] == ["tool", "text"]


def test_calls_whose_results_never_come_are_not_remembered_for_ever() -> None:
    """The oldest of a thousand are let go."""
    uses = [{"type": "tool_use", "id": f"t{number}", "name": "Bash", "input": {}} for number in range(1_001)]
    lines = [line(type="assistant", message={"content": [use]}, agent_id="a1") for use in uses]
    results = [{"type": "tool_result", "tool_use_id": use["id"]} for use in uses]

    reports = told([*lines, line(type="user", message={"content": results})])

    assert len(only(facts.ItemCompleted, reports)) == 1_000


def test_partial_messages_and_hooks_are_progress_and_no_events() -> None:
    """They are many; nothing of them is written down. A hook that is ours is answered."""
    dialect = stream()
    steps = [dialect.feed(each) for each in recorded("partial_messages")]

    what = {report.what for step in steps for report in only(Progress, step.reports)}
    assert {"text", "tokens", "heartbeat", "tool"} <= what
    (reply,) = [json.loads(reply) for step in steps for reply in step.replies]
    assert reply["response"]["response"] == {}
    assert [noted.kind for step in steps for noted in only(facts.Noted, step.reports)] == ["hook_callback", "informational"]


def test_a_compaction_is_told_with_its_size() -> None:
    """The agent is busy meanwhile."""
    reports = told(recorded("compaction"))

    (item,) = [item for item in only(facts.ItemCompleted, reports) if item.kind == "compaction"]
    assert item.summary == "manual: 111 to 2610 tokens"
    assert (State.BUSY, "compacting") in states(reports)
    assert states(reports)[-2:] == [(State.BUSY, ""), (State.PROMPT, "")]


# Usage


def test_counters_are_cumulative_and_told_only_when_they_move() -> None:
    """The sums of the session, as they stand after each turn."""
    counted = only(Cumulative, told(recorded("allowed_and_denied")))

    assert [usage.input_tokens for usage in counted] == [200, 400, 500]
    assert [round(usage.cost_usd or 0, 6) for usage in counted] == [0.00124, 0.00248, 0.00308]
    assert not any(usage.before for usage in counted)


def test_a_continued_session_says_first_what_was_used_before() -> None:
    """Otherwise a session would be charged for what its predecessor has used."""
    before, now = only(Cumulative, told(recorded("continued")))

    assert (before.before, before.input_tokens, before.output_tokens) == (True, 100, 11)
    assert before.cost_usd == pytest.approx(0.00062)
    assert (now.before, now.input_tokens, now.output_tokens) == (False, 200, 22)


def test_each_model_is_counted_by_itself() -> None:
    """A model that joins later begins at nothing; one that has not moved is not told again."""
    one = {"inputTokens": 5, "cacheReadInputTokens": 7, "cacheCreationInputTokens": 9, "thinkingTokens": 2, "costUSD": 0.5}
    other = {"inputTokens": 1, "outputTokens": 3}

    counted = only(
        Cumulative,
        told(
            [
                result(modelUsage={"a": one}, model_usage_since_last_result={"a": one}),
                result(modelUsage={"a": one, "b": other}, model_usage_since_last_result={"b": other}),
            ]
        ),
    )

    assert [(usage.model, usage.before) for usage in counted] == [("a", False), ("b", False)]
    assert (counted[0].cached_tokens, counted[0].cache_write_tokens, counted[0].reasoning_tokens) == (7, 9, 2)
    assert (counted[1].output_tokens, counted[1].cost_usd) == (3, None)


@pytest.mark.parametrize("count", [True, -5, 1e300, "7", None, [1]])
def test_counters_that_count_nothing_are_nothing(count: object) -> None:
    """A total is never made wrong by what cannot be."""
    counters = {"inputTokens": 3, "outputTokens": count, "costUSD": "much"}

    (usage,) = only(Cumulative, told([result(modelUsage={"a": counters})]))

    assert (usage.input_tokens, usage.output_tokens, usage.cost_usd) == (3, 0, None)


# One prompt


def test_a_program_with_one_prompt_has_receipts_too() -> None:
    """They come from the beginning and the end of its turn, since nobody named its message."""
    reports = told(recorded("once"), ClaudeStream(Mode.ONCE))

    receipts = only(Receipt, reports)
    assert [(receipt.stage, receipt.message_id) for receipt in receipts] == [("accepted", None), ("done", None)]
    (turn,) = only(facts.TurnCompleted, reports)
    assert {receipt.turn for receipt in receipts} == {turn.turn}
    assert [noted.kind for noted in only(facts.Noted, reports)] == ["permission_denied"]


def test_a_program_with_one_prompt_is_told_nothing() -> None:
    """It neither greets nor takes messages, and nothing can be interrupted or asked."""
    dialect = ClaudeStream(Mode.ONCE)
    dialect.feed(recorded("once")[1])

    assert dialect.opening() == ()
    assert (dialect.interrupt(), dialect.probe(), dialect.finish()) == (b"", b"", b"")
    with pytest.raises(UsageError, match="--mode stream"):
        dialect.message(Outgoing(message_id=MESSAGE, text="hi"))


def test_a_session_that_is_not_there_is_an_error_and_no_turn() -> None:
    """The program says so and exits; the id in that line is the one that was asked for."""
    reports = told(recorded("no_such_session"))

    (item,) = reports
    assert isinstance(item, facts.ItemCompleted)
    assert item.kind == "error"
    assert item.summary.startswith("No conversation found with session ID")


# Programs that tell less


def without(lines: Iterable[bytes], *marks: bytes) -> list[bytes]:
    return [each for each in lines if not any(mark in each for mark in marks)]


def test_without_state_events_the_state_is_read_off_the_messages() -> None:
    """An older program, or one whose environment somebody has cleaned."""
    lines = without(recorded("allowed_and_denied")[1:], b"session_state_changed")
    end = next(at for at, each in enumerate(lines) if b'"type":"result"' in each)

    reports = told(lines[: end + 1])

    assert states(reports) == [(State.BUSY, ""), (State.BLOCKED, "permission"), (State.BUSY, ""), (State.PROMPT, "")]


def test_without_a_lifecycle_a_message_is_accepted_when_it_is_replayed() -> None:
    """And over with the result that names it."""
    lines = without(recorded("allowed_and_denied")[1:], b"command_lifecycle")

    receipts = only(Receipt, told(lines))

    assert [(receipt.stage, receipt.proof) for receipt in receipts] == [
        ("accepted", "replayed"), ("done", "result"), ("accepted", "replayed"), ("done", "result"), ("accepted", "replayed"),
        ("cancelled", "result"),
    ]  # fmt: skip
