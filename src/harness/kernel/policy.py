"""How a kernel behaves where its users may differ: leases, attempts, estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.kernel.bounds import check_count, check_number, check_seconds
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
        check_seconds("lease_seconds", self.lease_seconds)
        check_count("model_attempts", self.model_attempts)
        check_count("estimated_output_tokens", self.estimated_output_tokens)
        for name in ("lease_wait_seconds", "retry_base_seconds", "retry_max_seconds"):
            check_number(name, getattr(self, name))

    def retry_seconds(self, attempt: int, asked: float | None = None) -> float:
        """How long to wait after this attempt failed; `asked` is what the provider asked for."""
        return min(self.retry_max_seconds, max(self.retry_base_seconds * 2 ** (attempt - 1), asked or 0))
