"""Tools that need a capability, also those that do not say so themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, cast

from harness.errors import UsageError
from harness.kernel.middleware.base import CAPABILITY, KernelMiddleware


class CapabilityGuardMiddleware(KernelMiddleware):
    """Shows a tool to no tenant that lacks its capability, and refuses its call.

    The kernel does that by itself for the capability that a tool declares. `requires` names capabilities for tools that
    declare none or another one, such as those of a server that is not ours: then both are needed.
    """

    rank: ClassVar[int] = CAPABILITY

    def __init__(self, requires: Mapping[str, str] | None = None) -> None:
        if requires is not None and not isinstance(cast("object", requires), Mapping):
            raise UsageError(f"requires maps names of tools to capabilities, not {type(requires).__name__}")
        self.requires = dict(requires or {})
        for name, capability in self.requires.items():
            if not isinstance(cast("object", capability), str) or not capability:
                raise UsageError(f"the capability that {name} requires is a name, not {capability!r}")
