"""A model API that says what a script tells it, so that real agent programs can be rehearsed without spending.

Import from here, not from the modules inside. It speaks Anthropic Messages, OpenAI Responses and OpenAI Chat Completions,
and loads asyncio and msgspec, nothing heavier. It never asks a model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.sessions.mock_model.control import is_loopback
    from harness.sessions.mock_model.recording import Received
    from harness.sessions.mock_model.script import Script, make_script, read_script
    from harness.sessions.mock_model.server import MockModel

_HOME = {
    "MockModel": "server",
    "Received": "recording",
    "Script": "script",
    "is_loopback": "control",
    "make_script": "script",
    "read_script": "script",
}

__all__ = ["MockModel", "Received", "Script", "is_loopback", "make_script", "read_script"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
