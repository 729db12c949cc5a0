"""What is written about a question (stream `question/ID`), the fold of it, and the view of all questions. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec

from harness.ledger import Event, Statement

ASKED = "question.asked"
ANSWERED = "question.answered"
EXPIRED = "question.expired"
WITHDRAWN = "question.withdrawn"
USED = "question.used"


class QuestionStatus(StrEnum):
    """Where a question stands."""

    PENDING = "pending"
    ANSWERED = "answered"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"  # whoever asked does not wait for an answer any more


class Choice(msgspec.Struct, frozen=True, omit_defaults=True):
    """One possible answer."""

    name: str
    label: str = ""  # what a person reads; empty: the name


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    kind: str
    subject: str
    digest: str
    text: str
    choices: tuple[Choice, ...]
    deadline_us: int | None = None
    context: Any = None


class Answered(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    choice: str
    by: str
    digest: str
    note: str = ""


class Expired(msgspec.Struct, frozen=True, kw_only=True):
    deadline_us: int


class Withdrawn(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    reason: str = ""


class Used(msgspec.Struct, frozen=True, kw_only=True):
    by: str


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question to people, and what became of it."""

    id: str
    kind: str  # approval | decision | reconcile | … ; the asker's word
    subject: str  # what it is about, such as `run/r1#12`
    digest: str  # of exactly what was asked; an answer names it
    text: str
    choices: tuple[Choice, ...]
    tenant: str
    asked_us: int
    deadline_us: int | None = None
    context: Any = None
    status: QuestionStatus = QuestionStatus.PENDING
    answer: str | None = None
    answered_by: str | None = None
    answered_us: int | None = None
    note: str = ""
    used_by: str | None = None  # what acted on the answer; an answer is acted on once

    def open_at(self, now_us: int) -> bool:
        """Whether it can still be answered."""
        return self.status is QuestionStatus.PENDING and (self.deadline_us is None or now_us < self.deadline_us)


def fold(id_: str, events: Iterable[Event]) -> Question | None:
    """The question as its events tell it; None if they do not (any more): an erased question asks nothing."""
    question: Question | None = None
    for event in events:
        if event.type == ASKED and not event.erased:
            asked = event.load(Asked)
            question = Question(
                id=id_, kind=asked.kind, subject=asked.subject, digest=asked.digest, text=asked.text, choices=asked.choices,
                tenant=event.tenant, asked_us=event.ts, deadline_us=asked.deadline_us, context=asked.context,
            )  # fmt: skip
        elif question is not None:
            question = _after(question, event)
    return question


def _after(question: Question, event: Event) -> Question:
    replace = msgspec.structs.replace
    match event.type:
        case "question.answered":
            if event.erased:
                return replace(question, status=QuestionStatus.ANSWERED, answered_us=event.ts)
            said = event.load(Answered)
            return replace(
                question, status=QuestionStatus.ANSWERED, answer=said.choice, answered_by=said.by, answered_us=event.ts,
                note=said.note,
            )  # fmt: skip
        case "question.expired":
            return replace(question, status=QuestionStatus.EXPIRED)
        case "question.withdrawn":
            return replace(question, status=QuestionStatus.WITHDRAWN)
        case "question.used":
            return replace(question, used_by="" if event.erased else event.load(Used).by)
        case _:
            return question


class QuestionsView:
    """One row for each question."""

    name = "questions"
    tables: tuple[str, ...] = ("questions",)
    ddl: tuple[str, ...] = (
        "CREATE TABLE IF NOT EXISTS questions (id TEXT PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL,"
        " tenant TEXT NOT NULL, status TEXT NOT NULL, asked INTEGER NOT NULL, deadline INTEGER)",
        "CREATE INDEX IF NOT EXISTS questions_by_status ON questions (status, asked)",
    )
    prefixes: tuple[str, ...] = ("question/",)

    def fold(self, event: Event) -> Iterable[Statement]:
        """A question's row; that of an erased one goes."""
        id_ = event.stream.partition("/")[2]
        if event.type == ASKED:
            if event.erased:
                return [("DELETE FROM questions WHERE id = ?", (id_,))]
            asked = event.load(Asked)
            row = (id_, asked.kind, asked.subject, event.tenant, "pending", event.ts, asked.deadline_us)
            return [("INSERT INTO questions VALUES (?,?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING", row)]
        status = {ANSWERED: "answered", EXPIRED: "expired", WITHDRAWN: "withdrawn"}.get(event.type)
        return [("UPDATE questions SET status = ? WHERE id = ?", (status, id_))] if status else []
