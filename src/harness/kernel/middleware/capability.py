"""Tools that need a capability, and a name for the place where that is guarded."""

from __future__ import annotations

from typing import ClassVar

from harness.kernel.middleware.base import CAPABILITY, KernelMiddleware


class CapabilityGuardMiddleware(KernelMiddleware):
    """Says by its place that tools are guarded by capability. The kernel always guards them, with or without it."""

    rank: ClassVar[int] = CAPABILITY
