"""Takes a session's messages to its agent: one at a time, each written down before it is sent, so that none goes twice."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from harness.errors import HarnessError, UsageError
from harness.sessions import facts, outbox
from harness.sessions.facts import MessageStatus, State
from harness.sessions.host.beside import Beside
from harness.sessions.host.recorder import Recorder
from harness.sessions.record import Message
from harness.sessions.reports import Outgoing
from harness.sessions.transports.base import Transport

_RECEIPT_US = 30_000_000  # what was written and shows no sign for so long will show none


class Delivery:
    """The messages of one session. `look` begins what is due, `expire` ends what is too late."""

    def __init__(
        self,
        recorder: Recorder,
        transport: Transport,
        beside: Beside,
        *,
        typing: Callable[[], bool],
        interrupt: Callable[[], Coroutine[Any, Any, None]],
        wake: Callable[[], object],
    ) -> None:
        self._recorder = recorder
        self._transport = transport
        self._beside = beside
        self._typing = typing
        self._interrupt = interrupt
        self._wake = wake
        self._under_way = False
        self._interrupted: set[str] = set()  # messages for which the turn was interrupted

    def look(self) -> None:
        """Begin what is due now; nothing while a message is under way."""
        if self._under_way:
            return
        session = self._recorder.session
        step = outbox.next_message(
            session, state=session.state, can=self._transport.can, interrupted=self._interrupted, typing=self._typing()
        )
        match step:
            case outbox.Deliver():
                self._begin(lambda: self._deliver(step))
            case outbox.InterruptFirst():
                self._interrupted.add(step.message.id)
                self._beside.run(self._interrupt())
            case outbox.Hold():
                if session.pending and "messages" not in self._transport.can:
                    self._begin(self._refuse)

    async def expire(self) -> None:
        """Close messages whose time is over, and written ones that show no sign. Called with the writing lock held."""
        now = self._recorder.store.clock.now_us()
        for message in outbox.expired(self._recorder.session, now):
            await self._recorder.move(
                message.id, facts.EXPIRED, reason="its time was over before it could be sent", expect=True
            )
        for message in self._awaited():
            if message.changed_us + _RECEIPT_US <= now:
                await self._recorder.move(message.id, facts.LOST, reason="it was written, and no receipt came")

    def next_us(self) -> int | None:
        """When `expire` has something to do again, in microseconds since 1970."""
        moments = [message.changed_us + _RECEIPT_US for message in self._awaited()]
        expiry = outbox.next_expiry_us(self._recorder.session)
        return min(moments if expiry is None else [*moments, expiry], default=None)

    def _awaited(self) -> list[Message]:
        """Those whose receipt is awaited, and would be overdue in time.

        None is while one is being written, or while the agent is at work, maybe on just that.
        """
        session = self._recorder.session
        if self._under_way or session.state is State.BUSY:
            return []
        return [message for message in session.messages.values() if message.status is MessageStatus.WRITTEN]

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._under_way = True
        self._beside.run(self._then_look(work))

    async def _then_look(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        finally:
            self._under_way = False
            self._wake()

    async def _refuse(self) -> None:
        """Nothing can be said to this program any more."""
        session = self._recorder.session
        async with self._recorder.writing:
            for message in session.pending:
                reason = f"a session of mode {session.mode} takes no messages after its first"
                await self._recorder.move(message.id, facts.FAILED, reason=reason, expect=True)

    async def _deliver(self, step: outbox.Deliver) -> None:
        """Write down that it is on its way, then send it: after a crash in between it is known as unknown."""
        message = step.message
        outgoing = Outgoing(
            message_id=message.id, text=message.text, placing=step.placing, origin=message.origin, submit=message.submit,
            only_submit=message.only_submit,
        )  # fmt: skip
        async with self._recorder.writing:
            if not await self._recorder.move(message.id, facts.WRITTEN, expect=True):
                return
        try:
            await self._transport.deliver(outgoing)
        except UsageError as error:
            await self._close(message.id, facts.FAILED, str(error))
        except HarnessError as error:
            await self._close(message.id, facts.LOST, f"it may have been sent in part: {error}")

    async def _close(self, message_id: str, type_: str, reason: str) -> None:
        async with self._recorder.writing:
            await self._recorder.move(message_id, type_, reason=reason)
