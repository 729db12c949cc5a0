"""When what somebody waits for has come: a state, or the end of the work on the last message. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from harness.ledger import Event
from harness.sessions import facts
from harness.sessions.facts import MessageStatus, State
from harness.sessions.record import Session


class Until(StrEnum):
    """What can be waited for."""

    PROMPT = "prompt"
    BUSY = "busy"
    TASK_COMPLETE = "task_complete"
    EXIT = "exit"


_TAKEN_BACK = frozenset({facts.WITHDRAWN, facts.DROPPED, facts.EXPIRED})
_ON_ITS_WAY = frozenset({MessageStatus.QUEUED, MessageStatus.WRITTEN})


@dataclass(slots=True)
class _Work:
    """One message and the turn that it led to."""

    sent: bool = False
    done: facts.TurnCompleted | None = None


class Waiting:
    """Folds a session and says whether what is waited for has come."""

    def __init__(self, key: str, until: Until) -> None:
        self.session = Session(key=key)
        self._until = until
        self._first = _Work(sent=True)  # what the session was started for
        self._works: dict[str, _Work] = {}

    def see(self, event: Event) -> None:
        """Take one event in."""
        self.session.fold(event)
        if event.erased or event.type not in facts.SHAPES:
            return
        told = event.load(facts.SHAPES[event.type])
        match told:
            case facts.Queued() if told.submit or told.only_submit:
                self._works[told.message_id] = _Work()
            case facts.Moved() if event.type in _TAKEN_BACK:
                self._works.pop(told.message_id, None)
            case facts.Moved() if told.message_id in self._works:
                self._works[told.message_id].sent = True
            case facts.TurnCompleted() if not told.more:
                self._complete(told)
            case _:
                pass

    def _complete(self, turn: facts.TurnCompleted) -> None:
        self._first.done = turn
        for id_, work in self._works.items():
            if id_ in turn.message_ids or (work.sent and not turn.message_ids):
                work.done = turn

    @property
    def task(self) -> facts.TurnCompleted | None:
        """The turn that ended the work on the last message; without any message, the last turn that ended.

        A turn that was under way when the message came does not count, nor one after which work goes on by itself.
        """
        last = next(reversed(self._works.values()), self._first)
        return last.done

    @property
    def come(self) -> bool:
        """Whether it has come. Once the session has ended only its exit has."""
        session = self.session
        if self._until is Until.EXIT or not session.live:
            return self._until is Until.EXIT and not session.live
        if self._until is Until.TASK_COMPLETE:
            return self.task is not None
        if self._until is Until.BUSY:
            return session.state is State.BUSY
        waiting = any(message.status in _ON_ITS_WAY for message in session.messages.values())
        return session.state is State.PROMPT and not waiting  # with a message on its way it is about to be busy
