"""Ways to real models: `port_from` and the ports behind it. Import from here. No SDK is imported before the first call."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.kernel.providers.anthropic_messages import AnthropicPort
    from harness.kernel.providers.openai_chat import OpenAIChatPort
    from harness.kernel.providers.openai_responses import OpenAIResponsesPort
    from harness.kernel.providers.registry import PortFactory, known_ports, port_from

_HOME = {
    "AnthropicPort": "anthropic_messages",
    "OpenAIChatPort": "openai_chat",
    "OpenAIResponsesPort": "openai_responses",
    "PortFactory": "registry",
    "known_ports": "registry",
    "port_from": "registry",
}

__all__ = ["AnthropicPort", "OpenAIChatPort", "OpenAIResponsesPort", "PortFactory", "known_ports", "port_from"]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
