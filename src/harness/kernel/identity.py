"""Which step is meant: scope path, name and ordinal, allotted when the call is made. Pure but for the scope of a task.

A step with an explicit key is that key within its scope, however often it is asked. A step without one is the
n-th of its name in its scope, counted in the order of the calls, so steps that are gathered never swap results. Within
a session its scope begins with the session, so that no session gets the answers of another one.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator
from contextvars import ContextVar

Scope = tuple[str, ...]

_MAX_KEY_CHARACTERS = 400
_scope: ContextVar[Scope] = ContextVar("harness_step_scope", default=())
_session: ContextVar[Scope] = ContextVar("harness_session", default=())


def current_scope() -> Scope:
    """The scope path of the calling task; tasks started inside inherit it."""
    return _scope.get()


@contextlib.contextmanager
def step_scope(name: str) -> Generator[Scope]:
    """Steps called inside belong to a scope of this name within the present one, and are counted by themselves."""
    token = _scope.set((*_scope.get(), name))
    try:
        yield _scope.get()
    finally:
        _scope.reset(token)


@contextlib.contextmanager
def at_scope(scope: Scope) -> Generator[None]:
    """Steps called inside belong to just this scope, wherever the calling task is."""
    token = _scope.set(scope)
    try:
        yield
    finally:
        _scope.reset(token)


@contextlib.contextmanager
def session_scope(name: str) -> Generator[None]:
    """Steps called inside have nothing to do with the scopes outside; those without a key are the session's own."""
    outside = _scope.set(()), _session.set((name,))
    try:
        yield
    finally:
        _scope.reset(outside[0])
        _session.reset(outside[1])


@contextlib.contextmanager
def root_scope() -> Generator[None]:
    """Steps called inside have nothing to do with the scopes and the session outside."""
    outside = _scope.set(()), _session.set(())
    try:
        yield
    finally:
        _scope.reset(outside[0])
        _session.reset(outside[1])


def step_id(scope: Scope, name: str, ordinal: int = 0) -> str:
    """The step's one written form, which is the key of its events: `scope/name` or `scope/name#ordinal`.

    Different parts never give the same text: `/`, `#` and `%` inside a part are written as %XX. A text that would
    be too long for a key ends in a hash of itself.
    """
    text = "/".join([_escaped(part) for part in (*scope, name)]) if scope else _escaped(name)
    if len(text) > _MAX_KEY_CHARACTERS:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        text = f"{text[:_MAX_KEY_CHARACTERS]}%{digest[:32]}"
    return f"{text}#{ordinal}" if ordinal else text


def _escaped(part: str) -> str:
    if "%" in part or "/" in part or "#" in part or "\0" in part:
        part = part.replace("%", "%25").replace("/", "%2F").replace("#", "%23").replace("\0", "%00")
    return part


class Ordinals:
    """Counts the calls of each name in each scope during one pass over a run."""

    __slots__ = ("_counts", "origin")

    def __init__(self) -> None:
        self.origin: Ordinals | None = None  # the pass that this one goes on with in another run
        self._counts: dict[tuple[Scope, str], tuple[str, int]] = {}  # what is counted, and how far

    def going_on(self) -> Ordinals:
        """A pass over another run that begins where this one is now."""
        other = Ordinals()
        other.origin = self
        other._counts = dict(self._counts)
        return other

    def allot(self, scope: Scope, name: str, step_key: str | None) -> str:
        """The id of a step that is called now; only a call without a key is counted, from 1."""
        if step_key is not None:
            return step_id(scope, step_key)
        session = _session.get()
        if session:
            scope = (*session, *scope)
        place = (scope, name)
        counted = self._counts.get(place)
        text, ordinal = (step_id(scope, name), 1) if counted is None else (counted[0], counted[1] + 1)
        self._counts[place] = (text, ordinal)
        return f"{text}#{ordinal}"
