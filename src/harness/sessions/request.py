"""What to start and how, as it goes through a pipe from whoever asks for a session to its host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class LaunchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to start and how. Everything is plain JSON, for it goes through a pipe."""

    home: str
    database: str
    cli: str  # claude, codex, or any command
    agent_args: tuple[str, ...] = ()
    id: str | None = None  # None: a random one
    mode: str | None = None  # None: the most structured one that the agent and the use allow
    cwd: str = "."
    repo: str = ""
    description: str = ""
    meta: Any = None
    context: str = ""  # the first message
    max_budget_usd: float | None = None
    max_turns: int | None = None
    max_wall_seconds: float | None = None
    inbox_ttl_seconds: float = 120.0
    columns: int = 120
    rows: int = 40
    attended: bool = False
    tmux: str = ""
    timeout_seconds: float = 30.0  # until it is registered
    worktree: str = ""
    branch: str = ""
    follows: str = ""  # key of the run that this one continues
    vendor_session: str = ""  # that it continues
    watch_file: str = ""
    spawner_pane: str = ""
    port: int = 0  # of its own web door
    approvals: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])  # rules and deadline, as in harness.toml
    transcript_max_bytes: int = 10 << 20
    transcript_keep: int = 5
