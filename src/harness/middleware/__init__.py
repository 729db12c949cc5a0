"""The documented import name of the kernel's middleware. Nobody inside imports this."""

from __future__ import annotations

from harness.kernel.middleware import (
    AmountLimit,
    Approval,
    CallLimit,
    CapabilityGuardMiddleware,
    Critic,
    Detector,
    Finding,
    PIIScrubberMiddleware,
    PresidioDetector,
    Quota,
    QuotaMiddleware,
    SafetyPolicy,
    SafetyPolicyMiddleware,
    ToolPolicy,
)

__all__ = [
    "AmountLimit",
    "Approval",
    "CallLimit",
    "CapabilityGuardMiddleware",
    "Critic",
    "Detector",
    "Finding",
    "PIIScrubberMiddleware",
    "PresidioDetector",
    "Quota",
    "QuotaMiddleware",
    "SafetyPolicy",
    "SafetyPolicyMiddleware",
    "ToolPolicy",
]
