"""Questions to people: approvals, decisions, outcomes that only a person can know.

An answer is bound to the digest of what was asked, is given once, in time, and is acted on once. Owns the stream
`question/ID`; whoever asks decides what an answer means.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from harness.errors import Conflict, KeyTaken, NotFound, PolicyDenied, UsageError
from harness.ledger import Draft, Free, Store, Unique, Write
from harness.people import records
from harness.people.records import Choice, Question, QuestionStatus

__all__ = ["QUESTIONS_VIEW", "Choice", "Question", "QuestionStatus", "Questions", "digest_of"]

QUESTIONS_VIEW = records.QuestionsView()
YES_NO = (Choice("approve", "yes"), Choice("deny", "no"))


def digest_of(subject: object) -> str:
    """The digest of exactly what is asked about: any JSON value or struct."""
    return hashlib.sha256(msgspec.json.encode(subject, order="sorted")).hexdigest()


def _key(kind: str, subject: str, digest: str) -> str:
    """Held by the question of these that was asked last, until it expires."""
    return f"question/{digest_of((kind, subject, digest))}"


class Questions:
    """All questions of one ledger."""

    def __init__(self, store: Store) -> None:
        self._store = store
        store.register(QUESTIONS_VIEW)

    async def ask(
        self,
        kind: str,
        subject: str,
        *,
        digest: str,
        text: str,
        choices: Sequence[Choice | str] = YES_NO,
        deadline_us: int | None = None,
        tenant: str | None = None,
        parent: str | None = None,
        context: Any = None,
    ) -> Question:
        """Ask people something, once: the same question about the same subject and digest is the one that was asked.

        An expired one may be asked again. `deadline_us` is UTC microseconds.
        """
        listed = tuple(Choice(choice) if isinstance(choice, str) else choice for choice in choices)
        if not listed or len({choice.name for choice in listed}) != len(listed):
            raise UsageError("a question needs choices of different names")
        key = _key(kind, subject, digest)
        while True:
            held = await self._store.holder_of(key)
            if held is not None:
                known = await self.get(held[0].partition("/")[2])
                if not self._expired(known):
                    return known
                await self.expire(known.id)
            id_ = await self._unused_id(kind, subject, digest)
            asked = records.Asked(
                kind=kind, subject=subject, digest=digest, text=text, choices=listed, deadline_us=deadline_us, context=context
            )
            event = Draft(type=records.ASKED, payload=asked, tenant=tenant, parent=parent)
            try:
                await self._store.append(Write(f"question/{id_}", (event,)), guards=[Unique(key), Unique(f"question-id/{id_}")])
            except KeyTaken:  # somebody asked the same at the same time
                continue
            return await self.get(id_)

    async def _unused_id(self, kind: str, subject: str, digest: str) -> str:
        """A short id that says the same for the same question, and counts on when it was asked before."""
        base = digest_of((kind, subject, digest))[:10]
        number = 1
        while await self._store.head(f"question/q-{base}-{number}") is not None:
            number += 1
        return f"q-{base}-{number}"

    def _expired(self, question: Question) -> bool:
        return question.status is QuestionStatus.EXPIRED or (
            question.status is QuestionStatus.PENDING and not question.open_at(self._store.clock.now_us())
        )

    async def get(self, id_: str) -> Question:
        """A question. Raises `NotFound`."""
        question = records.fold(id_, await self._store.read(f"question/{id_}"))
        if question is None:
            raise NotFound(f"no question {id_!r}")
        return question

    async def answer(self, id_: str, choice: str, *, by: str, digest: str, note: str = "") -> Question:
        """Record a person's answer. `digest` is that of what the person saw.

        Raises `PolicyDenied` if something else was asked or it is too late, `Conflict` if it was answered already,
        `UsageError` for a choice that was not offered.
        """
        question = await self.get(id_)
        if digest != question.digest:
            raise PolicyDenied(f"the answer to {id_} is about something else than what is asked (digest {digest[:12]}…)")
        if choice not in {offered.name for offered in question.choices}:
            names = ", ".join(offered.name for offered in question.choices)
            raise UsageError(f"{id_} offers {names}, not {choice!r}")
        if question.status is QuestionStatus.ANSWERED:
            raise Conflict(f"{id_} was answered already: {question.answer!r} by {question.answered_by}", name=id_)
        if question.status is QuestionStatus.WITHDRAWN:
            raise PolicyDenied(f"{id_} was withdrawn: whoever asked does not wait for an answer any more")
        if self._expired(question):
            await self.expire(id_)
            raise PolicyDenied(f"{id_} has expired; ask again")
        said = records.Answered(choice=choice, by=by, digest=digest, note=note)
        event = Draft(type=records.ANSWERED, payload=said, tenant=question.tenant)
        await self._end(id_, event)
        return await self.get(id_)

    async def _end(self, id_: str, event: Draft, *guards: Free) -> None:
        try:
            await self._store.append(Write(f"question/{id_}", (event,)), guards=[Unique(f"question-end/{id_}"), *guards])
        except KeyTaken as error:
            raise Conflict(f"{id_} was answered or expired meanwhile; look at it again", name=id_) from error

    async def expire(self, id_: str) -> None:
        """Record that nobody answered in time. Nothing happens to a question that is over or has time left."""
        question = await self.get(id_)
        if question.status is not QuestionStatus.PENDING or question.open_at(self._store.clock.now_us()):
            return
        key = _key(question.kind, question.subject, question.digest)
        assert question.deadline_us is not None
        event = Draft(type=records.EXPIRED, payload=records.Expired(deadline_us=question.deadline_us), tenant=question.tenant)
        await self._end(id_, event, Free(key))

    async def withdraw(self, id_: str, *, reason: str) -> None:
        """Record that whoever asked does not wait for an answer any more. Nothing happens to a question that is over."""
        question = await self.get(id_)
        if question.status is not QuestionStatus.PENDING:
            return
        event = Draft(type=records.WITHDRAWN, payload=records.Withdrawn(reason=reason), tenant=question.tenant)
        with contextlib.suppress(Conflict):  # answered at this very moment
            await self._end(id_, event, Free(_key(question.kind, question.subject, question.digest)))

    async def expire_due(self) -> list[str]:
        """Expire every question whose time is over; gives their ids. Call it when a deadline has come."""
        now = self._store.clock.now_us()
        sql = "SELECT id FROM questions WHERE status = 'pending' AND deadline IS NOT NULL AND deadline <= ? ORDER BY deadline"
        due = [str(row[0]) for row in await self._store.query(QUESTIONS_VIEW, sql, now)]
        for id_ in due:
            await self.expire(id_)
        return due

    async def pending(self, *, kind: str | None = None, subject: str | None = None) -> list[Question]:
        """The questions that can be answered now, the oldest first."""
        sql = "SELECT id FROM questions WHERE status = 'pending' AND (deadline IS NULL OR deadline > ?)"
        values: list[str | int] = [self._store.clock.now_us()]
        for column, value in (("kind", kind), ("subject", subject)):
            if value is not None:
                sql += f" AND {column} = ?"
                values.append(value)
        rows = await self._store.query(QUESTIONS_VIEW, f"{sql} ORDER BY asked, id", *values)
        return [await self.get(str(row[0])) for row in rows]

    async def use(self, id_: str, *, by: str, digest: str, choice: str | None = None) -> Question:
        """Act on an answer, which can be done once. `by` names what acts, such as an event.

        The same `by` again is no second time. Raises `PolicyDenied` if it is not answered, has another digest, was
        answered otherwise than `choice`, or was used before.
        """
        question = await self.get(id_)
        if question.status is not QuestionStatus.ANSWERED:
            raise PolicyDenied(f"{id_} is {question.status}, not answered")
        if digest != question.digest:
            raise PolicyDenied(f"{id_} was answered about something else than this (digest {digest[:12]}…)")
        if choice is not None and question.answer != choice:
            raise PolicyDenied(f"{id_} was answered {question.answer!r} by {question.answered_by}, not {choice!r}")
        if question.used_by is None:
            event = Draft(type=records.USED, payload=records.Used(by=by), tenant=question.tenant)
            with contextlib.suppress(KeyTaken):
                await self._store.append(Write(f"question/{id_}", (event,)), guards=[Unique(f"question-used/{id_}")])
            question = await self.get(id_)
        if question.used_by != by:
            raise PolicyDenied(f"the answer to {id_} was used already by {question.used_by}")
        return question
