"""What every part of the API works with: the ledger, the items, and in whose name it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request

from harness.ledger import Store
from harness.recovery import Declarations
from harness.sessions.client import Sessions
from harness.web.guard import Access
from harness.work import Items


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One home, as the web door sees it."""

    store: Store
    items: Items
    home: Path
    root: Path
    declarations: Declarations = field(default_factory=Declarations)
    actor: str = "person:web"
    chaos: bool = False  # whether faults may be asked for: in the demo
    only: str = ""  # key of the one session that this door is for; empty: it is for the whole home


async def _here(request: Request) -> Context:  # async, as a plain function would take a thread for each request
    return cast("Context", request.app.state.context)


async def _sessions(request: Request) -> Sessions:
    return cast("Sessions", request.app.state.sessions)


def trusted(request: Request) -> bool:
    """Whether this request may see agents' sessions."""
    return cast("Access", request.app.state.access).trusts(request.headers, request.scope)


Here = Annotated[Context, Depends(_here)]
Runs = Annotated[Sessions, Depends(_sessions)]
