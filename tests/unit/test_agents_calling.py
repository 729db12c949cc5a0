"""Overridden methods may have any of the documented parameters, and be async or not."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from harness.agents.calling import call
from harness.errors import UsageError


async def _async(task: str, *, context: str) -> tuple[str, str]:
    return task, context


def _sync(task: str) -> str:
    return task


def _any(task: str, **more: Any) -> Any:
    return task, more


def _named_differently(unit: str, ctx: str) -> tuple[str, str]:
    return unit, ctx


def _with_a_default(task: str, limit: int = 3) -> tuple[str, int]:
    return task, limit


@pytest.mark.parametrize(
    ("function", "gives"),
    [
        (_async, ("t", "c")),
        (_sync, "t"),
        (_any, ("t", {"context": "c", "run_id": "r"})),
        (_named_differently, ("t", "c")),
        (_with_a_default, ("t", 3)),
    ],
)
async def test_a_method_gets_what_it_has_a_place_for(function: Any, gives: object) -> None:
    """By name first, then in the order offered."""
    assert await call(function, "t", context="c", run_id="r") == gives


async def test_too_many_parameters_are_told() -> None:
    """With the name of the one that nothing is there for."""

    def wants_more(task: str, context: str, run_id: str, database: str) -> None: ...

    with pytest.raises(UsageError, match="wants_more has a parameter 'database' that nothing is there for"):
        await call(wants_more, "t", context="c", run_id="r")


async def test_a_synchronous_method_runs_in_a_thread_if_asked() -> None:
    """So that it holds up nobody."""

    def where() -> threading.Thread:
        return threading.current_thread()

    assert await call(where) is threading.current_thread()
    assert await call(where, in_thread=True) is not threading.current_thread()
