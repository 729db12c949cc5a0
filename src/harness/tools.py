"""The documented import names of the tool bundles. Nobody inside imports this."""

from __future__ import annotations

from harness.agents.bundles import CodingHarnessTools, ObservabilityTools

__all__ = ["CodingHarnessTools", "ObservabilityTools"]
