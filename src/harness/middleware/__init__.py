"""The documented import name of the kernel's middleware. Nobody inside imports this."""

from __future__ import annotations

from harness.kernel.middleware import (
    CapabilityGuardMiddleware,
    Detector,
    Finding,
    PIIScrubberMiddleware,
    Quota,
    QuotaMiddleware,
)

__all__ = [
    "CapabilityGuardMiddleware",
    "Detector",
    "Finding",
    "PIIScrubberMiddleware",
    "Quota",
    "QuotaMiddleware",
]
