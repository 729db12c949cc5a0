"""Harness's own processes as services: always restarted, by the supervisor alone, and never by an agent."""

from __future__ import annotations

from pathlib import Path

from harness.recovery.declarations import Service

WEB, MONITOR, AGENT = "harness-web", "harness-monitor", "harness-agent"

_PROVIDERS = (
    "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL",
)  # fmt: skip


def own_services(
    home: Path,
    *,
    web_port: int | None = 8000,
    web_host: str = "127.0.0.1",
    model: str | None = None,
    demo: bool = False,
) -> tuple[Service, ...]:
    """The monitor, the agent and, with a port, the web door of a home. They see the providers' keys, and nobody else's."""
    place = ("--home", str(home))
    services = [
        _own(MONITOR, ("harness", "monitor", *place), secrets=_PROVIDERS),
        _own(AGENT, ("harness", "agent", *place, *(("--model", model) if model else ())), secrets=_PROVIDERS),
    ]
    if web_port is not None:
        asked = "127.0.0.1" if web_host in ("", "0.0.0.0") else "[::1]" if web_host == "::" else web_host  # noqa: S104 - compared
        command = ("harness", "web", *place, "--host", web_host, "--port", str(web_port), *(("--demo",) if demo else ()))
        services.append(_own(WEB, command, ready=f"http://{asked}:{web_port}/health", secrets=("HARNESS_WEB_TOKEN",)))
    return tuple(services)


def _own(name: str, command: tuple[str, ...], *, ready: str = "", secrets: tuple[str, ...] = ()) -> Service:
    return Service(
        name=name, command=command, ready=ready, restart="always", secrets=secrets, own=True,
        stop_timeout_seconds=5.0, back_off_seconds=0.2, back_off_max_seconds=15.0, give_up_after=0,
    )  # fmt: skip
