"""How a kernel behaves where its users may differ: leases, attempts, estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import UsageError
from harness.spend import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelPolicy:
    """All times in seconds."""

    lease_seconds: float = 10.0  # so long a run stays with a kernel that stopped without a word on another machine
    lease_wait_seconds: float = 60.0  # so long a step waits for another kernel's steps in the same run
    model_attempts: int = 3  # for what may pass: timeouts, lost connections, 5xx
    retry_base_seconds: float = 0.5  # doubled with each attempt
    retry_max_seconds: float = 30.0
    estimated_output_tokens: int = 4096  # reserved for an answer whose length is not limited
    prices: Mapping[str, Price] | None = None  # before the built-in table

    def __post_init__(self) -> None:
        if self.model_attempts < 1 or self.lease_seconds <= 0 or self.lease_wait_seconds < 0:
            raise UsageError("a kernel's policy needs model_attempts >= 1, lease_seconds > 0 and lease_wait_seconds >= 0")

    def retry_seconds(self, attempt: int, asked: float | None = None) -> float:
        """How long to wait after this attempt failed; `asked` is what the provider asked for."""
        return min(self.retry_max_seconds, max(self.retry_base_seconds * 2 ** (attempt - 1), asked or 0))
