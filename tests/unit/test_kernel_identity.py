"""Step identities: the written form and the counting."""

from __future__ import annotations

import anyio
from hypothesis import given
from hypothesis import strategies as st

from harness.kernel.identity import Ordinals, current_scope, step_id, step_scope

parts = st.text(alphabet=st.sampled_from("ab/#%2F"), min_size=0, max_size=6)
places = st.tuples(st.lists(parts, max_size=3).map(tuple), parts, st.integers(0, 30))


@given(places, places)
def test_different_places_have_different_ids(
    one: tuple[tuple[str, ...], str, int], other: tuple[tuple[str, ...], str, int]
) -> None:
    """No two places are written alike, whatever characters their parts hold."""
    assert (step_id(*one) == step_id(*other)) == (one == other)


def test_a_long_key_is_cut_and_stays_its_own() -> None:
    """Keys that are too long for an event end in a hash of themselves."""
    one, other = step_id((), "x" * 5000 + "1"), step_id((), "x" * 5000 + "2", 3)

    assert one != other
    assert len(one) < 500
    assert other.endswith("#3")


def test_calls_without_a_key_are_counted_in_their_scope() -> None:
    """Each name counts by itself in each scope; a key is never counted."""
    ordinals = Ordinals()

    calls = [((), "model", None), ((), "model", None), (("s",), "model", None), ((), "add", None), ((), "model", "k")]

    ids = [ordinals.allot(scope, name, key) for scope, name, key in (*calls, calls[0])]

    assert ids == ["model#1", "model#2", "s/model#1", "add#1", "k", "model#3"]


async def test_scopes_nest_and_reach_tasks_started_inside() -> None:
    """A task inherits the scope it was started in, and leaving one restores the one before."""
    seen: list[tuple[str, ...]] = []

    async def look() -> None:
        seen.append(current_scope())

    with step_scope("session 1"), step_scope("task"):
        async with anyio.create_task_group() as group:
            group.start_soon(look)
    await look()

    assert seen == [("session 1", "task"), ()]
