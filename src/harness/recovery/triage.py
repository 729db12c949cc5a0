"""From a failure to its ticket: is it silenced, is there a ticket already, what does the analyst say.

Level-triggered: it asks the board what fails *now* and the ledger which tickets are open *now*, so an event that was
missed, a crash in the middle, or a ticket closed too early are put right by the next look. One subject at a time.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from harness.clock import MICROSECONDS
from harness.errors import IllegalTransition
from harness.ledger import Store, Write
from harness.recovery.analyst import Analyst
from harness.recovery.board import Board
from harness.recovery.facts import DISMISSED_KEY, CheckDismissed, check_stream, draft
from harness.recovery.failures import Failure, home_of
from harness.recovery.gathering import gather
from harness.recovery.tickets import Tickets, as_open
from harness.work import Item, Role, Status


class Triage:
    """See the module."""

    def __init__(
        self,
        store: Store,
        board: Board,
        tickets: Tickets,
        analyst: Analyst,
        *,
        home: Path,
        root: Path,
        cool_down_seconds: float,
    ) -> None:
        self._store = store
        self._board = board
        self._tickets = tickets
        self._analyst = analyst
        self._home = home
        self._root = root
        self._cool_down_us = round(cool_down_seconds * MICROSECONDS)
        self._counted: dict[str, set[str]] = {}  # by ticket, the evidence it has counted
        self._failed: dict[str, dict[str, str]] = {}  # by ticket and check, the change that made it fail
        self._offered: dict[str, int] = {}  # by ticket, the attempts it had when it was last found healed

    async def consider(self, subject: str) -> None:
        """Do whatever the subject's state asks for now; nothing if it asks for nothing."""
        failure = self._board.failure(subject)
        if failure is None:
            if self._board.healthy(subject):
                await self._healed(subject)
            return
        if self._board.silence_of(subject, self._store.clock.now_us()):
            return
        open_items = await self._tickets.open_for(subject)
        home = home_of(failure, as_open(open_items))
        if home is not None:
            await self._again(home.id, failure)
        elif not await self._dismissed(failure):
            await self._open(failure)

    async def _open(self, failure: Failure) -> None:
        earlier = await self._tickets.items.list(fingerprint=failure.fingerprint, order="newest", limit=5)
        told = tuple(f"{item.id} {item.status}: {item.reason}" for item in earlier)
        evidence = gather(self._board, failure, home=self._home, root=self._root, earlier=told)
        analysis = await self._analyst.analyse(evidence)
        if self._board.failure(failure.subject) is None:
            await self._dismiss(failure, by="monitor", reason="it was well again before a ticket was opened", run=analysis.run)
        elif not analysis.open_ticket:
            until_us = self._store.clock.now_us() + self._cool_down_us
            await self._dismiss(failure, by=analysis.by, reason=analysis.reason, run=analysis.run, until_us=until_us)
        else:
            item, _ = await self._tickets.report(failure, analysis)
            self._counted.setdefault(item.id, set()).add(failure.ref)
            self._note_failing(item.id, failure.subject)

    async def _again(self, ticket: str, failure: Failure) -> None:
        """Count a recurrence on an open ticket, if it is one.

        A process that ended once more is one. A check that fails beside others is the same incident told again;
        one that had recovered and fails anew is a recurrence, unless the service is down anyway.
        """
        if ticket not in self._counted:
            self._counted[ticket] = await self._tickets.told(ticket)
        counted = self._counted[ticket]
        hard = failure.root.startswith("process:")
        known = self._failed.get(ticket, {})
        refailed = not hard and known.get(failure.root, failure.ref) != failure.ref
        self._note_failing(ticket, failure.subject)
        if failure.ref and failure.ref not in counted and (hard or refailed):
            counted.add(failure.ref)
            with suppress(IllegalTransition):  # closed in between: the next look opens a new one
                await self._tickets.recur(ticket, failure)

    def _note_failing(self, ticket: str, subject: str) -> None:
        failed = self._failed.setdefault(ticket, {})
        failed.update({known.check.name: known.ref for known in self._board.failing(subject)})

    async def _dismissed(self, failure: Failure) -> bool:
        event = await self._store.latest(check_stream(failure.subject), DISMISSED_KEY)
        if event is None or event.erased:
            return False
        fact = event.load(CheckDismissed)
        return fact.fingerprint == failure.fingerprint and self._store.clock.now_us() < fact.until_us

    async def _dismiss(self, failure: Failure, *, by: str, reason: str, run: str, until_us: int = 0) -> None:
        fact = CheckDismissed(
            subject=failure.subject, fingerprint=failure.fingerprint, until_us=until_us, by=by, reason=reason, run=run
        )  # fmt: skip
        await self._store.append(Write(check_stream(failure.subject), (draft(fact, parent=failure.ref or None),)))

    async def _healed(self, subject: str) -> None:
        """Everything passes: a ticket that nobody works on goes to verification, once per attempt."""
        self._analyst.recovered(subject)
        for item in await self._tickets.open_for(subject):
            if not _waiting(item) or self._offered.get(item.id) == item.attempts:
                continue
            self._offered[item.id] = item.attempts
            with suppress(IllegalTransition):  # somebody was faster
                await self._tickets.items.transition(
                    item.id, Status.VERIFYING, role=Role.VERIFIER, reason="all checks pass again, without an action of an agent"
                )  # fmt: skip

    def closed(self, ticket: str) -> None:
        """Forget a ticket."""
        for kept in (self._counted, self._failed, self._offered):
            kept.pop(ticket, None)


def _waiting(item: Item) -> bool:
    return item.status is Status.PENDING or (item.status is Status.BLOCKED and item.blocked_on is None)
