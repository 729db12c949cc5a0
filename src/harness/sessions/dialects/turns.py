"""Turns of a program that is talked to through its terminal, pieced together from what it lets on. Pure.

Owns which messages were typed and not taken yet, and which turn took them. A program merges what it was sent while busy, so
one turn may answer several messages; and it does not say that a turn was cut short, so whoever notices ends it here.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Literal

from harness.sessions import facts
from harness.sessions.reports import Receipt, Report
from harness.text import cleaned

Outcome = Literal["success", "error", "interrupted", "limit", "refused"]

_ENOUGH = 16  # letters of a message that are found in a longer prompt by no chance
_MAX_SUMMARY = 2000


class Turns:
    """What was typed, what was taken, and the turn under way."""

    def __init__(self) -> None:
        self.turn = ""  # under way; empty: none
        self.joined = False  # messages have come to it after it began, and it may not have got to them
        self._sent: dict[str, str] = {}  # by message id, as it is compared
        self._taken: dict[str, str] = {}  # by the turn under way, as it is compared

    @property
    def waiting(self) -> bool:
        """Whether something was typed that nothing has taken yet."""
        return bool(self._sent)

    def waits(self, message_id: str) -> bool:
        """Whether this message was typed and has not been taken yet."""
        return message_id in self._sent

    def sent(self, message_id: str, text: str) -> None:
        """A message is being submitted; one without text submits what is in the composer, which nobody here knows."""
        self._sent[message_id] = _compared(text)

    def withdrawn(self, message_id: str) -> None:
        """It did not get as far as to be submitted."""
        self._sent.pop(message_id, None)

    def taken(self, prompt: str | None, *, turn: str = "", proof: str) -> list[Report]:
        """The program took a prompt with this text; None: it took what was typed last, whatever it is."""
        ids = list(self._sent) if prompt is None else self._matching(_compared(prompt))
        texts = {message_id: self._sent.pop(message_id) for message_id in ids}
        reports: list[Report] = []
        if self.turn:
            self.joined = self.joined or bool(ids)
        else:
            self.turn, self.joined = turn or str(uuid.uuid4()), False
            reports.append(facts.TurnStarted(turn=self.turn, message_ids=tuple(ids)))
        self._taken |= texts
        reports += [Receipt(stage="accepted", message_id=message_id, turn=self.turn, proof=proof) for message_id in ids]
        return reports

    def done_without_turn(self, message_id: str, *, proof: str) -> list[Report]:
        """The program took a message and began nothing for it, as with its own commands."""
        if self._sent.pop(message_id, None) is None:
            return []
        return [
            Receipt(stage="accepted", message_id=message_id, proof=proof),
            Receipt(stage="done", message_id=message_id, proof=proof),
        ]

    def ended(self, outcome: Outcome, *, summary: str = "", error: str = "", more: bool = False) -> list[Report]:
        """The turn under way is over; nothing is said if there is none."""
        if not self.turn:
            return []
        turn, ids, self.turn, self._taken = self.turn, tuple(self._taken), "", {}
        summary, error = cleaned(summary, limit=_MAX_SUMMARY), cleaned(error, limit=_MAX_SUMMARY)
        return [
            facts.TurnCompleted(turn=turn, outcome=outcome, summary=summary, error=error, message_ids=ids, more=more),
        ]

    def over(self, prompts: Sequence[str], *, turn: str, summary: str, proof: str) -> list[Report]:
        """The program says afterwards that it has answered these prompts well, which may be all that it lets on of a turn.

        What it says of a turn before the one under way is not news.
        """
        told = [_compared(prompt) for prompt in prompts]
        late = [prompt for prompt in prompts if self._matching(_compared(prompt))]
        known = [text for text in self._taken.values() if text]
        if not late and known and not any(text in each for text in known for each in told):
            return []
        taken = [report for prompt in late for report in self.taken(prompt, turn=turn, proof=proof)]
        return [*taken, *self.ended("success", summary=summary)]

    def _matching(self, prompt: str) -> list[str]:
        """The messages that are this prompt, or, where several became one, stand in it."""
        same = [message_id for message_id, text in self._sent.items() if text == prompt]
        if same:
            return same[:1]
        within = [message_id for message_id, text in self._sent.items() if len(text) >= _ENOUGH and text in prompt]
        return within or [message_id for message_id, text in self._sent.items() if not text][:1]


def _compared(text: str) -> str:
    """Without differences in white space: programs turn tabs into spaces and line ends into their own."""
    return " ".join(text.split())
