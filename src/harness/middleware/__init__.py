"""The documented import name of the kernel's middleware. Nobody inside imports this."""

from __future__ import annotations

from harness.kernel import CapabilityGuardMiddleware

__all__ = ["CapabilityGuardMiddleware"]
