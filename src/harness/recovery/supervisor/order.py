"""In which order services end: those that others depend on later, who would take the end for a failure first. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from harness.recovery.declarations import Service

_BYSTANDERS = ("harness-agent", "harness-monitor")  # before the services, so that they do not call their end a failure
_DOORS = ("harness-web",)  # after them, so that the end can be watched


def stop_stages(services: Sequence[Service]) -> list[list[str]]:
    """Names by stage; a stage is ended together, and the next one once all of it is gone."""
    names = [service.name for service in services]
    left = {service.name: set(service.depends_on) for service in services if service.name not in (*_BYSTANDERS, *_DOORS)}
    stages = [[name for name in names if name in _BYSTANDERS]]
    while left:
        needed = set[str]().union(*left.values())
        stage = [name for name in left if name not in needed] or list(left)
        stages.append(stage)
        left = {name: depends for name, depends in left.items() if name not in stage}
    stages.append([name for name in names if name in _DOORS])
    return [stage for stage in stages if stage]
