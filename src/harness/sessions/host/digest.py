"""From reports to events: what of all that a transport tells is worth writing down. No I/O.

Owns the state board, the counters whose differences are recorded, and turns of programs that have none of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from harness.ledger import Draft, Guard, Unique
from harness.sessions import facts
from harness.sessions.facts import MessageStatus, State
from harness.sessions.host.recorder import draft, moved
from harness.sessions.record import Session
from harness.sessions.reports import (
    ApprovalAsked,
    ApprovalSettled,
    Cumulative,
    Progress,
    Reading,
    Receipt,
    Report,
    Useless,
)
from harness.sessions.state import Board

_MAX_KINDS = 200
_MAX_NOTES = 50
_IDENTITY = ("vendor_session", "model", "cli_version", "transcript")


class Digest:
    """Turns reports into drafts, in order. `price` estimates money where the program names none."""

    def __init__(self, session: Session, *, price: Callable[[facts.Usage], float | None]) -> None:
        self.board = Board()
        self.own_turns = False  # the program has none: they are read off its state
        self.asked: list[ApprovalAsked] = []  # for the host to see to; it empties this
        self.settled: list[ApprovalSettled] = []
        self.useless = ""  # why the program will never take a message; empty: it may
        self.last_progress_us = 0
        self.last_output_us = 0
        self.in_tool = False
        self._session = session
        self._price = price
        self._counters: dict[str, Cumulative] = {}
        self._kinds: set[str] = set()
        self._notes: dict[str, int] = {}
        self._told: dict[str, str] = {}
        self._capabilities: tuple[str, ...] = ()
        self._turn = ""  # of a program without turns of its own: the message that began it
        self._guards: list[Guard] = []
        self._moves: dict[str, str] = {}

    def take(self, reports: Iterable[Report], now_us: int) -> tuple[list[Draft], tuple[Guard, ...]]:
        """The events that these reports amount to, and what guards they need."""
        self._guards = []
        self._moves = {}
        drafts: list[Draft] = []
        for report in reports:
            try:
                drafts += self._one(report, now_us)
            except Exception as error:  # noqa: BLE001 - one report that makes no sense must not end the session
                drafts += self._noted(facts.Noted(kind="report", text=f"not taken in: {report!r:.300}: {error!r}"))
        return drafts, tuple(self._guards)

    def settle(self, now_us: int) -> list[Draft]:
        """The state as it stands now, if it has changed."""
        changed, disputes = self.board.settle(now_us)
        drafts = [draft(facts.STATE_DISPUTED, dispute) for dispute in disputes]
        if changed is not None:
            drafts.insert(0, draft(facts.STATE_CHANGED, changed))
            if changed.state is State.PROMPT:
                drafts += self._end_own_turn(facts.TurnCompleted(turn=self._turn, outcome="success"))
        return drafts

    def _one(self, report: Report, now_us: int) -> list[Draft]:
        match report:
            case Progress():
                self.progress(report, now_us)
                return []
            case Useless():
                self.useless = report.reason
                return []
            case Reading():
                self.board.take(report, now_us)
                return self.settle(now_us)
            case Receipt():
                return self._receipt(report)
            case ApprovalAsked():
                self.asked.append(report)
                return []
            case ApprovalSettled():
                self.settled.append(report)
                return []
            case Cumulative():
                return self._usage(report)
            case facts.Identified():
                return self._identified(report)
            case facts.TurnStarted():
                self.last_progress_us = now_us
                return [draft(facts.TURN_STARTED, report)]
            case facts.TurnCompleted():
                self.last_progress_us = now_us
                self.in_tool = False
                return self._turn_completed(report)
            case facts.ItemCompleted():
                self.last_progress_us = now_us
                return [draft(facts.ITEM_COMPLETED, report)]
            case facts.Limited():
                return [draft(facts.LIMITED, report)]
            case facts.Retried():
                return [draft(facts.RETRIED, report)]
            case facts.Unrecognised():
                return self._unrecognised(report)
            case facts.Noted():
                return self._noted(report)

    def progress(self, report: Progress, now_us: int) -> None:
        """Turn the clocks back; called for every chunk of output, so it does nothing else."""
        self.last_output_us = now_us
        if report.what != "output":
            self.last_progress_us = now_us
        if report.in_tool is not None:
            self.in_tool = report.in_tool

    # Messages and turns

    def _receipt(self, receipt: Receipt) -> list[Draft]:
        message_id = receipt.message_id or self._oldest_written()
        if message_id is None or message_id not in self._session.messages:
            return []
        status = self._status(message_id)
        match receipt.stage:
            case "accepted" if status is MessageStatus.WRITTEN:
                return [*self._move(message_id, facts.ACCEPTED, receipt), *self._begin_own_turn(message_id)]
            case "done" if status in (MessageStatus.WRITTEN, MessageStatus.ACCEPTED):
                return self._move(message_id, facts.COMPLETED, receipt)
            case "failed" | "cancelled" if status in (MessageStatus.WRITTEN, MessageStatus.ACCEPTED):
                return self._move(message_id, facts.FAILED, receipt, reason=receipt.proof or receipt.stage)
            case _:
                return []

    def _oldest_written(self) -> str | None:
        return next((id_ for id_ in self._session.messages if self._status(id_) is MessageStatus.WRITTEN), None)

    def _status(self, message_id: str) -> MessageStatus:
        """As it will be when what this batch has already decided is written."""
        if message_id in self._moves:
            return facts.STATUS_AFTER[self._moves[message_id]]
        return self._session.messages[message_id].status

    def _move(self, message_id: str, type_: str, receipt: Receipt, *, reason: str = "") -> list[Draft]:
        self._moves[message_id] = type_
        drafts, guards = moved(
            self._session, message_id, type_, reason=reason, turn=receipt.turn, receipt=receipt.proof if not reason else ""
        )
        self._guards += guards
        return list(drafts)

    def _begin_own_turn(self, message_id: str) -> list[Draft]:
        if not self.own_turns:
            return []
        self._turn = message_id
        return [draft(facts.TURN_STARTED, facts.TurnStarted(turn=message_id, message_ids=(message_id,)))]

    def _end_own_turn(self, told: facts.TurnCompleted) -> list[Draft]:
        """A program without turns is done with a message when it is at its prompt again."""
        if not self.own_turns or not self._turn:
            return []
        turn, self._turn = self._turn, ""
        return self._turn_completed(msgspec.structs.replace(told, turn=turn, message_ids=(turn,)))

    def _turn_completed(self, told: facts.TurnCompleted) -> list[Draft]:
        drafts = [draft(facts.TURN_COMPLETED, told)]
        for message_id in told.message_ids:
            if message_id in self._session.messages:
                reason = "" if told.outcome == "success" else told.outcome
                drafts += self._receipt_done(message_id, told.turn, reason)
        return drafts

    def _receipt_done(self, message_id: str, turn: str, reason: str) -> list[Draft]:
        if self._status(message_id) not in (MessageStatus.WRITTEN, MessageStatus.ACCEPTED):
            return []
        self._moves[message_id] = facts.COMPLETED
        drafts, _ = moved(self._session, message_id, facts.COMPLETED, turn=turn, reason=reason)
        return list(drafts)

    # What the program says of itself

    def _identified(self, told: facts.Identified) -> list[Draft]:
        fresh = {name: value for name in _IDENTITY if (value := getattr(told, name)) and self._told.get(name) != value}
        capabilities = told.capabilities if told.capabilities != self._capabilities else ()
        if not fresh and not capabilities:
            return []
        self._told.update(fresh)
        self._capabilities = told.capabilities or self._capabilities
        vendor = fresh.get("vendor_session", "")
        claimed = self._session.claimed
        if vendor and claimed is not None and vendor != claimed.vendor_session:
            self._guards.append(Unique(facts.vendor_lock(self._session.cli, vendor)))
        return [draft(facts.IDENTIFIED, facts.Identified(**fresh, capabilities=capabilities))]

    def _usage(self, now: Cumulative) -> list[Draft]:
        """The difference to what this vendor's session had counted before; counters that went back begin anew."""
        if now.before:  # where it stood when this run took it over
            self._counters[now.model] = now
            return []
        before = self._counters.get(now.model, Cumulative(model=now.model))
        self._counters[now.model] = now
        counts = ("input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
        delta = {name: max(0, getattr(now, name) - getattr(before, name)) for name in counts}
        cost = None if now.cost_usd is None else max(0.0, now.cost_usd - (before.cost_usd or 0.0))
        if not any(delta.values()) and not cost:
            return []
        counters = self._counters.values()
        costs = [each.cost_usd for each in counters if each.cost_usd is not None]
        usage = facts.Usage(
            **delta, cost_usd=cost, model=now.model, turn=now.turn,
            total_input_tokens=sum(each.input_tokens for each in counters),
            total_output_tokens=sum(each.output_tokens for each in counters),
            total_cost_usd=sum(costs) if costs else None, at_input=now.input_tokens, at_output=now.output_tokens,
            at_cached=now.cached_tokens, at_cache_write=now.cache_write_tokens, at_reasoning=now.reasoning_tokens,
            at_cost_usd=now.cost_usd,
        )  # fmt: skip
        if cost is None:
            usage = msgspec.structs.replace(usage, cost_usd=self._price(usage))
        return [draft(facts.USAGE, usage)]

    def start_counters(self, counters: Iterable[Cumulative]) -> None:
        """Where a vendor's session stood when this run took it over: only what comes after is this run's."""
        self._counters.update({each.model: each for each in counters})

    def _noted(self, told: facts.Noted) -> list[Draft]:
        """The first of each kind; a flood of them is in the transcript."""
        self._notes[told.kind] = self._notes.get(told.kind, 0) + 1
        return [draft(facts.NOTED, told)] if self._notes[told.kind] <= _MAX_NOTES else []

    def _unrecognised(self, told: facts.Unrecognised) -> list[Draft]:
        if told.kind in self._kinds or len(self._kinds) >= _MAX_KINDS:
            return []
        self._kinds.add(told.kind)
        return [draft(facts.UNRECOGNISED, told)]
