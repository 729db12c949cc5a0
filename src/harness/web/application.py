"""The application behind the door: the API's parts, one shape of errors, the guard around all of it, and the page."""

from __future__ import annotations

from typing import cast

from fastapi import FastAPI

from harness.sessions.client import Sessions
from harness.web import agentapi, errors, events, incidents, invariants, services, sessions, status, tickets
from harness.web.context import Context
from harness.web.guard import Access, App, Guard

_DESCRIPTION = """
Services that heal: their tickets, checks and incidents; agents' sessions: their messages, approvals and events. All of it
over the ledger.

Every error has the body `{"error": {"code": …, "message": …, "details": […]}}`. Follow `/api/events` for what happens,
and `/api/sessions/ID/events` for what happens in one session.
"""

_WHOLE = tuple(part.router for part in (tickets, invariants, services, incidents, events, status))
"""What a door for one session does not have."""


def build(context: Context, access: Access, *, page: bool = True) -> App:
    """The whole application, guarded. With `page`, NiceGUI serves the dashboard at `/`."""
    app = FastAPI(
        title="Harness", version=_version(), description=_DESCRIPTION, responses=errors.RESPONSES,
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.context, app.state.access = context, access
    app.state.sessions = Sessions(context.store, context.home)
    errors.install(app)
    for router in (status.alive, sessions.router, *(() if context.only else _WHOLE)):
        app.include_router(router)
    agentapi.install(app)
    if page:
        from harness.web import page as dashboard

        dashboard.install(app, context, access)
    return Guard(cast("App", app), access, errors.refused_app)


def _version() -> str:
    from importlib.metadata import version

    return version("agentharness")
