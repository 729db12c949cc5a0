"""What a project's harness.toml declares and no supervisor has recorded yet, in the shape of what it records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness.cli.opening import reading, settings_of
from harness.errors import NotFound

if TYPE_CHECKING:
    from harness.ledger import Store
    from harness.recovery import Declarations
    from harness.web.overview import Check, Service

T = TypeVar("T")

NOT_STARTED = "not started"


async def recorded_or(
    home: Path | None, recorded: Callable[[Store], Awaitable[list[T]]], declared: Callable[[Declarations], list[T]]
) -> list[T]:
    """What the ledger has; before the first run, what harness.toml says. Raises `NotFound` where there is neither."""
    from harness.recovery import load_declarations

    missing: NotFound | None = None
    try:
        async with reading(home) as store:
            if found := await recorded(store):
                return found
    except NotFound as error:
        missing = error
    declarations = load_declarations(settings_of(home))
    if not declarations.demo:
        return declared(declarations)
    if missing is not None:
        raise missing
    return []


def services(declarations: Declarations) -> list[Service]:
    """The declared services, none of which was ever started."""
    from harness.recovery.supervisor.launch import shown_command
    from harness.web.overview import Service

    return [
        Service(
            name=one.name,
            state=NOT_STARTED,
            ready=False,
            own=False,
            pid=None,
            since=None,
            since_us=None,
            epoch=0,
            reason="'harness run' starts it",
            command=shown_command(one),
            address=one.address,
            restart=one.restart,
            depends_on=one.depends_on,
            config=one.config,
            log="",
            chaos=None,
        )
        for one in sorted(declarations.services, key=lambda one: one.name)
    ]


def checks(declarations: Declarations) -> list[Check]:
    """The declared checks, none of which was ever looked at."""
    from harness.recovery.registry import infer_target
    from harness.web.overview import Check

    return [
        Check(
            name=one.name,
            description=one.description,
            query=one.query,
            condition=one.condition,
            target=infer_target(one, declarations.services),
            enabled=one.enabled,
            interval_seconds=one.interval_seconds,
            result="unknown",
            hard=False,
            observed=NOT_STARTED,
            since=None,
            since_us=None,
        )
        for one in sorted(declarations.invariants, key=lambda one: one.name)
    ]
