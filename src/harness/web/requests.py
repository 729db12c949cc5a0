"""What a person asks of the supervisor, from the command line, the API or the page: an event, and waiting for its answer.

Only the supervisor acts. A request that it has not begun within its time is never begun.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import anyio

from harness.clock import MICROSECONDS
from harness.errors import HarnessError, NotFound
from harness.recovery import facts

if TYPE_CHECKING:
    from harness.ledger import Cursor, Event, Store

DEFAULT_WAIT_SECONDS = 60.0


class NotSupervised(HarnessError):
    """No supervisor is running for this home, so nobody could do it: start `harness run`."""

    def __init__(self, location: str) -> None:
        super().__init__(f"{location}: no supervisor is running for this home; 'harness run' starts one")


class NoAnswer(HarnessError):
    """The supervisor did not answer in time."""

    exit_code = 124


async def require_service(store: Store, name: str) -> None:
    """Raise `NotFound` for a service that nobody declared, `NotSupervised` while nobody supervises."""
    from harness.web import overview

    if await overview.service(store, name) is None:
        known = ", ".join(row.name for row in await overview.services(store)) or "none"
        raise NotFound(f"no service {name!r}; declared: {known}")
    if not await overview.supervised(store):
        raise NotSupervised(store.location)


async def act(
    store: Store,
    kind: facts.ActionKind,
    target: str,
    *,
    by: str,
    reason: str = "",
    arguments: Mapping[str, facts.Value] | None = None,
    wait_seconds: float = DEFAULT_WAIT_SECONDS,
) -> facts.ActionCompleted | facts.ActionRefused:
    """Ask for an action in a person's name and wait for its end.

    Raises `NotFound`, `NotSupervised`, and `NoAnswer` after `wait_seconds`.
    """
    await require_service(store, target)
    action_id = secrets.token_hex(6)
    request = facts.ActionRequested(
        action_id=action_id,
        kind=kind,
        target=target,
        arguments=dict(arguments or {}),
        origin=facts.Origin.PERSON,
        requested_by=by,
        reason=reason,
        deadline_us=store.clock.now_us() + round(wait_seconds * MICROSECONDS),
    )
    answer = await _asked(store, target, request, facts.action_requested_key(action_id), action_id, wait_seconds)
    return cast("facts.ActionCompleted | facts.ActionRefused", answer)


async def break_service(
    store: Store,
    kind: facts.ChaosKind,
    target: str,
    *,
    by: str,
    heal_after_seconds: float | None = None,
    wait_seconds: float = DEFAULT_WAIT_SECONDS,
) -> tuple[facts.ChaosInjected | facts.ChaosRefused, Event]:
    """Ask for a fault and wait until it is there; also gives the event, whose time is the fault's.

    Raises `NotFound`, `NotSupervised`, and `NoAnswer` after `wait_seconds`.
    """
    await require_service(store, target)
    chaos_id = secrets.token_hex(6)
    request = facts.ChaosRequested(chaos_id=chaos_id, kind=kind, heal_after_seconds=heal_after_seconds, requested_by=by)
    cursor = await _written(store, target, request, f"chaos-requested/{chaos_id}")
    event = await _answer(store, target, cursor, chaos_id, (facts.ChaosInjected.TYPE, facts.ChaosRefused.TYPE), wait_seconds)
    return cast("facts.ChaosInjected | facts.ChaosRefused", facts.fact_of(event)), event


async def _asked(
    store: Store, target: str, request: facts.Fact, key: str, request_id: str, wait_seconds: float
) -> facts.Fact | None:
    cursor = await _written(store, target, request, key)
    types = (facts.ActionCompleted.TYPE, facts.ActionRefused.TYPE)
    return facts.fact_of(await _answer(store, target, cursor, request_id, types, wait_seconds))


async def _written(store: Store, target: str, request: facts.Fact, key: str) -> Cursor:
    from harness.ledger import Unique, Write

    written = await store.append(Write(facts.service_stream(target), (facts.draft(request),)), guards=(Unique(key),))
    return written.last.cursor


async def _answer(
    store: Store, target: str, after: Cursor, request_id: str, types: tuple[str, ...], wait_seconds: float
) -> Event:
    stream = facts.service_stream(target)
    followed = store.follow(after=after, streams=(stream,), types=types)
    with anyio.move_on_after(wait_seconds):
        async with contextlib.aclosing(followed) as events:
            async for event in events:
                if event.stream == stream and request_id in (event.payload.get("action_id"), event.payload.get("chaos_id")):
                    return event
    raise NoAnswer(f"the supervisor has not answered within {wait_seconds:g} s; 'harness services list' shows its state")
