"""`/api/services`: what runs, and a person's wishes to the supervisor."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from harness.errors import NotFound, PolicyDenied
from harness.recovery import facts
from harness.web import overview, requests
from harness.web.context import Here
from harness.web.overview import Service
from harness.web.schemas import Fault, Reason

router = APIRouter(prefix="/api/services", tags=["services"])

_KINDS = {
    "start": facts.ActionKind.START_SERVICE,
    "stop": facts.ActionKind.STOP_SERVICE,
    "restart": facts.ActionKind.RESTART_SERVICE,
}


@router.get("")
async def list_services(here: Here) -> list[Service]:
    """Every declared service and Harness's own processes, with what each does now."""
    return await overview.services(here.store)


@router.get("/{name}")
async def show_service(here: Here, name: str) -> Service:
    """One service."""
    found = await overview.service(here.store, name)
    if found is None:
        raise NotFound(f"no service {name!r}")
    return found


@router.post("/{name}/chaos", status_code=202)
async def break_service(here: Here, name: str, fault: Fault) -> Service:
    """Break a service on purpose; in the demo only. It heals itself after a while."""
    if not here.chaos:
        raise PolicyDenied("faults can be asked for in the demo only; use 'harness chaos' on the machine itself")
    answer, _ = await requests.break_service(
        here.store, fault.kind, name, by=here.actor, heal_after_seconds=fault.heal_after_seconds
    )
    if isinstance(answer, facts.ChaosRefused):
        raise PolicyDenied(f"the supervisor refused: {answer.reason}")
    return await show_service(here, name)


@router.post("/{name}/{action}")
async def act_on_service(
    here: Here,
    name: str,
    action: Literal["start", "stop", "restart"],
    why: Reason | None = None,
    wait_seconds: Annotated[float, Query(gt=0, le=600)] = requests.DEFAULT_WAIT_SECONDS,
) -> Service:
    """Start, stop or restart a service; answers when the supervisor is done."""
    reason = why.reason if why else ""
    answer = await requests.act(
        here.store, _KINDS[action], name, by=here.actor, reason=reason or f"{action} over the API", wait_seconds=wait_seconds
    )
    if isinstance(answer, facts.ActionRefused):
        raise PolicyDenied(f"the supervisor refused: {answer.reason}")
    return await show_service(here, name)
