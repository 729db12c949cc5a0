"""The documented import name of what a middleware is. Nobody inside imports this."""

from __future__ import annotations

from harness.kernel import KernelMiddleware, ModelInvocation

__all__ = ["KernelMiddleware", "ModelInvocation"]
