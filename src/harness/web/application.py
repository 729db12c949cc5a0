"""The application behind the door: the API's parts, one shape of errors, the guard around all of it, and the page."""

from __future__ import annotations

from typing import cast

from fastapi import FastAPI

from harness.web import errors, events, incidents, invariants, services, status, tickets
from harness.web.context import Context
from harness.web.guard import Access, App, Guard

_DESCRIPTION = """
Services that heal: their tickets, checks and incidents, over the ledger.

Every error has the body `{"error": {"code": …, "message": …, "details": […]}}`. Follow `/api/events` for what happens.
"""


def build(context: Context, access: Access, *, page: bool = True) -> App:
    """The whole application, guarded. With `page`, NiceGUI serves the dashboard at `/`."""
    app = FastAPI(
        title="Harness", version=_version(), description=_DESCRIPTION, responses=errors.RESPONSES,
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.context = context
    errors.install(app)
    for part in (tickets, invariants, services, incidents, events, status):
        app.include_router(part.router)
    if page:
        from harness.web import page as dashboard

        dashboard.install(app, context, access)
    return Guard(cast("App", app), access, errors.refused_app)


def _version() -> str:
    from importlib.metadata import version

    return version("agentharness")
