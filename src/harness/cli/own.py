"""Harness's own processes as services: what the supervisor starts besides the declared ones, and always restarts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.recovery import Service

WEB, MONITOR, AGENT = "harness-web", "harness-monitor", "harness-agent"
_MODEL_SECRETS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_AUTH_TOKEN")
_STOP_SECONDS = 5.0
_BACK_OFF_SECONDS = 0.1  # nobody else could restart them, so not long


def own_services(home: Path, *, web: str, model: str | None = None, demo: bool = False) -> tuple[Service, ...]:
    """The web door at `web` (host:port), the monitor and the agent of a home."""
    host, _, port = web.rpartition(":")
    told = ("--home", str(home))
    page = ("--demo",) if demo else ()
    chosen = ("--model", model) if model else ()
    return (
        _own(
            WEB,
            ("web", *told, "--host", host.strip("[]"), "--port", port, *page),
            ready=f"http://{_reached(host)}:{port}/health",
            secrets=_tokens(),
        ),
        _own(MONITOR, ("monitor", *told, *chosen), secrets=_MODEL_SECRETS),
        _own(AGENT, ("agent", *told, *chosen), secrets=_MODEL_SECRETS),
    )


def _own(name: str, words: tuple[str, ...], *, ready: str = "", secrets: tuple[str, ...] = ()) -> Service:
    from harness.recovery import Service

    return Service(
        name=name,
        command=("harness", *words),
        ready=ready,
        restart="always",
        stop_timeout_seconds=_STOP_SECONDS,
        back_off_seconds=_BACK_OFF_SECONDS,
        secrets=secrets,
        own=True,
    )


def _reached(host: str) -> str:
    """Where a door that listens everywhere is asked for its health."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host.strip("[]"), host)  # noqa: S104 - compared, not bound


def _tokens() -> tuple[str, ...]:
    return tuple(name for name in os.environ if name == "HARNESS_WEB_TOKEN")
