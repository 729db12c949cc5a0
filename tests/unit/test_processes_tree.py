"""Who belongs to a tree: the pure decision."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.processes.identity import Identity, Row
from harness.processes.tree import kin

OWN = 10
ROOT = Identity(pid=100, started=50)


def row(pid: int, parent: int, session: int, *, group: int | None = None, started: int = 60, state: str = "S") -> Row:
    return Row(pid, parent, session if group is None else group, session, state, started)


def members(*rows: Row, known: tuple[Identity, ...] = (), marked: frozenset[int] = frozenset()) -> set[int]:
    owner = row(OWN, 1, OWN, started=5)
    table = {one.pid: one for one in (owner, *rows)}
    return kin(table, root=ROOT, own=OWN, known=known, marked=marked)


LEADER = row(100, OWN, 100, started=50)
KNOWN = Identity(pid=103, started=60)


@pytest.mark.parametrize(
    ("rows", "known", "marked", "expected"),
    [  # the table, whom we know, who carries our mark, who belongs
        pytest.param((LEADER,), (), (), {100}, id="the root alone"),
        pytest.param((LEADER, row(101, 100, 100), row(102, 101, 100)), (), (), {100, 101, 102}, id="children of children"),
        pytest.param((LEADER, row(101, 100, 101), row(102, 101, 101)), (), (), {100, 101, 102}, id="a child's own session"),
        pytest.param((LEADER, row(103, 1, 100)), (), (), {100, 103}, id="an orphan of the same session"),
        pytest.param((LEADER, row(103, 1, 90)), (), (), {100}, id="somebody else's orphan"),
        pytest.param((LEADER, row(103, 1, 102),), (), (103,), {100, 103}, id="a daemon with our mark"),
        pytest.param((row(103, 1, 102), row(104, 103, 104)), (), (103,), {103, 104}, id="a daemon's children"),
        pytest.param((row(103, 1, 100), row(104, 1, 100)), (KNOWN,), (), {103, 104}, id="known from before"),
        pytest.param((row(103, 1, 100),), (Identity(pid=103, started=59),), (), set(), id="a known one's pid is used again"),
        pytest.param((row(100, 1, 100, started=70), row(101, 100, 100)), (), (), set(), id="the root's pid is used again"),
        pytest.param((LEADER, row(101, 100, 100, started=49)), (), (), {100}, id="nobody is older than the root"),
        pytest.param((row(100, OWN, OWN, started=50), row(101, OWN, OWN)), (), (), {100}, id="the owner's session is no kin"),
        pytest.param((row(100, OWN, 100, started=50, state="Z"), row(101, 1, 100)), (), (), {100, 101}, id="a dead root"),
        pytest.param((LEADER, row(101, 1, 300, group=100)), (), (), {100, 101}, id="by process group"),
    ],
)  # fmt: skip
def test_kin(rows: tuple[Row, ...], known: tuple[Identity, ...], marked: tuple[int, ...], expected: set[int]) -> None:
    """Marks, memory, sessions, groups and parents decide, never a bare pid."""
    assert members(*rows, known=known, marked=frozenset(marked)) == expected


PIDS = st.integers(min_value=101, max_value=115)
ROWS = st.lists(
    st.builds(row, PIDS, st.one_of(PIDS, st.just(100), st.just(OWN), st.just(1)), st.one_of(PIDS, st.just(100), st.just(OWN))),
    max_size=12,
    unique_by=lambda one: one.pid,
)


@settings(deadline=None)
@given(rows=ROWS, marked=st.frozensets(PIDS))
def test_the_owner_is_never_a_member_and_children_of_members_always_are(rows: list[Row], marked: frozenset[int]) -> None:
    """Whatever the table looks like, a tree is closed under parenthood and never contains its owner."""
    found = members(LEADER, *rows, marked=marked)

    assert OWN not in found
    assert 100 in found
    assert all(one.pid in found for one in rows if one.parent in found)
    assert marked & {one.pid for one in rows} <= found


@settings(deadline=None)
@given(rows=ROWS, extra=st.builds(row, st.just(200), st.just(1), st.just(200)))
def test_a_stranger_is_never_a_member(rows: list[Row], extra: Row) -> None:
    """Somebody without mark, kinship or memory is left alone."""
    assert 200 not in members(LEADER, *rows, extra)
