"""Whom to ask: questions to people, with answers bound to what was asked. Import from here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.people.questions import QUESTIONS_VIEW, Choice, Question, Questions, QuestionStatus, digest_of

_HOME = {
    "Choice": "questions",
    "QUESTIONS_VIEW": "questions",
    "Question": "questions",
    "QuestionStatus": "questions",
    "Questions": "questions",
    "digest_of": "questions",
}

__all__ = ["QUESTIONS_VIEW", "Choice", "Question", "QuestionStatus", "Questions", "digest_of"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
