"""The pure parts of work: circles, priorities, ids, spreading claimers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DependencyCycle, UsageError
from harness.work import Status, priority_name, priority_of
from harness.work.claims import Spread
from harness.work.dependencies import refuse_circle
from harness.work.item import check_id, ttl_of
from harness.work.table import places


def test_a_circle_is_printed_from_end_to_end() -> None:
    """Whoever made it sees which link to drop."""
    needs = {"b": ["x", "c"], "x": [], "c": ["a"]}

    with pytest.raises(DependencyCycle, match="item a cannot depend on b: a -> b -> c -> a"):
        refuse_circle("a", ["b"], needs)


def test_an_item_does_not_depend_on_itself() -> None:
    """The shortest circle."""
    with pytest.raises(DependencyCycle, match="a -> a"):
        refuse_circle("a", ["a"], {})


@given(st.dictionaries(st.integers(0, 7), st.frozensets(st.integers(0, 7), max_size=3)), st.integers(0, 7), st.integers(0, 7))
def test_a_link_is_refused_exactly_if_it_closes_a_circle(graph: dict[int, frozenset[int]], item: int, on: int) -> None:
    """The same answer as walking everywhere."""
    needs = {str(name): [str(each) for each in on] for name, on in graph.items()}
    reached = {on}
    for _ in range(8):
        reached |= {each for name in reached for each in graph.get(name, ())}

    try:
        refuse_circle(str(item), [str(on)], needs)
    except DependencyCycle as error:
        refused = True
        links = str(error).rpartition(": ")[2].split(" -> ")
        assert links[0] == links[-1] == str(item)
        assert all(later in needs[earlier] for earlier, later in itertools.pairwise(links[1:]))
    else:
        refused = False

    assert refused is (item in reached)


@pytest.mark.parametrize(
    ("given_as", "priority", "name"),
    [
        ("low", 1, "low"),
        ("Medium", 5, "medium"),
        ("high", 10, "high"),
        ("critical", 20, "critical"),
        (7, 7, "medium"),
        ("12", 12, "high"),
        (0, 0, "low"),
    ],
)
def test_priorities_have_names_and_numbers(given_as: int | str, priority: int, name: str) -> None:
    """A number is called by the highest name that it reaches."""
    assert priority_of(given_as) == priority
    assert priority_name(priority) == name


@pytest.mark.parametrize("wrong", ["urgent", "", "-1", -1, True, 10**9])
def test_what_is_no_priority_is_refused(wrong: int | str) -> None:
    """Rather than guessed."""
    with pytest.raises(UsageError, match="priority"):
        priority_of(wrong)


@pytest.mark.parametrize("wrong", ["", "a b", "a/b", "a\n", "x" * 201, "\x7f"])
def test_an_id_that_cannot_name_a_stream_is_refused(wrong: str) -> None:
    """Before anything is written."""
    with pytest.raises(UsageError, match="item id"):
        check_id(wrong)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), 1e9])
def test_a_lease_that_nobody_could_live_with_is_refused(wrong: float) -> None:
    """It would end at once, or never."""
    with pytest.raises(UsageError, match="lease"):
        ttl_of(wrong)


def test_a_claimer_alone_takes_the_first() -> None:
    """Without contention the order is exact."""
    spread = Spread()

    assert {spread.skip() for _ in range(50)} == {0}


def test_claimers_spread_while_they_lose_and_gather_when_they_win() -> None:
    """Contention widens the choice; calm narrows it to the first again."""
    spread = Spread()

    for _ in range(10):
        spread.lost()
    wide = spread.width
    for _ in range(200):
        spread.won()

    assert wide == 64
    assert spread.width == 1


@given(st.frozensets(st.sampled_from(Status)), st.sampled_from([None, True, False]))
def test_every_state_is_asked_for_once(statuses: frozenset[Status], ready: bool | None) -> None:
    """Parts of one question never overlap, so nothing is listed twice."""
    parts = places(statuses, ready)

    assert len(parts) == len(set(parts))
    if ready:
        assert len(parts) == (not statuses or Status.PENDING in statuses)
