"""What a program at a terminal lets on only at the end: a turn that nobody saw, a failure's words, a limit, a window's top."""

# ruff: noqa: RUF001 - the signs are those that the programs show

from __future__ import annotations

from harness.sessions import facts
from harness.sessions.dialects.claude.usage import Meter
from harness.sessions.dialects.claude_stream import ClaudeStream
from harness.sessions.dialects.screens import Snapshot, load_rules
from harness.sessions.dialects.turns import Turns
from harness.sessions.facts import Mode, State
from harness.sessions.reports import Reading, Receipt

RULE = "─" * 60
LIMITED = (
    "❯ do it",
    "  ⎿  You've hit your 5-hour limit · resets 11:10pm (UTC)",
    "● Usage limit reached · continuing automatically at 11:10pm · esc to cancel",
    RULE,
    "❯",
    RULE,
    "  ⚠ Usage limit reached · limit resets 11:10pm",
    "    Continuing automatically at 11:10pm · Esc to cancel",
)


def test_a_composer_at_the_top_of_a_large_window_is_one() -> None:
    """A program that does not fill its window has nothing but empty rows below."""
    lines = ("❯ an earlier message", "● its answer", RULE, "❯ ", RULE, "  ? for shortcuts", *([""] * 40))

    look = load_rules("claude").look(Snapshot(lines=lines, cursor=(3, 2)))

    assert (look.reading.state, look.empty) == (State.PROMPT, True)


def test_a_usage_limit_is_no_dialog() -> None:
    """What Esc cancels is that the program goes on by itself; nothing is asked, and nothing can be sent."""
    look = load_rules("claude").look(Snapshot(lines=LIMITED, cursor=(4, 2)))

    assert look.reading.state is State.LIMITED


def test_the_words_of_the_last_failure_are_read_off_the_screen() -> None:
    """All its lines, and not those of a failure before."""
    lines = (
        "› one",
        "",
        "■ the first",
        "",
        "› two",
        "",
        "■ the second,",
        "in two lines",
        "",
        "› ",
        "",
        "  gpt-5.5-codex · /w",
        "",
    )

    look = load_rules("codex").look(Snapshot(lines=lines, cursor=(9, 2)))

    assert look.error == "the second, in two lines"
    assert load_rules("codex").look(Snapshot(lines=("› ", "", "  gpt-5.5-codex · /w"), cursor=(0, 2))).error == ""


def test_a_turn_that_was_over_before_anybody_looked_is_told() -> None:
    """The program's notice that it has answered a message is also the receipt of that message."""
    turns = Turns()
    turns.sent("m1", "say hello")

    began, accepted, over = turns.over(["say hello"], turn="t1", summary="Hello.", proof="notify")

    assert isinstance(began, facts.TurnStarted)
    assert began.message_ids == ("m1",)
    assert isinstance(accepted, Receipt)
    assert (accepted.stage, accepted.proof) == ("accepted", "notify")
    assert isinstance(over, facts.TurnCompleted)
    assert (over.turn, over.outcome, over.message_ids) == ("t1", "success", ("m1",))
    assert not turns.waiting


def test_a_late_notice_does_not_end_the_turn_after_it() -> None:
    """It names what it answered, and that is not what is being answered now."""
    turns = Turns()
    turns.sent("m1", "first")
    turns.taken(None, proof="screen")
    turns.ended("success")
    turns.sent("m2", "second")
    turns.taken(None, proof="screen")

    assert turns.over(["first"], turn="t1", summary="", proof="notify") == []
    assert [type(report) for report in turns.over(["second"], turn="t2", summary="", proof="notify")] == [facts.TurnCompleted]


def test_a_session_that_was_killed_counts_from_nothing() -> None:
    """Its counters were lost with it, so what the next process tells is all of its own: that is said, as a count of none."""
    counters = {"inputTokens": 100, "outputTokens": 2}
    result = {"modelUsage": {"m": counters}, "model_usage_since_last_result": {"m": counters}}

    resumed = Meter(resumed=True).read(result, "t")
    fresh = Meter().read(result, "t")

    assert [(usage.before, usage.input_tokens) for usage in resumed] == [(True, 0), (False, 100)]
    assert [(usage.before, usage.input_tokens) for usage in fresh] == [(False, 100)]


def test_a_program_that_was_given_its_one_prompt_never_comes_to_another() -> None:
    """It says that it is idle, and then it exits."""
    idle = b'{"type": "system", "subtype": "session_state_changed", "state": "idle", "uuid": "u", "session_id": "s"}'

    def states(mode: Mode) -> list[State]:
        return [report.state for report in ClaudeStream(mode).feed(idle).reports if isinstance(report, Reading)]

    assert states(Mode.STREAM) == [State.PROMPT]
    assert states(Mode.ONCE) == []
