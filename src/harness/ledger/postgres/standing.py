"""What keeps followers from the newest events: transactions under way, told for `harness doctor`."""

from __future__ import annotations

import msgspec


class HeldBack(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction that is older than events which followers do not see yet."""

    pid: int
    user: str
    application: str
    state: str  # as pg_stat_activity has it, such as `idle in transaction`
    age_seconds: float

    def __str__(self) -> str:
        return (
            f"process {self.pid} ({self.user}, {self.application or 'unnamed'}, {self.state}) has been in a transaction for"
            f" {self.age_seconds:.0f} s, and followers wait for its end; SELECT pg_terminate_backend({self.pid}) ends it"
        )
