"""Questions to people over an in-memory ledger."""

from __future__ import annotations

import pytest

from harness.clock import VirtualClock
from harness.errors import Conflict, NotFound, PolicyDenied, UsageError
from harness.ledger import MemoryStore
from harness.people import QUESTIONS_VIEW, Question, Questions, QuestionStatus, digest_of

DIGEST = digest_of({"restart": "limiter"})


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def store(clock: VirtualClock) -> MemoryStore:
    return MemoryStore(clock=clock)


@pytest.fixture
def questions(store: MemoryStore) -> Questions:
    return Questions(store)


async def _ask(questions: Questions, **more: object) -> Question:
    return await questions.ask("approval", "item/1", digest=DIGEST, text="Restart the limiter?", **more)  # type: ignore[arg-type]


async def test_asking_twice_is_one_question(questions: Questions) -> None:
    """The same question about the same thing is not asked again."""
    first = await _ask(questions)

    assert await _ask(questions) == first
    assert await questions.pending() == [first]


async def test_another_digest_is_another_question(questions: Questions) -> None:
    """A question about other arguments stands by itself."""
    first = await _ask(questions)
    second = await questions.ask("approval", "item/1", digest=digest_of("other"), text="?")

    assert first.id != second.id


async def test_an_answer_is_bound_to_what_was_asked(questions: Questions) -> None:
    """An answer that names another digest is refused."""
    question = await _ask(questions)

    with pytest.raises(PolicyDenied, match="something else"):
        await questions.answer(question.id, "approve", by="ann", digest=digest_of("other"))


async def test_an_answer_is_given_once(questions: Questions) -> None:
    """The second answer is refused and names the first."""
    question = await _ask(questions)
    answered = await questions.answer(question.id, "deny", by="ann", digest=DIGEST, note="not now")

    assert (answered.status, answered.answer, answered.answered_by, answered.note) == ("answered", "deny", "ann", "not now")
    assert await questions.pending() == []
    with pytest.raises(Conflict, match="'deny' by ann"):
        await questions.answer(question.id, "approve", by="bob", digest=DIGEST)


async def test_only_offered_choices_count(questions: Questions) -> None:
    """A choice that was not offered is the caller's mistake."""
    question = await _ask(questions)

    with pytest.raises(UsageError, match="offers approve, deny"):
        await questions.answer(question.id, "maybe", by="ann", digest=DIGEST)


async def test_a_question_expires_and_may_be_asked_again(questions: Questions, clock: VirtualClock) -> None:
    """After the deadline nobody can answer, and a new question takes its place."""
    question = await _ask(questions, deadline_us=clock.now_us() + 1_000_000)
    clock.advance(1)

    assert await questions.pending() == []
    with pytest.raises(PolicyDenied, match="expired"):
        await questions.answer(question.id, "approve", by="ann", digest=DIGEST)
    assert (await questions.get(question.id)).status is QuestionStatus.EXPIRED
    assert (await _ask(questions)).id != question.id


async def test_what_is_due_expires(questions: Questions, clock: VirtualClock) -> None:
    """Deadlines become events when somebody looks."""
    question = await _ask(questions, deadline_us=clock.now_us() + 1_000_000)

    assert await questions.expire_due() == []
    clock.advance(2)
    assert await questions.expire_due() == [question.id]
    assert await questions.expire_due() == []


async def test_an_approval_is_used_once(questions: Questions) -> None:
    """What acted on an answer may say so again; anything else may not act on it."""
    question = await _ask(questions)
    with pytest.raises(PolicyDenied, match="pending"):
        await questions.use(question.id, by="run/a#3", digest=DIGEST)
    await questions.answer(question.id, "approve", by="ann", digest=DIGEST)

    with pytest.raises(PolicyDenied, match="not 'deny'"):
        await questions.use(question.id, by="run/a#3", digest=DIGEST, choice="deny")
    with pytest.raises(PolicyDenied, match="something else"):
        await questions.use(question.id, by="run/a#3", digest=digest_of("other"))
    await questions.use(question.id, by="run/a#3", digest=DIGEST, choice="approve")
    await questions.use(question.id, by="run/a#3", digest=DIGEST, choice="approve")
    with pytest.raises(PolicyDenied, match="used already by run/a#3"):
        await questions.use(question.id, by="run/b#1", digest=DIGEST)


async def test_an_unknown_question_is_not_found(questions: Questions) -> None:
    """An id that nobody knows has its own error."""
    with pytest.raises(NotFound):
        await questions.get("q-nobody")


async def test_pending_can_be_narrowed_and_the_view_is_what_events_say(questions: Questions, store: MemoryStore) -> None:
    """Pending questions are found by kind and subject; the view agrees with a fold from the start."""
    first = await _ask(questions)
    await questions.ask("decision", "item/2", digest=DIGEST, text="Which?", choices=["left", "right"])

    assert await questions.pending(kind="approval") == [first]
    assert [question.subject for question in await questions.pending(subject="item/2")] == ["item/2"]
    assert await store.check(QUESTIONS_VIEW) == []


async def test_an_erased_question_asks_nothing(questions: Questions, store: MemoryStore) -> None:
    """Erasing what was asked leaves a question that nobody finds."""
    question = await _ask(questions)
    await store.erase(f"question/{question.id}", 1, reason="private")

    with pytest.raises(NotFound):
        await questions.get(question.id)
    await store.rebuild(QUESTIONS_VIEW)
    assert await questions.pending() == []


async def test_a_question_is_withdrawn_by_whoever_asked(questions: Questions) -> None:
    """It is not listed any more, takes no answer, and the same may be asked again; what is answered stays answered."""
    first = await _ask(questions)
    await questions.withdraw(first.id, reason="the session has ended")
    await questions.withdraw(first.id, reason="once more")

    assert await questions.pending() == []
    assert (await questions.get(first.id)).status is QuestionStatus.WITHDRAWN
    with pytest.raises(PolicyDenied, match="withdrawn"):
        await questions.answer(first.id, "approve", by="ann", digest=DIGEST)
    second = await _ask(questions)
    assert second.id != first.id

    await questions.answer(second.id, "approve", by="ann", digest=DIGEST)
    await questions.withdraw(second.id, reason="too late")
    assert (await questions.get(second.id)).status is QuestionStatus.ANSWERED
