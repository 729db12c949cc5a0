"""What every part of the API works with: the ledger, the items, and in whose name it writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request

from harness.ledger import Store
from harness.recovery import Declarations
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


def _here(request: Request) -> Context:
    return cast("Context", request.app.state.context)


Here = Annotated[Context, Depends(_here)]
