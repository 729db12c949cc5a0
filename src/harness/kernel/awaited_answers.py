"""Runs that are paused until a person has answered: what they wait for, and what goes on when it is there.

An answer that is given elsewhere (`harness questions approve`) lets the run go on with the next step that is asked for; and
whoever resumes the run by saying yes or no has answered.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from harness.errors import Conflict, NotFound, PolicyDenied, RunNotActive
from harness.kernel import records
from harness.kernel.lifecycle import Lifecycle
from harness.kernel.steps import Steps
from harness.ledger import Event

if TYPE_CHECKING:
    from harness.people import Questions


def waiting_for(event_context: object) -> str | None:
    """The question that a paused run waits for, by the context of its pause."""
    if isinstance(event_context, Mapping):
        found = cast("Mapping[str, object]", event_context).get("approval")
        return found if isinstance(found, str) else None
    return None


def verdict_of(human_input: object) -> tuple[str | None, str]:
    """What somebody who resumed a run said about the approval it waits for: approve, deny, or neither; and a note."""
    match human_input:
        case bool():
            return ("approve" if human_input else "deny"), ""
        case str():
            word = human_input.strip().casefold()
            return ("approve" if word in _YES else "deny" if word in _NO else None), ""
        case Mapping():
            said = cast("Mapping[str, object]", human_input)
            for name in ("approved", "approve", "decision", "answer"):
                if name in said:
                    note = said.get("note", said.get("reason", ""))
                    return verdict_of(said[name])[0], note if isinstance(note, str) else ""
            return None, ""
        case _:
            return None, ""


_YES = frozenset({"approve", "approved", "yes"})
_NO = frozenset({"deny", "denied", "no"})


class Waiting:
    """Runs that are paused until a question is answered."""

    def __init__(self, steps: Steps, lifecycle: Lifecycle, questions: Callable[[], Questions]) -> None:
        self._steps = steps
        self._lifecycle = lifecycle
        self._questions = questions

    async def over(self, paused: Event) -> bool:
        """Whether what a run was paused for has been answered or has expired; then it goes on, with the answer as its input."""
        id_ = None if paused.erased else waiting_for(paused.load(records.RunChanged).context)
        run_id = paused.stream.partition("/")[2]
        if id_ is None:
            return False
        questions = self._questions()
        try:
            question = await questions.get(id_)
        except NotFound:
            return False
        if question.open_at(self._steps.store.clock.now_us()):
            return False
        said = None if question.answer is None else {
            "question_id": id_, "answer": question.answer, "by": question.answered_by, "note": question.note,
        }  # fmt: skip
        with contextlib.suppress(RunNotActive):
            reason = f"{id_} was answered" if said else f"{id_} has expired"
            await self._lifecycle.change(
                run_id, records.RUN_RESUMED, reason=reason, by=question.answered_by or "", human_input=said
            )
        return True

    async def resumed(self, context: object, human_input: object, *, by: str) -> None:
        """Somebody resumes the run: what they say is their answer, if it is a yes or a no."""
        id_ = waiting_for(context)
        choice, note = verdict_of(human_input)
        if id_ is None or choice is None:
            return
        with contextlib.suppress(NotFound, Conflict, PolicyDenied):  # unknown, answered already, too late
            question = await self._questions().get(id_)
            await self._questions().answer(id_, choice, by=by, digest=question.digest, note=note)
