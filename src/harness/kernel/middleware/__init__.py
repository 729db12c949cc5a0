"""Middleware: what may change, refuse and watch the calls of a kernel. Import from here."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.kernel.middleware.base import (
        CAPABILITY,
        CUSTOM,
        HOOKS,
        QUOTA,
        SAFETY,
        SCRUB,
        KernelMiddleware,
        ModelInvocation,
    )
    from harness.kernel.middleware.capability import CapabilityGuardMiddleware
    from harness.kernel.middleware.detectors import Detector, Finding
    from harness.kernel.middleware.pii import PIIScrubberMiddleware
    from harness.kernel.middleware.policies import AmountLimit, Approval, CallLimit, Critic, ToolPolicy
    from harness.kernel.middleware.presidio import PresidioDetector
    from harness.kernel.middleware.quota import Quota, QuotaMiddleware
    from harness.kernel.middleware.safety import SafetyPolicy, SafetyPolicyMiddleware
    from harness.kernel.middleware.stack import Stack

_HOME = {
    "CAPABILITY": "base",
    "CUSTOM": "base",
    "HOOKS": "base",
    "QUOTA": "base",
    "SAFETY": "base",
    "SCRUB": "base",
    "CapabilityGuardMiddleware": "capability",
    "Detector": "detectors",
    "Finding": "detectors",
    "KernelMiddleware": "base",
    "AmountLimit": "policies",
    "Approval": "policies",
    "CallLimit": "policies",
    "Critic": "policies",
    "ModelInvocation": "base",
    "PIIScrubberMiddleware": "pii",
    "PresidioDetector": "presidio",
    "Quota": "quota",
    "QuotaMiddleware": "quota",
    "SafetyPolicy": "safety",
    "SafetyPolicyMiddleware": "safety",
    "Stack": "stack",
    "ToolPolicy": "policies",
}

__all__ = [
    "CAPABILITY",
    "CUSTOM",
    "HOOKS",
    "QUOTA",
    "SAFETY",
    "SCRUB",
    "AmountLimit",
    "Approval",
    "CallLimit",
    "CapabilityGuardMiddleware",
    "Critic",
    "Detector",
    "Finding",
    "KernelMiddleware",
    "ModelInvocation",
    "PIIScrubberMiddleware",
    "PresidioDetector",
    "Quota",
    "QuotaMiddleware",
    "SafetyPolicy",
    "SafetyPolicyMiddleware",
    "Stack",
    "ToolPolicy",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
