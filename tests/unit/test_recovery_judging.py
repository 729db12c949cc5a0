"""Soft and hard state, flapping and silences, by table and by property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.recovery.facts import CheckResult
from harness.recovery.judging import Change, Judgement, Policy, Silence, State, convict, judge, silenced

LETTERS = {"P": CheckResult.PASS, "F": CheckResult.FAIL, "U": CheckResult.UNKNOWN, "E": CheckResult.ERROR}
RESULTS = st.lists(st.sampled_from(list(CheckResult)), max_size=80)


def told(letters: str, start: Judgement | None = None, policy: Policy | None = None) -> tuple[Judgement, list[Change]]:
    """The judgement after these results, and every change on the way."""
    judgement, changes = start or Judgement(), []
    for letter in letters:
        judgement, change = judge(judgement, LETTERS[letter], policy or Policy())
        changes += [change] if change else []
    return judgement, changes


@pytest.mark.parametrize(
    ("results", "state"),
    [
        ("", State.PENDING),
        ("P", State.PASSING),
        ("F", State.PENDING),
        ("U", State.PENDING),
        ("FF", State.FAILING),
        ("PF", State.PASSING),
        ("PFF", State.FAILING),
        ("PFPF", State.FAILING),
        ("PFPPF", State.PASSING),
        ("PFUF", State.FAILING),
        ("PFEEF", State.PASSING),
        ("FFPP", State.FAILING),
        ("FFPPP", State.PASSING),
        ("FFPPUP", State.FAILING),
        ("FFPPUPPP", State.PASSING),
        ("PUUU", State.PASSING),
        ("PUUUU", State.BLIND),
        ("PUEUE", State.BLIND),
        ("FFUUUUUUUU", State.FAILING),
        ("PUUUUP", State.BLIND),
        ("PUUUUPPP", State.PASSING),
        ("PUUUUFF", State.FAILING),
        ("UUUU", State.BLIND),
    ],
)
def test_results_add_up_to_a_state(results: str, state: State) -> None:
    """Two of three failures fail, three passes in a row recover, and what is unknown does neither."""
    judgement, _ = told(results)

    assert judgement.state is state


def test_only_a_change_is_reported() -> None:
    """A failure and its recovery are two changes, however long they last."""
    _, changes = told("P" * 10 + "F" * 10 + "P" * 10)

    assert [change.after.state for change in changes] == [State.PASSING, State.FAILING, State.PASSING]
    assert [change.failed for change in changes] == [False, True, False]


def test_hard_evidence_needs_no_second_look() -> None:
    """A process exit makes a check fail at once, and only once."""
    passing, _ = told("PPPP")

    failing, change = convict(passing)
    again, nothing = convict(failing)

    assert change is not None
    assert change.failed
    assert again.state is State.FAILING
    assert nothing is None


def test_flapping_holds_a_failure_until_it_ends() -> None:
    """Results that keep alternating are flapping, and a flapping check does not recover by three passes."""
    flapping, _ = told("P" + "FFPPP" * 5)
    calm, changes = told("P" * 20, start=flapping)

    assert flapping.flapping
    assert flapping.state is State.FAILING
    assert not calm.flapping
    assert calm.state is State.PASSING
    assert changes[-1].after == calm or changes[-1].after.state is State.PASSING


def test_a_break_and_repair_every_seven_looks_is_not_flapping() -> None:
    """A service that is broken on purpose again and again, and verified in between, is judged anew each time."""
    judgement, changes = told("PPPPP" + "FFPPPPP" * 10)

    assert not judgement.flapping
    assert sum(change.failed for change in changes) == 10


@given(RESULTS)
def test_nothing_but_passes_makes_passing(results: list[CheckResult]) -> None:
    """Whatever comes before, the result that makes a check passing is a pass; from failing it takes three."""
    judgement = Judgement()
    for at, result in enumerate(results):
        before = judgement
        judgement, change = judge(before, result)
        if change and judgement.state is State.PASSING and before.state is not State.PASSING:
            assert result is CheckResult.PASS
            if before.state is State.FAILING:
                assert results[at - 2 : at + 1] == [CheckResult.PASS] * 3


@given(RESULTS, st.lists(st.sampled_from([CheckResult.UNKNOWN, CheckResult.ERROR]), max_size=60))
def test_a_vanished_metric_never_resolves(results: list[CheckResult], blind: list[CheckResult]) -> None:
    """Failure 9, first half: a failing check stays failing as long as nothing can be seen."""
    judgement, _ = convict(told("")[0])
    for result in results:
        judgement, _ = judge(judgement, result)
    was_failing = judgement.state is State.FAILING

    for result in blind:
        judgement, _ = judge(judgement, result)

    assert judgement.state is State.FAILING or not was_failing


@given(RESULTS)
def test_memory_is_bounded(results: list[CheckResult]) -> None:
    """A judgement keeps its window and no more."""
    judgement = Judgement()
    for result in results:
        judgement, _ = judge(judgement, result)

    assert len(judgement.recent) <= Policy().flap_window


def test_soft_means_that_the_newest_result_contradicts() -> None:
    """A first failure of a passing check is soft; so is a first pass of a failing one."""
    assert told("PPF")[0].soft
    assert told("PPU")[0].soft
    assert told("PFFP")[0].soft
    assert not told("PP")[0].soft
    assert not told("PFF")[0].soft


@pytest.mark.parametrize("policy", [{"fail": 3, "fail_of": 2}, {"fail": 0}, {"recover": 0}, {"flap_low": 9}])
def test_a_policy_that_can_never_decide_is_refused(policy: dict[str, int]) -> None:
    """Three failures among two results never happen."""
    with pytest.raises(ValueError, match=r"decide|flapping"):
        Policy(**policy)


def test_a_silence_covers_its_subject_until_it_ends() -> None:
    """A silence names a check or a target, and the longest one counts."""
    short = Silence(subject="api", until_us=10, reason="deploy")
    long = Silence(subject="api_healthy", until_us=20, reason="move")

    assert silenced([short, long], ["api_healthy", "api"], 5) == long
    assert silenced([short, long], ["api_latency", "api"], 5) == short
    assert silenced([short], ["api"], 10) is None
    assert silenced([short], [""], 5) is None
