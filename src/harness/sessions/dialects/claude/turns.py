"""Turns and messages: which began, which are over, how they ended, and what is proven of each message."""

from __future__ import annotations

from typing import Literal

from harness.sessions.dialects.claude.items import brief
from harness.sessions.dialects.fields import Object, count, number, text, texts, truth
from harness.sessions.facts import ItemCompleted, TurnCompleted, TurnStarted, Unrecognised
from harness.sessions.reports import Receipt, Report

Outcome = Literal["success", "error", "interrupted", "limit", "refused"]

_SUMMARY = 2_000
_DIAGNOSTIC = "[ede_diagnostic]"  # how the program calls notes to itself among the errors of a result
_LIMITS = frozenset({"max_turns", "budget_exhausted", "error_max_turns", "error_max_budget_usd"})


class Turns:
    """The turn under way, and the messages whose fate is open.

    A turn begins where the program takes a message up, or of itself when a background task has ended; it is over with its
    result. Messages that join a turn are called completed before it is over: that is told when it is.
    """

    def __init__(self, *, once: bool) -> None:
        self.turn = ""  # under way, or the last one
        self.open = False
        self._once = once
        self._lifecycle = False  # whether this program tells what becomes of messages
        self._messages: dict[str, str] = {}  # accepted and not over, with their turn
        self._held: list[Receipt] = []
        self._outcome: Outcome = "success"

    def begin(self, turn: str, *message_ids: str) -> list[Report]:
        """Something shows that a turn is under way; nothing if that is known."""
        if self.open:
            return []
        self.turn, self.open = turn, True
        started = TurnStarted(turn=turn, message_ids=message_ids)
        accepted = [Receipt(stage="accepted", message_id=None, turn=turn, proof="it was begun")] if self._once else []
        return [started, *accepted]

    def lifecycle(self, line: Object) -> list[Report]:
        """A `command_lifecycle` line: what becomes of one message."""
        message_id = text(line, "command_uuid")
        self._lifecycle = True
        match text(line, "state"):
            case "queued":
                self._messages.setdefault(message_id, "")
                return [Receipt(stage="accepted", message_id=message_id, proof="queued")]
            case "started":
                begun = self.begin(text(line, "uuid") or message_id, message_id)
                self._messages[message_id] = self.turn
                return [*begun, Receipt(stage="accepted", message_id=message_id, turn=self.turn, proof="started")]
            case "completed":
                return self._over(message_id, "done", "completed")
            case "cancelled":
                failed = self._messages.get(message_id) == self.turn and not self.open and self._outcome != "interrupted"
                return self._over(message_id, "failed" if failed else "cancelled", self._outcome if failed else "cancelled")
            case state:
                return [Unrecognised(kind=brief(f"command_lifecycle/{state}", 80), raw=message_id)]

    def replayed(self, line: Object) -> list[Report]:
        """The program shows a message that it was given: the only receipt of programs without a lifecycle."""
        message_id = text(line, "uuid")
        if not message_id or message_id in self._messages:
            return []
        if not self._lifecycle:
            self._messages[message_id] = self.turn if self.open else ""
        return [Receipt(stage="accepted", message_id=message_id, turn=self.turn if self.open else "", proof="replayed")]

    def end(self, result: Object, *, limited: bool, refused: bool, background: bool) -> list[Report]:
        """A `result` line. A failure before any turn, as of a session that cannot be continued, is an error and no turn."""
        outcome = _outcome(result, limited=limited, refused=refused)
        error = "" if outcome == "success" else _error(result)
        if not self.open and outcome != "success":
            return [ItemCompleted(kind="error", name=text(result, "subtype"), summary=error, ok=False)]
        begun = self.begin(text(result, "uuid"))
        self.open, self._outcome = False, outcome
        message_ids = texts(result, "user_message_uuids") or self._of_turn()
        duration = number(result, "duration_ms")
        waiting = self._lifecycle and any(not turn for turn in self._messages.values())
        told = TurnCompleted(
            turn=self.turn, outcome=outcome, summary=brief(text(result, "result"), _SUMMARY), error=error,
            message_ids=message_ids, duration_ms=None if duration is None else round(duration),
            more=background or waiting or count(result, "queued_turn_count") > 0,
        )  # fmt: skip
        held, self._held = self._held, []
        return [*begun, told, *held, *self._without_lifecycle(message_ids)]

    def _over(self, message_id: str, stage: Literal["done", "failed", "cancelled"], proof: str) -> list[Report]:
        turn = self._messages.pop(message_id, "")
        if stage == "done" and not turn:
            proof = "it had been taken up before"  # the same id twice: the program does nothing the second time
        receipt = Receipt(stage=stage, message_id=message_id, turn=turn, proof=proof)
        if self.open and turn == self.turn and stage == "done":
            self._held.append(receipt)
            return []
        return [receipt]

    def _of_turn(self) -> tuple[str, ...]:
        return tuple(message_id for message_id, turn in self._messages.items() if turn == self.turn)

    def _without_lifecycle(self, message_ids: tuple[str, ...]) -> list[Report]:
        if self._once:
            return [Receipt(stage=_stage(self._outcome), message_id=None, turn=self.turn, proof="result")]
        if self._lifecycle:
            return []
        for message_id in message_ids:
            self._messages.pop(message_id, None)
        stage = _stage(self._outcome)
        return [Receipt(stage=stage, message_id=message_id, turn=self.turn, proof="result") for message_id in message_ids]


def _stage(outcome: Outcome) -> Literal["done", "failed", "cancelled"]:
    return "done" if outcome == "success" else "cancelled" if outcome == "interrupted" else "failed"


def _outcome(result: Object, *, limited: bool, refused: bool) -> Outcome:
    """`subtype` alone is not to be trusted: a turn that an API error ended is called a success there."""
    ended = text(result, "terminal_reason")
    subtype = text(result, "subtype")
    failed = truth(result, "is_error") or subtype != "success"
    if ended.startswith("aborted"):
        return "interrupted"
    if ended in _LIMITS or subtype in _LIMITS or (failed and limited):
        return "limit"
    if text(result, "stop_reason") == "refusal" or (failed and refused):
        return "refused"
    return "error" if failed else "success"


def _error(result: Object) -> str:
    said = [each for each in texts(result, "errors") if not each.startswith(_DIAGNOSTIC)]
    return brief("\n".join(said) or text(result, "result") or text(result, "terminal_reason"), _SUMMARY)
