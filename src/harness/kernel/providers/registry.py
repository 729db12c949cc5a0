"""From a word such as `anthropic:MODEL` to a port. Packages above add their own kinds by passing factories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import TypeAlias

from harness.errors import UsageError
from harness.kernel.ports import MockModelPort, ModelPort

PortFactory: TypeAlias = Callable[[str], ModelPort]
"""Makes a port from what follows the colon, which may be empty."""


def _mock(text: str) -> ModelPort:
    return MockModelPort(text=text)


def _anthropic(model: str) -> ModelPort:
    from harness.kernel.providers.anthropic_messages import AnthropicPort

    return AnthropicPort(model)


def _openai(model: str) -> ModelPort:
    from harness.kernel.providers.openai_responses import OpenAIResponsesPort

    return OpenAIResponsesPort(model)


def _openai_chat(model: str) -> ModelPort:
    from harness.kernel.providers.openai_chat import OpenAIChatPort

    return OpenAIChatPort(model)


_BUILT_IN: Mapping[str, PortFactory] = MappingProxyType(
    {"mock": _mock, "anthropic": _anthropic, "openai": _openai, "openai-chat": _openai_chat}
)
_NO_FACTORIES: Mapping[str, PortFactory] = MappingProxyType({})
_NEED_A_MODEL = frozenset({"anthropic", "openai", "openai-chat"})


def known_ports(factories: Mapping[str, PortFactory] = _NO_FACTORIES) -> tuple[str, ...]:
    """The words that `port_from` understands, such as `anthropic:MODEL`, in alphabetical order."""
    return tuple(f"{kind}:MODEL" if kind in _NEED_A_MODEL else kind for kind in sorted({*_BUILT_IN, *factories}))


def port_from(spec: str, factories: Mapping[str, PortFactory] = _NO_FACTORIES) -> ModelPort:
    """The port that `spec` names: `mock`, `anthropic:MODEL`, `openai:MODEL`, `openai-chat:MODEL` or one of `factories`.

    Raises `UsageError`, in one line, for an unknown word, a missing model, a missing SDK or a missing key.
    """
    kind, _, rest = spec.strip().partition(":")
    factory = factories.get(kind) or _BUILT_IN.get(kind)
    if factory is None:
        near = get_close_matches(kind, {*_BUILT_IN, *factories}, n=1)
        hint = f"; did you mean {near[0]!r}" if near else ""
        raise UsageError(f"{spec!r} names no model port{hint} (known: {', '.join(known_ports(factories))})")
    if kind in _NEED_A_MODEL and not rest.strip():
        raise UsageError(f"{spec!r} does not say which model; write {kind}:MODEL")
    return factory(rest.strip())
