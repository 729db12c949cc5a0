"""The web door: an HTTP API, server-sent events and a live page over the ledger. Import from here, not from the modules inside.

`overview` is what people see of services, checks and tickets, as the command line prints it too; it needs no web framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.web.guard import Access
    from harness.web.overview import Check, Overview, Service, Ticket, ticket_of
    from harness.web.server import WebSettings, serve, serve_named, web_address

_HOME = {
    "Access": "guard",
    "Check": "overview",
    "Overview": "overview",
    "Service": "overview",
    "Ticket": "overview",
    "WebSettings": "server",
    "serve": "server",
    "serve_named": "server",
    "ticket_of": "overview",
    "web_address": "server",
}

__all__ = [
    "Access",
    "Check",
    "Overview",
    "Service",
    "Ticket",
    "WebSettings",
    "serve",
    "serve_named",
    "ticket_of",
    "web_address",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
