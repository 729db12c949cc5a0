"""The run that goes on where another one of the same id has ended. No I/O."""

from __future__ import annotations

from msgspec.structs import replace

from harness.errors import HarnessError
from harness.sessions.facts import Limits
from harness.sessions.limits import rest
from harness.sessions.record import Session
from harness.sessions.request import LaunchRequest


def successor(request: LaunchRequest, before: Session, *, text: str, vendor_session: str) -> LaunchRequest:
    """What starts the run that goes on where this one ended, within what is left of its limits.

    Raises `HarnessError` if nothing is left.
    """
    left, over = rest(before.claimed.limits if before.claimed is not None else Limits(), before)
    if over:
        raise HarnessError(over)
    return replace(
        request, id=before.id, context=text, follows=before.key, vendor_session=vendor_session,
        max_budget_usd=left.max_budget_usd, max_turns=left.max_turns, max_wall_seconds=left.max_wall_seconds,
    )  # fmt: skip
