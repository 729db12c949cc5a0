"""The list of tasks: what a definition may be, and that no task is ever lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.agents.reviewing import approves
from harness.agents.tasks import TaskUnit, defined, from_summary, marked, merged, next_of, to_summary
from harness.errors import UsageError

IDS = st.lists(st.sampled_from("abcdefgh"), unique=True)


def units(*ids: str, **states: Any) -> tuple[TaskUnit, ...]:
    return tuple(TaskUnit(id=id, description=f"do {id}", state=states.get(id, "pending")) for id in ids)


def test_a_task_prints_as_documented() -> None:
    """The documented program shows it."""
    task = TaskUnit(id="fact", description="Provide a historical fact", state="done")

    assert repr((task,)) == "(TaskUnit(id='fact', description='Provide a historical fact', state='done'),)"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"id": "", "description": "x"}, "a task's id is a text that is not empty, not ''"),
        ({"id": " ", "description": "x"}, "a task's id is a text"),
        ({"id": 3, "description": "x"}, "a task's id is a text that is not empty, not 3"),
        ({"id": "a", "description": None}, "a task's description is a text"),
        ({"id": "a", "description": "x", "state": "finished"}, "task 'a' is pending, in_progress or done, not 'finished'"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(fields: dict[str, Any], says: str) -> None:
    """Where it is made, with the value that is wrong."""
    with pytest.raises(UsageError, match=says):
        TaskUnit(**fields)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "H.define_tasks gives a sequence of TaskUnit, not None"),
        ("ingest", "not 'ingest'"),
        ({"id": "a"}, "not {'id': 'a'}"),
        (7, "not 7"),
        ([{"id": "a"}], "gives {'id': 'a'}, which is no TaskUnit"),
        (units("a", "b", "a"), "two tasks with the id 'a'"),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused(given: object, says: str) -> None:
    """One clear error that names the method."""
    with pytest.raises(UsageError, match=says):
        defined(given, "H.define_tasks")


def test_defined_tasks_are_still_to_be_done() -> None:
    """Nobody becomes done by definition."""
    assert defined(iter(units("a", "b", a="done")), "x") == units("a", "b")


@given(recorded=IDS, definition=IDS, done=st.sets(st.sampled_from("abcdefgh")))
def test_merging_loses_no_task_and_no_state(recorded: list[str], definition: list[str], done: set[str]) -> None:
    """What was recorded stays in its order, what is new comes after it, and nothing done is to be done again."""
    before = units(*recorded, **dict.fromkeys(done, "done"))

    after = merged(before, units(*definition))

    assert [unit.id for unit in after] == recorded + [id for id in definition if id not in recorded]
    assert {unit.id for unit in after if unit.state == "done"} == done & set(recorded)
    assert merged(after, units(*definition)) == after


def test_what_is_not_done_takes_its_newest_description() -> None:
    """A done task keeps what was done."""
    newer = tuple(TaskUnit(id=id, description="new") for id in "ab")

    assert [unit.description for unit in merged(units("a", "b", a="done"), newer)] == ["do a", "new"]


def test_what_was_interrupted_comes_first() -> None:
    """Then the first pending one; then nothing."""
    assert next_of(units("a", "b", b="in_progress")) == units("b", b="in_progress")[0]
    assert next_of(units("a", "b", a="done")) == units("b")[0]
    assert next_of(units("a", a="done")) is None


def test_a_summary_gives_back_its_tasks() -> None:
    """One task marked, recorded and read."""
    after = marked(units("a", "b"), "a", "done")

    assert from_summary(to_summary(after), "r") == after
    assert from_summary(None, "r") == ()


@pytest.mark.parametrize("summary", [3, "x", {}, {"units": None}, {"units": [3]}, {"units": [{"id": "a"}]}])
def test_a_foreign_summary_is_told(summary: object) -> None:
    """Somebody else wrote a summary of this name."""
    with pytest.raises(UsageError, match="the summary task_progress of run 'r' lists no tasks"):
        from_summary(summary, "r")


class Said:
    def __init__(self, passed: object) -> None:
        self.passed = passed


@pytest.mark.parametrize("answer", [True, {"passed": True}, {"status": "ok"}, {"status": "passed"}, Said(True)])
def test_an_explicit_yes_approves(answer: object) -> None:
    """Five forms of it."""
    assert approves(answer)


@pytest.mark.parametrize(
    "answer",
    [
        *(False, None, 1, 1.0, "yes", "no", "ok", "true", "passed", [], [True], (True,), {}, {"passed": "yes"}),
        *({"passed": 1}, {"passed": False, "status": "ok"}, {"status": "failed"}, {"status": True}, {"approved": True}),
        *({"status": "no"}, Said("yes"), Said(False), Said(1), Said(None), object()),
    ],
)
def test_anything_else_does_not(answer: object) -> None:
    """Texts least of all."""
    assert not approves(answer)
