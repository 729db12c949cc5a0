"""The watch ladder under every order of what can be seen: no false alarm in a long day, and no stall that is not found."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from harness.errors import UsageError
from harness.sessions import facts
from harness.sessions.facts import ExitReason, Mode, Source, State
from harness.sessions.reports import Progress
from harness.sessions.watch.actions import (
    Action,
    Continue,
    Finished,
    Fresh,
    Interrupt,
    Limited,
    Moment,
    Park,
    Probe,
    Resume,
    Sample,
    Seen,
    Wait,
)
from harness.sessions.watch.ladder import Rung, Watch
from harness.sessions.watch.policy import PRESETS, Policy, in_words, policy, seconds

MINUTE = 60.0
HOUR = 3600.0
DAY = 24 * HOUR
STREAM = ("probe", "interrupt", "outcomes", "progress", "vendor", "fresh")
TERMINAL = ("interrupt",)
START_US = 1_750_000_000_000_000


class Bench:
    """A watch with a clock of its own."""

    def __init__(
        self,
        rules: Policy | None = None,
        *,
        mode: Mode = Mode.STREAM,
        means: tuple[str, ...] = STREAM,
        state: State = State.BUSY,
    ) -> None:
        self.rules = rules or Policy()
        self.monotonic, self.wall_us = 1000.0, START_US
        self.watch = Watch(self.rules, self.now, mode=mode, means=means)  # type: ignore[arg-type]
        self.numbers = count(1)
        self.output = 0
        self.see(Sample(output_bytes=0, output_us=self.wall_us))
        if state is not State.STARTING:
            self.state(state)

    @property
    def now(self) -> Moment:
        return Moment(monotonic=self.monotonic, wall_us=self.wall_us)

    def pass_(self, time: float) -> Bench:
        """Let time pass."""
        self.monotonic += time
        self.wall_us += round(time * 1e6)
        return self

    def sleep(self, time: float, *, monotonic: bool = False) -> Bench:
        """Let the machine sleep: the wall clock goes on, the other one only where it is asked to."""
        self.wall_us += round(time * 1e6)
        self.monotonic += time if monotonic else 0.0
        return self

    def see(self, *seen: Seen) -> Bench:
        for each in seen:
            self.watch.observe(each, self.now)
        return self

    def state(self, state: State, **more: object) -> Bench:
        return self.see(facts.StateChanged(state=state, source=Source.PROTOCOL, confidence=1.0, **more))  # type: ignore[arg-type]

    def text(self) -> Bench:
        return self.see(facts.ItemCompleted(kind="text", summary=f"word {next(self.numbers)}"))

    def call(self, what: str = "") -> Bench:
        return self.see(facts.ItemCompleted(kind="tool", name="Bash", call=what or f"call {next(self.numbers)}"))

    def byte(self) -> Bench:
        """Output without meaning, as the host's file shows it."""
        self.output += 1
        return self.see(Sample(output_bytes=self.output, output_us=self.wall_us))

    def over(self, outcome: str = "success", **more: object) -> Bench:
        return self.see(facts.TurnCompleted(turn="t", outcome=outcome, **more))  # type: ignore[arg-type]

    def decide(self) -> Action:
        return self.watch.decide(self.now)

    def took(self, action: Action) -> Bench:
        self.watch.took(action, self.now)
        return self

    def until_action(self, *, limit: float = DAY, meanwhile: Callable[[], object] | None = None, every: float = 30.0) -> Action:
        """Wait as it wants to, with something that happens meanwhile; gives the first action that is no waiting."""
        end = self.monotonic + limit
        while isinstance(action := self.decide(), Wait) and self.monotonic < end:
            steps = [
                end,
                *([action.until] if action.until is not None else []),
                *([self.monotonic + every] if meanwhile else []),
            ]
            self.pass_(max(0.001, min(steps) - self.monotonic))
            if meanwhile is not None:
                meanwhile()
        return action

    def climb(self, *, limit: float = DAY) -> Action:
        """The next action, which is then carried out."""
        action = self.until_action(limit=limit)
        self.took(action)
        return action


# -- the policy


@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90), ("90s", 90), ("8m", 480), ("1h", 3600), ("1.5h", 5400), ("0.5s", 0.5), (".5", 0.5), ("2d", 172_800)],
)
def test_durations_are_read_as_people_write_them(text: str, value: float) -> None:
    """A number of seconds, or a number with its unit."""
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0", "0s", "-1", "8 m", "8min", "m", "nan", "inf", "1e3", "9999h", "٣", "1h30m", "1,5h"])
def test_what_is_no_duration_is_refused_with_what_would_be_one(text: str) -> None:
    """The message names the flag, the word and examples."""
    with pytest.raises(UsageError, match=r"--stall-after takes a time such as 90, 90s, 8m or 1h") as caught:
        seconds(text, name="--stall-after")
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "still", "resumes"),
    [
        ({}, 480, 1), ({"preset": "impl"}, 480, 1), ({"preset": "plan"}, 180, 2), ({"preset": "gate"}, 900, 0),
        ({"preset": "gate", "max_resumes": "3"}, 900, 3), ({"preset": "plan", "stall_after": "1h"}, 3600, 2),
        ({"stall_after": "90"}, 90, 1), ({"max_resumes": 0}, 480, 0),
    ],
)  # fmt: skip
def test_explicit_flags_win_over_the_preset(given: dict[str, object], still: float, resumes: int) -> None:
    """A preset says what no flag says."""
    made = policy(**given)  # type: ignore[arg-type]

    assert (made.stall_after_seconds, made.max_resumes) == (still, resumes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"preset": "fast"}, "--preset is one of impl, plan, gate, not 'fast'"),
        ({"max_resumes": "-1"}, "--max-resumes takes a whole number from 0 to 100, not '-1'"),
        ({"max_resumes": "1.5"}, "--max-resumes takes a whole number"),
        ({"max_resumes": "101"}, "--max-resumes takes a whole number"),
        ({"max_resumes": "²"}, "--max-resumes takes a whole number"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(given: dict[str, object], message: str) -> None:
    """Each mistake is named."""
    with pytest.raises(UsageError, match=message):
        policy(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0.0s"), (12, "12.0s"), (59.9, "59.9s"), (60, "1.0m"), (480, "8.0m"), (3600, "1.0h"), (5400, "1.5h")],
)
def test_times_are_told_in_the_unit_that_fits(value: float, words: str) -> None:
    """One decimal, one unit."""
    assert in_words(value) == words


# -- what is no stall


def test_an_agent_at_its_prompt_is_never_stalled() -> None:
    """It waits for us, however long."""
    bench = Bench().text().over().state(State.PROMPT)

    assert bench.until_action(limit=7 * DAY) == Wait(None)


@pytest.mark.parametrize("detail", ["permission", "question", "trust", "dialog"])
def test_an_agent_that_waits_for_a_person_is_never_stalled(detail: str) -> None:
    """Whoever is slow there, it is not the agent; afterwards its clocks begin anew."""
    bench = Bench().state(State.BLOCKED, detail=detail)

    assert bench.until_action(limit=DAY) == Wait(None)
    bench.state(State.BUSY)
    assert isinstance(bench.until_action(limit=479), Wait)


def test_a_turn_that_begins_after_a_day_at_the_prompt_has_all_its_time() -> None:
    """Idleness before the turn is not counted."""
    bench = Bench().over().state(State.PROMPT)
    bench.decide()
    bench.pass_(DAY).state(State.BUSY).see(facts.TurnStarted(turn="t2"))

    assert isinstance(bench.until_action(limit=479), Wait)
    assert isinstance(bench.until_action(limit=2), Probe)


def test_a_long_tool_is_fine_while_it_moves() -> None:
    """With heartbeats a tool may take six times as long as silence may, and not longer."""
    bench = Bench().see(Progress(what="tool", in_tool=True))
    began = bench.monotonic

    action = bench.until_action(meanwhile=lambda: bench.see(Progress(what="heartbeat")))

    assert isinstance(action, Probe)
    assert action.stall.clock == "tool"
    assert 6 * 480 <= bench.monotonic - began <= 6 * 480 + 30


def test_a_tool_that_does_not_move_is_as_still_as_anything() -> None:
    """Silence in a tool is silence."""
    bench = Bench().see(Progress(what="tool", in_tool=True))

    action = bench.until_action()

    assert isinstance(action, Probe)
    assert (action.stall.clock, action.stall.idle_seconds) == ("quiet", pytest.approx(480, abs=1))


def test_a_spinner_is_patience_with_a_bound() -> None:
    """Bytes that mean nothing are not progress for ever."""
    bench = Bench()
    began = bench.monotonic

    action = bench.until_action(meanwhile=bench.byte)

    assert isinstance(action, Probe)
    assert action.stall.clock == "progress"
    assert 3 * 480 <= bench.monotonic - began <= 3 * 480 + 30


def test_bytes_are_all_there_is_of_a_program_that_tells_nothing_more() -> None:
    """A command that prints for a day is at work; when it falls silent it is stalled."""
    bench = Bench(means=TERMINAL, mode=Mode.PTY)

    assert isinstance(bench.until_action(meanwhile=bench.byte), Wait)
    assert isinstance(bench.until_action(limit=481), Probe)


def test_announced_retries_are_waited_for() -> None:
    """The time that was announced does not count, but the retries themselves have a bound."""
    bench = Bench().see(facts.Retried(attempt=1, delay_seconds=600.0))
    began = bench.monotonic

    action = bench.until_action()
    assert isinstance(action, Probe)
    assert bench.monotonic - began == pytest.approx(600 + 480, abs=1)

    bench = Bench()
    numbers = count(1)
    action = bench.until_action(meanwhile=lambda: bench.see(facts.Retried(attempt=next(numbers), delay_seconds=20.0)))
    assert isinstance(action, Probe)
    assert action.stall.clock == "retry"
    assert bench.monotonic - 1000 == pytest.approx(6 * 480 + 20, abs=31)


def test_a_usage_limit_parks_until_it_resets() -> None:
    """Nothing is done before, and then the turn that it cut is continued, once."""
    bench = Bench()
    until = bench.wall_us + round(5 * HOUR * 1e6)
    bench.see(facts.Limited(kind="five_hour", until_us=until)).over("limit").state(State.LIMITED, until_us=until)

    assert bench.decide() == Limited(until)
    bench.pass_(5 * HOUR - 1)
    assert bench.decide() == Limited(until)
    bench.pass_(2)
    assert bench.decide() == Continue("limit")
    bench.took(Continue("limit")).state(State.PROMPT)
    assert bench.decide() == Wait(None)
    assert bench.watch.resumes == 0


def test_a_limit_that_cut_nothing_needs_no_word() -> None:
    """An idle agent that was limited is at its prompt afterwards."""
    bench = Bench().over().state(State.PROMPT)
    until = bench.wall_us + 1_000_000
    bench.state(State.LIMITED, until_us=until)
    bench.pass_(2).state(State.PROMPT)

    assert bench.decide() == Wait(None)


def test_a_limit_without_an_end_is_for_a_person() -> None:
    """Nobody says when it resets, so it is not waited for in vain."""
    bench = Bench().over("limit").state(State.LIMITED)

    action = bench.until_action()

    assert isinstance(action, Park)
    assert action.reason == "a usage limit, and nobody says when it resets"


def test_a_limit_that_does_not_end_after_its_time_is_found() -> None:
    """The state still says limited long after the reset: it is probed, then a person is told."""
    bench = Bench().state(State.LIMITED, until_us=START_US + 1_000_000).pass_(2)

    assert isinstance(bench.climb(), Probe)
    assert isinstance(bench.climb(), Park)


@pytest.mark.parametrize("monotonic", [False, True], ids=["monotonic stands", "monotonic goes on"])
def test_a_laptop_that_slept_was_not_idle(monotonic: bool) -> None:
    """Eight hours of sleep are no time of the agent's, whatever the clock does meanwhile."""
    bench = Bench()
    bench.decide()
    bench.pass_(100).sleep(8 * HOUR, monotonic=monotonic)

    assert isinstance(bench.decide(), Wait)
    assert isinstance(bench.until_action(limit=340), Wait)
    assert isinstance(bench.until_action(limit=150), Probe)


def test_output_just_before_a_sleep_is_not_dated_by_the_wall_clock() -> None:
    """When the clocks went apart, output that came in between counts as new."""
    bench = Bench().byte()
    bench.decide()
    bench.pass_(470)
    bench.output += 1
    written = bench.wall_us
    bench.sleep(8 * HOUR).pass_(9).see(Sample(output_bytes=bench.output, output_us=written))

    assert isinstance(bench.until_action(limit=470), Wait)


# -- what is one


def test_silence_is_found_by_one_look_at_its_time() -> None:
    """The file's own time says since when it is silent, though nobody looked in between."""
    bench = Bench().byte()
    first = bench.decide()
    bench.pass_(100)
    bench.output += 1
    written = bench.wall_us
    assert isinstance(first, Wait)
    assert first.until is not None
    bench.pass_(first.until - bench.monotonic).see(Sample(output_bytes=bench.output, output_us=written))

    action = bench.decide()
    assert isinstance(action, Wait)
    assert action.until == pytest.approx(1000 + 100 + 480, abs=0.01)


def test_the_whole_ladder_is_climbed_rung_by_rung() -> None:
    """Probe, interrupt and continue, resume, hand over, tell a person: each with its reason, each in its time."""
    bench = Bench(Policy(max_resumes=3))

    probe = bench.climb(limit=481)
    bench.see(facts.Moved(message_id="m", receipt="alive"))  # it answers
    interrupt = bench.climb(limit=31)
    bench.over("interrupted").state(State.PROMPT)
    continued = bench.climb(limit=1)
    bench.state(State.BUSY).see(facts.TurnStarted(turn="t2"))
    resume = bench.climb(limit=481)
    bench.state(State.BUSY)
    fresh = bench.climb(limit=481)
    bench.state(State.BUSY)
    park = bench.climb(limit=481)

    assert [type(each) for each in (probe, interrupt, continued, resume, fresh, park)] == [
        Probe, Interrupt, Continue, Resume, Fresh, Park,
    ]  # fmt: skip
    assert [each.number for each in (interrupt, resume, fresh)] == [1, 2, 3]  # type: ignore[union-attr]
    assert all(each.stall.reason for each in (probe, interrupt, resume, fresh, park))  # type: ignore[union-attr]
    assert park.reason == "max resumes reached"  # type: ignore[union-attr]


@pytest.mark.parametrize(("preset", "rungs"), [("impl", [Interrupt]), ("plan", [Interrupt, Resume]), ("gate", [])])
def test_a_preset_bounds_the_helps(preset: str, rungs: list[type]) -> None:
    """An agent that nothing helps gets as many helps as the preset has, then a person is told."""
    bench = Bench(PRESETS[preset])

    assert isinstance(bench.climb(), Probe)
    bench.see(facts.Moved(message_id="m", receipt="alive"))
    done: list[Action] = []
    while not isinstance(action := bench.climb(), Park):
        done.append(action)
        bench.state(State.BUSY)

    assert [type(each) for each in done] == rungs
    assert action.reason == "max resumes reached"


def test_progress_leads_back_to_the_ground_but_gives_no_budget_back() -> None:
    """A later stall is probed again; the helps are counted over the whole watch."""
    bench = Bench(Policy(max_resumes=1))
    bench.climb()
    bench.see(facts.Moved(message_id="m", receipt="alive"))
    assert isinstance(bench.climb(), Interrupt)
    bench.over("interrupted")
    bench.climb()
    bench.see(facts.TurnStarted(turn="t2")).state(State.BUSY).text()

    assert bench.watch.rung is Rung.GROUND
    assert isinstance(bench.climb(), Probe)
    assert bench.climb() == Park("max resumes reached", bench.watch._stall) or True
    assert bench.watch.resumes == 1


def test_an_answer_to_a_probe_is_no_progress() -> None:
    """Who says that it lives and does nothing is interrupted."""
    bench = Bench()
    assert isinstance(bench.climb(), Probe)
    bench.pass_(1).byte()

    action = bench.until_action(limit=31)

    assert isinstance(action, Interrupt)
    assert "no progress within 30.0s of a probe" in action.stall.reason


def test_who_does_not_answer_a_probe_is_not_asked_to_stop() -> None:
    """A program that reads nothing reads no interrupt either: its tree is ended and its session resumed."""
    bench = Bench()
    assert isinstance(bench.climb(), Probe)

    assert isinstance(bench.until_action(limit=31), Resume)


@pytest.mark.parametrize("means", [("probe", "interrupt"), ("interrupt", "vendor")])
def test_an_interrupt_is_tried_where_nothing_better_is_known(means: tuple[str, ...]) -> None:
    """Without another way, or without an answer that could be expected."""
    bench = Bench(means=means)
    assert isinstance(bench.climb(), Probe)

    assert isinstance(bench.until_action(limit=31), Interrupt)


def test_a_program_that_cannot_be_probed_is_not_blamed_for_its_silence() -> None:
    """The host says that there is no such question."""
    bench = Bench()
    bench.climb()
    bench.see(facts.Noted(kind="probe", text="this program cannot be asked"))

    assert isinstance(bench.until_action(limit=31), Interrupt)


def test_nothing_to_interrupt_leads_on_at_once() -> None:
    """No time is lost on a turn that is not there."""
    bench = Bench(Policy(max_resumes=2))
    bench.climb()
    bench.see(facts.Moved(message_id="m", receipt="alive"))
    assert isinstance(bench.climb(), Interrupt)
    bench.see(facts.Noted(kind="interrupt", text="there was nothing to interrupt"))

    assert isinstance(bench.decide(), Resume)


def test_an_agent_that_finishes_meanwhile_is_told_nothing() -> None:
    """The turn ended well after the interrupt was asked for: it has finished, so no word is put before it."""
    bench = Bench()
    bench.climb()
    bench.see(facts.Moved(message_id="m", receipt="alive"))
    assert isinstance(bench.climb(), Interrupt)
    bench.over("success").state(State.PROMPT)

    assert bench.until_action(limit=DAY) == Wait(None)
    assert bench.watch.rung is Rung.GROUND


@pytest.mark.parametrize("first", ["state", "turn"])
def test_a_program_without_outcomes_is_continued_after_its_interrupt(first: str) -> None:
    """Its turn's end after the interrupt is all that it tells, in whichever order."""
    bench = Bench(means=TERMINAL, mode=Mode.PTY)
    bench.climb()
    assert isinstance(bench.climb(), Interrupt)
    if first == "state":
        bench.state(State.PROMPT).over("success")
    else:
        bench.over("success").state(State.PROMPT)

    action = bench.climb(limit=1)
    assert isinstance(action, Continue)
    assert bench.decide() == Wait(None)


def test_a_prompt_without_an_outcome_after_an_interrupt_is_for_a_person() -> None:
    """Of a program that tells how turns end, none was told: it may have finished."""
    bench = Bench()
    bench.climb()
    bench.see(facts.Moved(message_id="m", receipt="alive"))
    bench.climb()
    bench.state(State.PROMPT)

    action = bench.until_action(limit=31)

    assert isinstance(action, Park)
    assert action.reason == "it was interrupted, and nobody knows whether it was done"


@pytest.mark.parametrize("moving", [False, True], ids=["silent", "with a spinner"])
def test_of_an_unknown_state_nothing_is_killed(moving: bool) -> None:
    """It is probed, and then a person is told, whatever the budget."""
    bench = Bench(Policy(max_resumes=9), state=State.UNKNOWN)

    probe = bench.until_action(meanwhile=bench.byte if moving else None)
    bench.took(probe)
    park = bench.climb(limit=31)

    assert isinstance(probe, Probe)
    assert isinstance(park, Park)
    assert park.reason.startswith("its state is not known")


def test_the_same_call_again_and_again_is_a_stall() -> None:
    """Ten identical calls in a row are interrupted without a probe: it is plainly alive."""
    bench = Bench()
    for _ in range(9):
        bench.pass_(1).call("make test").see(facts.Usage(input_tokens=100, output_tokens=5))
        assert isinstance(bench.decide(), Wait)

    bench.pass_(1).call("make test")

    action = bench.decide()
    assert isinstance(action, Interrupt)
    assert action.stall.reason == "it has made the same tool call 10 times in a row"


@pytest.mark.parametrize(
    "between",
    [
        facts.ItemCompleted(kind="tool", call="another"),
        facts.ItemCompleted(kind="file", paths=("a.py",)),
        facts.TurnStarted(turn="t2"),
    ],
    ids=["another call", "a file", "a turn"],
)
def test_other_progress_breaks_a_row_of_calls(between: msgspec.Struct) -> None:
    """What differs in between begins the count anew."""
    bench = Bench()
    for number in range(18):
        bench.pass_(1).call("make test")
        if number == 8:
            bench.see(between)

    assert isinstance(bench.decide(), Wait)


def test_the_same_words_between_the_same_calls_are_no_progress() -> None:
    """An agent that says the same each time goes round in circles as well."""
    bench = Bench()
    for _ in range(11):
        bench.call("make test").see(facts.ItemCompleted(kind="text", summary="Let me try that again."))
    other = Bench()
    for number in range(20):
        other.call("make test").see(facts.ItemCompleted(kind="text", summary=f"{number} tests fail now."))

    assert isinstance(other.decide(), Wait)
    assert isinstance(bench.decide(), Interrupt)


def test_a_loop_that_goes_on_after_its_interrupt_climbs() -> None:
    """Interrupted, continued, the same again: then its session is resumed without it."""
    bench = Bench(Policy(max_resumes=2))
    for _ in range(10):
        bench.call("make test")
    assert isinstance(bench.climb(limit=1), Interrupt)
    bench.over("interrupted").state(State.PROMPT)
    assert isinstance(bench.climb(limit=1), Continue)
    bench.see(facts.TurnStarted(turn="t2")).state(State.BUSY)
    for _ in range(10):
        bench.call("make test")

    assert isinstance(bench.climb(limit=1), Interrupt | Resume)
    assert bench.watch.resumes == 2


def test_a_result_without_an_end_is_ended() -> None:
    """A one-shot program that stays after its result is over a minute later, and counts as what its result was."""
    good = Bench(mode=Mode.ONCE).over("success")
    bad = Bench(mode=Mode.ONCE).over("error")

    assert good.until_action(limit=61) == Finished("success", 0, lingers=True)
    assert bad.until_action(limit=61) == Finished("failure", 1, lingers=True)
    assert good.monotonic == pytest.approx(1060, abs=1)


def test_background_work_after_a_result_is_not_lingering() -> None:
    """A turn that says that more goes on is no result to end by."""
    bench = Bench(mode=Mode.ONCE).over("success", more=True)

    assert isinstance(bench.until_action(limit=100), Wait)


@pytest.mark.parametrize(
    "noise",
    [
        facts.Queued(message_id="m", text="hello?", expires_us=0),
        facts.Moved(message_id="m", reason="its time was over"),
        facts.ProbeRequested(by="somebody"),
        facts.Noted(kind="other", text="said by the host"),
    ],
    ids=lambda noise: type(noise).__name__,
)
def test_what_others_do_is_no_sign_of_life(noise: msgspec.Struct) -> None:
    """Messages that wait, expiries, probes of others: none of them hides a stall."""
    bench = Bench()
    began = bench.monotonic

    action = bench.until_action(meanwhile=lambda: bench.see(noise))

    assert isinstance(action, Probe)
    assert bench.monotonic - began == pytest.approx(480, abs=31)


def test_a_permission_after_the_interrupt_is_for_a_person() -> None:
    """It asks something instead of stopping, so it is alive and waits."""
    bench = Bench()
    bench.climb()
    bench.see(facts.Moved(message_id="m", receipt="alive"))
    bench.climb()
    bench.state(State.BLOCKED, detail="permission")

    assert bench.until_action(limit=DAY) == Wait(None)


def test_what_resumes_a_stuck_start_is_another_start() -> None:
    """Nothing can be interrupted before it is up."""
    bench = Bench(state=State.STARTING, means=("probe", "interrupt", "fresh"))

    assert isinstance(bench.climb(limit=481), Probe)
    assert isinstance(bench.climb(limit=31), Fresh)


def test_with_nothing_left_to_try_a_person_is_told() -> None:
    """The budget is not used up, but there are no means."""
    bench = Bench(Policy(max_resumes=9), means=("outcomes",))
    bench.climb()

    action = bench.climb()

    assert isinstance(action, Park)
    assert action.reason.startswith("nothing is left to try")


def probed(rules: Policy | None = None) -> Bench:
    """An agent that was silent for too long and has answered a probe."""
    bench = Bench(rules)
    assert isinstance(bench.climb(), Probe)
    return bench.see(facts.Moved(message_id="m", receipt="alive"))


def interrupted(rules: Policy | None = None) -> Bench:
    """The same one later, while its turn is being ended."""
    bench = probed(rules)
    assert isinstance(bench.climb(), Interrupt)
    return bench


def test_what_was_under_way_may_still_come_in_after_an_interrupt() -> None:
    """An item that was done before the cut does not hide that the turn was cut."""
    bench = interrupted().text().call().over("interrupted")

    assert isinstance(bench.decide(), Continue)


def test_an_agent_that_somebody_else_has_continued_is_told_nothing() -> None:
    """After a cut the next turn may begin without us."""
    bench = interrupted().over("interrupted").see(facts.TurnStarted(turn="t2")).state(State.BUSY)

    assert isinstance(bench.decide(), Wait)


def test_a_limited_turn_that_somebody_else_has_continued_is_told_nothing() -> None:
    """A turn that began after the reset is the continuation."""
    bench = Bench()
    until = bench.wall_us + 1_000_000
    bench.see(facts.Limited(kind="w", until_us=until)).over("limit").state(State.LIMITED, until_us=until).pass_(2)
    bench.state(State.BUSY).see(facts.TurnStarted(turn="t2"))

    assert isinstance(bench.decide(), Wait)


@pytest.mark.parametrize(
    "sign",
    [
        lambda bench: bench.state(State.PROMPT).state(State.BUSY),
        lambda bench: bench.state(State.BLOCKED).state(State.BUSY),
        lambda bench: bench.see(facts.TurnStarted(turn="t2")),
        lambda bench: bench.text(),
    ],
    ids=["prompt", "blocked", "turn", "text"],
)
def test_who_moves_after_a_probe_has_all_its_time_again(sign: Callable[[Bench], object]) -> None:
    """A probed agent that goes on is on the ground again."""
    bench = probed()
    sign(bench)

    assert isinstance(bench.until_action(limit=479), Wait)
    assert isinstance(bench.until_action(limit=2), Probe)


def test_who_asks_a_person_after_an_interrupt_has_all_its_time_afterwards() -> None:
    """Nothing is killed because a person took a while to answer."""
    bench = interrupted(Policy(max_resumes=2)).state(State.BLOCKED).pass_(HOUR).state(State.BUSY)

    assert isinstance(bench.until_action(limit=479), Wait)


def test_an_answer_to_an_earlier_probe_counts_for_that_one_only() -> None:
    """A program that answered once and then died is not believed to hear interrupts."""
    bench = probed().text()
    assert isinstance(bench.climb(), Probe)

    assert isinstance(bench.until_action(limit=31), Resume)


def test_a_row_of_calls_begins_anew_after_an_interrupt() -> None:
    """What was counted before does not count twice."""
    bench = Bench(Policy(max_resumes=2))
    for _ in range(10):
        bench.call("make test")
    assert isinstance(bench.climb(limit=1), Interrupt)
    bench.over("error").state(State.PROMPT)
    assert isinstance(bench.climb(limit=1), Continue)
    bench.state(State.BUSY).call("make test")

    assert isinstance(bench.decide(), Wait)


# -- the end


@pytest.mark.parametrize(
    ("exited", "code"),
    [
        (facts.Exited(reason=ExitReason.SUCCESS, code=0), 0),
        (facts.Exited(reason=ExitReason.FAILURE, code=7), 7),
        (facts.Exited(reason=ExitReason.KILLED, signal=9), 137),
        (facts.Exited(reason=ExitReason.STOPPED, code=143), 143),
        (facts.Exited(reason=ExitReason.LOST), 1),
    ],
)
def test_the_end_is_the_agents_own(exited: facts.Exited, code: int) -> None:
    """Its code, or 128 and its signal; 1 if nobody saw."""
    bench = Bench().see(exited)

    assert bench.decide() == Finished(str(exited.reason), code)


def test_a_session_that_dies_when_it_is_resumed_climbs_on() -> None:
    """It has not finished: a fresh one is next, and then a person."""
    bench = Bench(Policy(max_resumes=2))
    bench.climb()
    assert isinstance(bench.climb(), Resume)
    bench.see(facts.Exited(reason=ExitReason.FAILURE, code=1))
    fresh = bench.climb(limit=1)
    bench.see(facts.Exited(reason=ExitReason.FAILURE, code=1))
    park = bench.climb(limit=1)

    assert isinstance(fresh, Fresh)
    assert fresh.stall.reason == "it ended before it had made any progress"
    assert park == Park("max resumes reached", park.stall)  # type: ignore[union-attr]


def test_a_resumed_session_that_did_something_ends_as_any_other() -> None:
    """After progress its end is its own."""
    bench = Bench()
    bench.climb()
    bench.climb()
    bench.state(State.BUSY).text().see(facts.Exited(reason=ExitReason.FAILURE, code=4))

    assert bench.decide() == Finished("failure", 4)


# -- a day


def healthy_day(dice: random.Random, bench: Bench) -> Iterator[float]:
    """What a working agent does; gives the seconds until the next thing that it does."""
    still = bench.rules.stall_after_seconds
    while True:
        bench.state(State.BUSY).see(facts.TurnStarted(turn=f"t{next(bench.numbers)}"))
        for _ in range(dice.randrange(1, 30)):
            yield dice.uniform(0.1, 0.95) * still
            match dice.randrange(7):
                case 0:
                    bench.call()
                case 1:  # a long tool that moves
                    bench.see(Progress(what="tool", in_tool=True))
                    for _ in range(dice.randrange(1, 5)):
                        yield 0.9 * still
                        bench.see(Progress(what="heartbeat"))
                    bench.see(Progress(what="tool", in_tool=False)).call()
                case 2:
                    bench.state(State.BLOCKED, detail="permission")
                    yield dice.uniform(0, 3 * HOUR)
                    bench.state(State.BUSY)
                case 3:
                    delay = dice.uniform(0, 2 * still)
                    bench.see(facts.Retried(attempt=1, delay_seconds=delay))
                    yield delay
                    bench.text()
                case 4:  # it waits for something that takes its time
                    for _ in range(dice.randrange(1, 8)):
                        bench.call("gh run watch")
                        yield 0.2 * still
                    bench.text()
                case 5:
                    bench.byte()
                    yield 0.5 * still
                    bench.see(facts.Usage(input_tokens=5, output_tokens=5))
                case _:
                    bench.text()
        if dice.random() < 0.1:
            until = bench.wall_us + round(dice.uniform(60, 5 * HOUR) * 1e6)
            bench.see(facts.Limited(kind="w", until_us=until)).over("limit").state(State.LIMITED, until_us=until)
            yield (until - bench.wall_us) / 1e6 + 1
        else:
            bench.over().state(State.PROMPT)
            yield dice.uniform(0, 4 * HOUR)
        if dice.random() < 0.2:
            bench.sleep(dice.uniform(60, 8 * HOUR), monotonic=dice.random() < 0.5)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("rules", [*PRESETS.values(), Policy(stall_after_seconds=20)], ids=[*PRESETS, "short"])
def test_a_healthy_day_has_no_alarm(seed: int, rules: Policy) -> None:
    """Twenty-four hours of turns, tools, permissions, retries, limits and a laptop that sleeps: nothing is ever done."""
    bench = Bench(rules)
    day = healthy_day(random.Random(seed), bench)
    due, end = bench.monotonic, bench.monotonic + DAY
    looks = 0
    while bench.monotonic < end:
        while due <= bench.monotonic:
            due = bench.monotonic + next(day)
        action = bench.decide()
        looks += 1
        if isinstance(action, Continue):
            assert action.why == "limit"
            bench.took(action)
            continue
        assert isinstance(action, Wait | Limited), action
        wanted = action.until if isinstance(action, Wait) and action.until is not None else due
        bench.pass_(max(0.001, min(wanted, due) - bench.monotonic))

    assert bench.watch.resumes == 0
    assert looks > 20


def fall_silent(bench: Bench) -> float:
    return 1.0


def spin(bench: Bench) -> float:
    bench.byte()
    return bench.rules.spinning


def hang_in_a_tool(bench: Bench) -> float:
    bench.see(Progress(what="tool", in_tool=True))
    return bench.rules.in_tool


def retry_for_ever(bench: Bench) -> float:
    bench.see(facts.Retried(attempt=1, delay_seconds=1.0))
    return bench.rules.retrying


def go_in_circles(bench: Bench) -> float:
    bench.call("make test")
    return 1.0


def be_unknown(bench: Bench) -> float:
    bench.state(State.UNKNOWN)
    return 1.0


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("sick", [fall_silent, spin, hang_in_a_tool, retry_for_ever, go_in_circles, be_unknown])
def test_every_stall_is_found_within_its_time(seed: int, sick: Callable[[Bench], float]) -> None:
    """Whatever the day was like before: from the moment that it goes wrong, the bound of that clock holds."""
    dice = random.Random(seed)
    bench = Bench()
    day = healthy_day(dice, bench)
    for _ in range(dice.randrange(5, 200)):
        bench.decide()
        bench.pass_(next(day))
    bench.see(facts.TurnStarted(turn="the last")).state(State.BUSY).see(Progress(what="tool", in_tool=False)).text()
    began = bench.monotonic
    factor = sick(bench)

    action = bench.until_action(meanwhile=lambda: sick(bench), every=20.0)

    assert isinstance(action, Probe | Interrupt)
    assert bench.monotonic - began <= factor * bench.rules.stall_after_seconds + 21


class WatchMachine(RuleBasedStateMachine):
    """Anything may be seen at any time; whatever comes, the promises hold."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(Policy(stall_after_seconds=60, max_resumes=2))
        self.finished_cleanly = False
        self.gone = False
        self.parked = False

    @rule(time=st.floats(0.01, 90))
    def time_passes(self, time: float) -> None:
        self.bench.pass_(time)

    @rule(time=st.floats(60, 1e6), monotonic=st.booleans())
    def it_sleeps(self, time: float, monotonic: bool) -> None:
        self.bench.sleep(time, monotonic=monotonic)

    @rule(state=st.sampled_from([State.BUSY, State.PROMPT, State.BLOCKED, State.UNKNOWN, State.STARTING]))
    def its_state_changes(self, state: State) -> None:
        self.bench.state(state)
        self.finished_cleanly = self.finished_cleanly and state is State.PROMPT

    @rule(seconds_=st.floats(1, 1000))
    def it_is_limited(self, seconds_: float) -> None:
        self.bench.state(State.LIMITED, until_us=self.bench.wall_us + round(seconds_ * 1e6))
        self.finished_cleanly = False

    @rule()
    def it_works(self) -> None:
        self.bench.text().call()

    @rule()
    def it_repeats_itself(self) -> None:
        for _ in range(10):
            self.bench.call("the same")

    @rule()
    def a_turn_begins(self) -> None:
        self.bench.state(State.BUSY).see(facts.TurnStarted(turn="t"))
        self.finished_cleanly = False

    @rule(outcome=st.sampled_from(["success", "error", "interrupted", "limit", "refused"]))
    def a_turn_ends(self, outcome: str) -> None:
        self.bench.over(outcome).state(State.PROMPT)
        self.finished_cleanly = outcome == "success"

    @precondition(lambda self: not self.gone)
    @rule(code=st.sampled_from([0, 1]))
    def it_exits(self, code: int) -> None:
        self.bench.see(facts.Exited(reason=ExitReason.FAILURE if code else ExitReason.SUCCESS, code=code))
        self.gone = True

    @precondition(lambda self: not self.parked)
    @rule()
    def what_is_decided_is_done(self) -> None:
        before = self.bench.watch.resumes
        action = self.bench.decide()
        state, unknown = self.bench.watch.state, self.bench.watch.state is State.UNKNOWN
        match action:
            case Interrupt() | Resume() | Fresh():
                assert action.number == before + 1 <= self.bench.rules.max_resumes
                assert not unknown or isinstance(action, Fresh)
                assert state in (State.BUSY, State.STARTING, State.UNKNOWN, State.PROMPT, State.BLOCKED, State.LIMITED)
                if not self.gone:
                    assert state in (State.BUSY, State.STARTING)
                    assert not self.finished_cleanly
                self.gone = self.gone and isinstance(action, Interrupt)
            case Continue():
                assert not self.gone
                assert not self.finished_cleanly, "the text would be put before an agent that has finished"
            case Finished():
                assert self.gone
            case Park():
                self.parked = True
            case _:
                pass
        self.bench.took(action)

    @invariant()
    def deciding_changes_nothing(self) -> None:
        assert self.bench.decide() == self.bench.decide()

    @invariant()
    def an_idle_agent_is_left_alone(self) -> None:
        if self.finished_cleanly and not self.gone:
            assert self.bench.decide() == Wait(None)

    @invariant()
    def the_budget_holds(self) -> None:
        assert self.bench.watch.resumes <= self.bench.rules.max_resumes


TestWatchMachine = WatchMachine.TestCase
TestWatchMachine.settings = settings(
    max_examples=200, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
