"""The documented import names of the tool bundles. Nobody inside imports this."""

from __future__ import annotations

from harness.agents.bundles import CodingHarnessTools, CommandLimits, ObservabilityTools
from harness.processes import ResourceLimits

__all__ = ["CodingHarnessTools", "CommandLimits", "ObservabilityTools", "ResourceLimits"]
