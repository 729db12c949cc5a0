"""Which message goes to the agent, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.sessions import facts, outbox
from harness.sessions.facts import MessageStatus, Placing, State
from harness.sessions.outbox import Deliver, Hold, InterruptFirst, next_message
from harness.sessions.record import Message, Session

ALL = frozenset({"messages", "steer", "interrupt"})


def session(*messages: Message) -> Session:
    made = Session(key="w1@00000000", id="w1")
    made.messages = {message.id: message for message in messages}
    return made


def message(
    id_: str, status: MessageStatus = MessageStatus.QUEUED, placing: Placing = Placing.QUEUE, **more: object
) -> Message:
    return Message(id=id_, text=id_, status=status, placing=placing, origin=facts.Origin(), queued_us=1, expires_us=100, **more)  # type: ignore[arg-type]


def test_the_oldest_goes_first_and_only_at_the_prompt() -> None:
    """First in, first out, into a state that is known to be the prompt."""
    both = session(message("a"), message("b"))

    assert next_message(both, state=State.PROMPT, can=ALL) == Deliver(both.messages["a"], Placing.QUEUE)


@pytest.mark.parametrize("state", [state for state in State if state is not State.PROMPT])
def test_nothing_is_sent_in_another_state(state: State) -> None:
    """Busy, blocked, limited, starting, gone and above all unknown: what was not forced waits."""
    assert isinstance(next_message(session(message("a")), state=state, can=ALL), Hold)


def test_the_next_waits_until_the_turn_of_the_last_is_over() -> None:
    """A stale prompt between a receipt and the first sign of work must not let a second message in."""
    waiting = session(message("a", MessageStatus.ACCEPTED), message("b"))

    assert isinstance(next_message(waiting, state=State.PROMPT, can=ALL), Hold)


def test_one_receipt_is_awaited_at_a_time() -> None:
    """Not even a forced or steering message goes while another is on its way."""
    waiting = session(message("a", MessageStatus.WRITTEN), message("b", placing=Placing.STEER, forced=True))

    assert isinstance(next_message(waiting, state=State.BUSY, can=ALL), Hold)


def test_a_steering_message_joins_the_turn_where_that_can_be_done() -> None:
    """It may pass those that wait for the prompt; without the ability it waits like them."""
    waiting = session(message("a"), message("b", placing=Placing.STEER))

    assert next_message(waiting, state=State.BUSY, can=ALL) == Deliver(waiting.messages["b"], Placing.STEER)
    assert isinstance(next_message(waiting, state=State.BUSY, can=frozenset({"messages"})), Hold)


def test_an_interrupting_message_ends_the_turn_once_and_then_waits_for_the_prompt() -> None:
    """The turn is ended for it one time, and it is delivered at the prompt that follows."""
    waiting = session(message("a", placing=Placing.INTERRUPT))

    assert next_message(waiting, state=State.BUSY, can=ALL) == InterruptFirst(waiting.messages["a"])
    assert isinstance(next_message(waiting, state=State.BUSY, can=ALL, interrupted={"a"}), Hold)
    assert next_message(waiting, state=State.PROMPT, can=ALL, interrupted={"a"}) == Deliver(
        waiting.messages["a"], Placing.QUEUE
    )


@pytest.mark.parametrize("state", [State.UNKNOWN, State.BUSY, State.LIMITED, State.PROMPT])
def test_a_forced_message_goes_where_it_can_do_no_harm(state: State) -> None:
    """Whoever forces it has looked; but a dialog would take it for an answer."""
    waiting = session(message("a", forced=True))

    assert isinstance(next_message(waiting, state=state, can=ALL), Deliver)
    assert isinstance(next_message(waiting, state=State.BLOCKED, can=ALL), Hold)


def test_nothing_is_sent_into_a_session_that_ends_or_to_a_person_who_types() -> None:
    """A stop that was asked for and a line half typed both hold the inbox."""
    ending = session(message("a"))
    ending.stop = facts.StopRequested(by="me")

    assert isinstance(next_message(ending, state=State.PROMPT, can=ALL), Hold)
    assert isinstance(next_message(session(message("a")), state=State.PROMPT, can=ALL, typing=True), Hold)


def test_messages_expire_before_they_are_written_and_never_after() -> None:
    """What is with the agent cannot be taken back by a clock."""
    made = session(message("a"), message("b", MessageStatus.WRITTEN))

    assert [each.id for each in outbox.expired(made, 100)] == ["a"]
    assert outbox.expired(made, 99) == []
    assert outbox.next_expiry_us(made) == 100


@given(
    st.lists(st.tuples(st.sampled_from(MessageStatus), st.sampled_from(Placing), st.booleans()), max_size=6),
    st.sampled_from(State),
    st.sets(st.sampled_from(sorted(ALL))),
)
def test_whatever_waits_only_queued_messages_go_and_ordinary_ones_in_order(
    told: list[tuple[MessageStatus, Placing, bool]], state: State, can: set[str]
) -> None:
    """No final message is ever sent again, and an ordinary one never passes another."""
    made = session(*(message(str(n), status, placing, forced=forced) for n, (status, placing, forced) in enumerate(told)))

    step = next_message(made, state=state, can=can)

    if isinstance(step, Deliver):
        assert step.message.status is MessageStatus.QUEUED
        assert "messages" in can
        if step.placing is Placing.QUEUE:
            assert step.message is made.pending[0]
            assert state is State.PROMPT or step.message.forced
        else:
            assert state is State.BUSY
            assert "steer" in can
