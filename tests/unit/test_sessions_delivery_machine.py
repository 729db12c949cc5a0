"""Messages to an agent in any order of any events: sent, withdrawn, expired, written, receipted, crashed, continued.

The host is its own parts (`outbox`, `Recorder`, `Digest`, `carrying`) taken step by step, so that whatever can come between
two of them does; the client is the real one. The agent is a model that remembers what it heard, over all its lives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harness.clock import VirtualClock
from harness.errors import NotFound
from harness.ledger import Expect, Guard, MemoryStore, Reserve, Unique, Write
from harness.sessions import facts, ids, outbox
from harness.sessions.burying import bury, held_locks, refresh
from harness.sessions.client import Sessions
from harness.sessions.client.messages import InboxFull
from harness.sessions.closing import last_events
from harness.sessions.facts import ExitReason, MessageStatus, Placing, Source, State
from harness.sessions.host import carrying
from harness.sessions.host.digest import Digest
from harness.sessions.host.recorder import Recorder, draft
from harness.sessions.record import Message, Session
from harness.sessions.reports import Reading, Receipt, Report
from harness.sessions.view import SESSIONS_VIEW

T = TypeVar("T")
CAN = frozenset({"messages", "steer", "interrupt", "turns"})
RECEIPT_SECONDS = 30.0


class Agent:
    """A program that hears messages, shows receipts, and works on one turn at a time."""

    def __init__(self) -> None:
        self.heard: list[str] = []  # over all its lives
        self.unshown: list[str] = []  # heard by this life, and no receipt was given
        self.turn: list[str] = []  # that the turn under way answers

    def hear(self, id_: str) -> None:
        self.heard.append(id_)
        self.unshown.append(id_)

    def die(self) -> None:
        self.unshown, self.turn = [], []


class Host:
    """One host's knowledge, which dies with it."""

    def __init__(self, store: MemoryStore, key: str) -> None:
        self.key = key
        self.recorder = Recorder(store, ids.Folder(home=Path("/nowhere"), key=key))
        self.digest = Digest(self.recorder.session, price=lambda _usage: None)
        self.on_its_way: outbox.Deliver | None = None  # written down, and not with the agent yet
        self.interrupted: set[str] = set()

    @property
    def session(self) -> Session:
        return self.recorder.session


class Delivery(RuleBasedStateMachine):
    """Each rule is one step of somebody. What must be true is looked at after each."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = VirtualClock()
        self.store = MemoryStore(clock=self.clock, actor="client")
        self.sessions = Sessions(self.store, Path("/nowhere"))
        self.agent = Agent()
        self.keys: list[str] = []
        self.host: Host | None = None
        self.order: list[str] = []  # messages as they were sent
        self.ordinary: set[str] = set()  # that pass no other
        self.known: dict[str, Session] = {}
        self.final: dict[tuple[str, str], MessageStatus] = {}

    def run(self, asked: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asked)

    @initialize()
    def start(self) -> None:
        self.run(self.claim(""))

    # The host's steps

    async def claim(self, follows: str) -> None:
        """As a host does, with all that the run before it had not done."""
        key = ids.new_key("w1")
        claimed = facts.Claimed(
            id="w1", cli="x", mode=facts.Mode.STREAM, argv=(), cwd="/", machine="elsewhere/1", guard_pid=1, guard_started=1,
            host_pid=2, host_started=1, follows=follows,
        )  # fmt: skip
        queued: list[facts.Queued] = []
        guards: list[Guard] = []
        before = await carrying.earlier(self.store, follows) if follows else None
        if before is not None:
            carried, guards = await carrying.take_over(self.store, before)
            queued = [facts.Queued(message_id=each.id, text=each.text, expires_us=each.expires_us) for each in carried]
            guards.append(Reserve(facts.inbox_counter(key), len(queued)))
        drafts = (draft(facts.CLAIMED, claimed), *(draft(facts.QUEUED, each) for each in queued))
        await self.store.append(Write(facts.stream_of(key), drafts), guards=[Unique(facts.id_lock("w1")), *guards])
        self.keys.append(key)
        self.host = Host(self.store, key)
        await self.host.recorder.catch_up()
        await self.tell(Reading(state=State.PROMPT, source=Source.PROTOCOL))

    async def tell(self, *reports: Report) -> None:
        host, now = self.alive, self.clock.now_us()
        drafts, guards = host.digest.take(reports, now)
        await host.recorder.append(*drafts, *host.digest.settle(now), guards=guards)

    @property
    def alive(self) -> Host:
        assert self.host is not None
        return self.host

    @precondition(lambda self: self.host)
    @rule()
    def host_looks(self) -> None:
        """It reads what others have written, and sees to what has waited too long."""

        async def looking() -> None:
            host, now = self.alive, self.clock.now_us()
            await host.recorder.catch_up()
            for message in outbox.expired(host.session, now):
                await host.recorder.move(message.id, facts.EXPIRED, expect=True)
            for message in list(host.session.messages.values()):
                late = message.changed_us + RECEIPT_SECONDS * 1e6 <= now
                if message.status is MessageStatus.WRITTEN and late and host.on_its_way is None:
                    await host.recorder.move(message.id, facts.LOST)

        self.run(looking())

    @precondition(lambda self: self.host and self.host.on_its_way is None)
    @rule()
    def host_decides(self) -> None:
        """From what it knows, which may be old by now."""
        host = self.alive
        step = outbox.next_message(host.session, state=host.session.state, can=CAN, interrupted=host.interrupted)
        match step:
            case outbox.Deliver():
                if self.run(host.recorder.move(step.message.id, facts.WRITTEN, expect=True)):
                    host.on_its_way = step
            case outbox.InterruptFirst():
                host.interrupted.add(step.message.id)
                self.run(self.end_turn("interrupted"))
            case outbox.Hold():
                pass

    @precondition(lambda self: self.host and self.host.on_its_way is not None)
    @rule(fails=st.sampled_from([False, False, False, True]))
    def host_delivers(self, fails: bool) -> None:
        host = self.alive
        assert host.on_its_way is not None
        message, host.on_its_way = host.on_its_way.message, None
        if fails:
            self.run(host.recorder.move(message.id, facts.LOST, reason="in part"))
        else:
            self.agent.hear(message.id)

    @precondition(lambda self: self.host)
    @rule(turns=st.integers(1, 2), answers=st.booleans())
    def all_goes_well(self, turns: int, answers: bool) -> None:
        """What happens most of the time; without the answer the turn goes on."""
        for _ in range(turns):
            self.host_looks()
            if self.alive.on_its_way is None:
                self.host_decides()
            if self.alive.on_its_way is not None:
                self.host_delivers(False)
            if answers and self.agent.unshown:
                self.agent_takes_up()
                self.agent_answers()

    # The agent's

    @precondition(lambda self: self.host and self.agent.unshown)
    @rule()
    def agent_takes_up(self) -> None:
        """It shows that it has a message, and works on it."""
        id_ = self.agent.unshown.pop(0)
        begins = not self.agent.turn
        self.agent.turn.append(id_)
        turn = [facts.TurnStarted(turn=id_, message_ids=(id_,))] if begins else []
        busy = Reading(state=State.BUSY, source=Source.PROTOCOL)
        self.run(self.tell(Receipt(stage="accepted", message_id=id_), *turn, busy))

    @precondition(lambda self: self.host and self.agent.turn)
    @rule()
    def agent_answers(self) -> None:
        self.run(self.end_turn("success"))

    async def end_turn(self, outcome: Any) -> None:
        ids_, self.agent.turn = tuple(self.agent.turn), []
        over = [facts.TurnCompleted(turn=ids_[0], outcome=outcome, message_ids=ids_)] if ids_ else []
        await self.tell(*over, Reading(state=State.PROMPT, source=Source.PROTOCOL))

    # The clients'

    @rule(
        placing=st.sampled_from([*[Placing.QUEUE] * 4, Placing.STEER, Placing.INTERRUPT]),
        ttl=st.sampled_from([5.0, 60.0, 3600.0]),
        forced=st.sampled_from([False, False, False, True]),
        count=st.integers(1, 3),
        seen=st.booleans(),
    )
    def send(self, placing: Placing, ttl: float, forced: bool, count: int, seen: bool) -> None:
        for _ in range(count):
            self.send_one(placing, ttl, forced=forced)
        if seen and self.host is not None:
            self.run(self.host.recorder.catch_up())

    def send_one(self, placing: Placing = Placing.QUEUE, ttl: float = 20.0, *, forced: bool = False) -> None:
        try:
            id_ = self.run(self.sessions.send(self.keys[-1], "text", placing=placing, ttl_seconds=ttl, forced=forced))
        except NotFound:
            assert self.host is None
            return
        except InboxFull:
            assert self.queued(self.keys[-1]) == facts.INBOX_LIMIT
            return
        self.order.append(id_)
        if placing is Placing.QUEUE and not forced:
            self.ordinary.add(id_)

    @precondition(lambda self: self.host)
    @rule()
    def fill(self) -> None:
        """Until one more is refused, which is when 64 wait."""
        while self.queued(self.keys[-1]) < facts.INBOX_LIMIT:
            self.send_one()
        with pytest.raises(InboxFull, match="64 pending"):
            self.run(self.sessions.send(self.keys[-1], "text"))

    @precondition(lambda self: self.order)
    @rule(dice=st.randoms(use_true_random=False), next_one=st.booleans(), racing=st.booleans())
    def withdraw(self, dice: Any, next_one: bool, racing: bool) -> None:
        """The next that would be sent, or any of any run; what is on its way or over stays as it is.

        In a race the host decides right after it, knowing nothing of it.
        """
        session = self.look(self.keys[-1] if next_one else dice.choice(self.keys))
        if not session.messages:
            return
        id_ = session.pending[0].id if next_one and session.pending else dice.choice(list(session.messages))
        before = session.messages[id_].status
        status = self.run(self.sessions.withdraw(session.key, id_))
        assert status is (MessageStatus.WITHDRAWN if before is MessageStatus.QUEUED else before)
        if racing and self.host is not None and self.host.on_its_way is None:
            self.what_is_on_record_is_true()
            self.host_decides()

    @rule()
    def drop(self) -> None:
        waiting = [message.id for message in self.look(self.keys[-1]).pending]
        assert self.run(self.sessions.drop(self.keys[-1], None, by="somebody")) == waiting

    @rule(seconds=st.sampled_from([1.0, 10.0, 31.0]), noticed=st.booleans())
    def time_passes(self, seconds: float, noticed: bool) -> None:
        self.clock.advance(seconds)
        if noticed and self.host is not None:
            self.host_looks()

    # Ends and beginnings

    @precondition(lambda self: self.host)
    @rule()
    def crash(self) -> None:
        """Host and agent are gone; somebody buries the run."""
        self.host = None
        self.agent.die()
        self.run(bury(self.store, self.keys[-1]))

    @precondition(lambda self: self.host)
    @rule()
    def stop(self) -> None:
        """The run ends in good order, on what the host knows after a last look."""

        async def ending() -> None:
            host = self.alive
            await host.recorder.catch_up()
            held = await held_locks(self.store, host.session)
            exited = facts.Exited(reason=ExitReason.STOPPED)
            drafts, guards = last_events(host.session, exited, self.clock.now_us(), held=held)
            await host.recorder.append(*drafts, guards=(Expect(host.recorder.stream, host.session.seq), *guards))

        self.run(ending())
        self.host = None
        self.agent.die()

    @precondition(lambda self: not self.host)
    @rule(dice=st.randoms(use_true_random=False), newest=st.booleans())
    def go_on(self, dice: Any, newest: bool) -> None:
        """Another run continues the last one, or one that was continued already."""
        self.run(self.claim(self.keys[-1] if newest else dice.choice(self.keys)))

    # What must be true

    def look(self, key: str) -> Session:
        session = self.known.setdefault(key, Session(key=key))
        self.run(refresh(self.store, session))
        return session

    def queued(self, key: str) -> int:
        return len(self.look(key).pending)

    @invariant()
    def places_are_counted(self) -> None:
        """The counter is what waits, never above its limit, and nothing where a run is over."""
        for key in self.keys:
            session = self.look(key)
            assert self.run(self.store.reserved(facts.inbox_counter(key))) == len(session.pending) <= facts.INBOX_LIMIT
            assert session.live == (self.host is not None and key == self.keys[-1])
            assert session.live or not any(message.open for message in session.messages.values())

    @invariant()
    def each_is_heard_once_and_in_order(self) -> None:
        heard = self.agent.heard
        assert len(set(heard)) == len(heard)
        ordinary = [id_ for id_ in heard if id_ in self.ordinary]
        assert ordinary == [id_ for id_ in self.order if id_ in ordinary]

    @invariant()
    def what_is_on_record_is_true(self) -> None:
        """A final status stays, and agrees with what the agent heard."""
        newest: dict[str, Message] = {}
        for key in self.keys:
            for id_, message in self.look(key).messages.items():
                newest[id_] = message
                if not message.open:
                    assert self.final.setdefault((key, id_), message.status) is message.status
                assert (key, id_) not in self.final or not message.open
        for id_, message in newest.items():
            heard = id_ in self.agent.heard
            match message.status:
                case MessageStatus.ACCEPTED | MessageStatus.DONE | MessageStatus.FAILED:
                    assert heard
                case MessageStatus.QUEUED | MessageStatus.DROPPED | MessageStatus.EXPIRED | MessageStatus.WITHDRAWN:
                    assert not heard
                case _:
                    pass

    def teardown(self) -> None:
        """Whatever waits is done with in the end, if there is somebody to do it."""
        if not self.keys:
            return
        if self.host is None:
            self.run(self.claim(self.keys[-1]))
        if self.queued(self.keys[-1]) > 8:
            self.clock.advance(30.0)  # most of them were sent to fill the inbox, and expire
        while any(message.open for message in self.look(self.keys[-1]).messages.values()):
            before = self.look(self.keys[-1]).seq
            self.host_looks()
            self.host_decides() if self.alive.on_its_way is None else self.host_delivers(False)
            if self.agent.unshown:
                self.agent_takes_up()
            elif self.agent.turn:
                self.agent_answers()
            if before == self.look(self.keys[-1]).seq:
                self.clock.advance(RECEIPT_SECONDS)
        self.each_is_heard_once_and_in_order()
        self.what_is_on_record_is_true()
        assert self.run(self.store.check(SESSIONS_VIEW)) == []
        assert self.run(self.store.verify())
        self.run(self.store.close())
        self.loop.close()


TestDelivery = Delivery.TestCase
TestDelivery.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip


@pytest.mark.nightly
@pytest.mark.timeout(1800)
class TestDeliveryForLong(Delivery.TestCase):
    """The same, for as long as it takes to find what is rare."""

    settings = settings(max_examples=3000, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck))


# What is rare, by hand


@pytest.fixture
def delivery() -> Iterator[Delivery]:
    """A run at its prompt; all that must be true is looked at in the end."""
    made = Delivery()
    made.start()
    yield made
    made.places_are_counted()
    made.what_is_on_record_is_true()
    made.teardown()


def test_two_runs_that_continue_the_same_one_do_not_both_send_what_it_had_not(delivery: Delivery) -> None:
    """The first takes the messages over; the second finds that done."""
    delivery.send_one()
    first = delivery.keys[-1]
    delivery.crash()

    for _ in range(2):
        delivery.run(delivery.claim(first))
        delivery.all_goes_well(1, True)
        delivery.crash()

    assert len(delivery.agent.heard) == 1


def test_what_may_have_arrived_is_not_sent_again(delivery: Delivery) -> None:
    """It was written when the host died, and nobody can tell whether the agent has it."""
    delivery.send_one()
    delivery.all_goes_well(1, False)
    delivery.crash()

    delivery.run(delivery.claim(delivery.keys[-1]))

    assert [message.status for message in delivery.look(delivery.keys[-2]).messages.values()] == [MessageStatus.UNKNOWN]
    assert delivery.look(delivery.keys[-1]).messages == {}


def test_what_the_agent_has_does_not_expire(delivery: Delivery) -> None:
    """Its time is for waiting; what is written cannot be taken back by a clock."""
    delivery.send_one(ttl=5.0)
    delivery.all_goes_well(1, False)

    delivery.time_passes(10.0, True)

    assert [message.status for message in delivery.look(delivery.keys[-1]).messages.values()] == [MessageStatus.WRITTEN]


def test_a_message_whose_time_is_over_is_not_carried_over(delivery: Delivery) -> None:
    """Its sender was told how long it would wait; a run that continues this one does not send it later."""
    delivery.send_one(ttl=5.0)
    delivery.crash()
    delivery.time_passes(10.0, False)

    delivery.run(delivery.claim(delivery.keys[-1]))

    assert delivery.look(delivery.keys[-1]).messages == {}


def test_a_run_that_dies_before_it_has_sent_anything_hands_everything_on(delivery: Delivery) -> None:
    """Three runs after one another; the messages are those of the first, in their order."""
    for _ in range(3):
        delivery.send_one(ttl=600.0)
    for _ in range(2):
        delivery.crash()
        delivery.run(delivery.claim(delivery.keys[-1]))

    delivery.all_goes_well(3, True)

    assert delivery.agent.heard == delivery.order
