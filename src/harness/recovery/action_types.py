"""The actions that an agent may propose: their arguments, what must hold before, what shows that it worked, how to undo. Pure.

The state that the checks look at is `Evidence.service`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from harness.recovery.declarations import Service
from harness.recovery.facts import ActionKind, Value

_WELL = frozenset({"ready", "started", "adopted"})
MAX_VALUE = 1_000  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionType:
    """One kind of action."""

    kind: ActionKind
    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    reversible: str  # how it is undone, in words
    needs_config: bool = False


ACTION_TYPES: dict[ActionKind, ActionType] = {
    each.kind: each
    for each in (
        ActionType(kind=ActionKind.RESTART_SERVICE, reversible="no; it replaces the process"),
        ActionType(
            kind=ActionKind.SET_CONFIG,
            required=frozenset({"key", "value"}),
            reversible="yes, by revert_config",
            needs_config=True,
        ),
        ActionType(
            kind=ActionKind.REVERT_CONFIG,
            optional=frozenset({"version"}),
            reversible="yes, by revert_config to the version before",
            needs_config=True,
        ),
    )
}
"""What `propose_action` takes. Starting and stopping are for people."""


def shape_problem(kind: ActionKind, arguments: Mapping[str, Value]) -> str:
    """What is wrong with the arguments by themselves; empty if nothing."""
    known = ACTION_TYPES.get(kind)
    if known is None:
        return f"{kind.value} cannot be proposed; {', '.join(ACTION_TYPES)} can"
    given = {name for name, value in arguments.items() if value is not None}
    if missing := sorted(known.required - given):
        return f"{kind.value} needs {' and '.join(missing)}"
    if extra := sorted(given - known.required - known.optional):
        return f"{kind.value} takes no {' or '.join(extra)}"
    key = arguments.get("key")
    if key is not None and not (
        isinstance(key, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,8}", key)
    ):
        return f"{key!r} is no dotted key of letters, digits, `_` and `-`"
    value = arguments.get("value")
    if isinstance(value, str) and len(value) > MAX_VALUE:
        return f"a value of {len(value)} characters is over the limit of {MAX_VALUE}"
    version = arguments.get("version")
    if version is not None and not (isinstance(version, str) and re.fullmatch(r"[0-9a-f]{64}|absent", version)):
        return f"{version!r} is no version: service_status shows them"
    return ""


def before_problem(
    kind: ActionKind, arguments: Mapping[str, Value], service: Service, state: Mapping[str, Any], *, asked_by_person: bool
) -> str:
    """Why the action makes no sense as things are now; empty if it does."""
    if ACTION_TYPES[kind].needs_config and not service.config:
        return f"{service.name} declares no `config`, so there is nothing that {kind.value} could change"
    blocked = cast("Mapping[str, Any]", state.get("blocked") or {})
    if blocked.get("kind") == "port_taken" and kind is ActionKind.RESTART_SERVICE:
        return f"the port of {service.name} belongs to a process that is not ours; a restart cannot help, a person has to look"
    if kind is ActionKind.REVERT_CONFIG and not arguments.get("version") and state.get("config") is None:
        return f"no change of the configuration of {service.name} is known, so there is nothing to put back"
    if not asked_by_person and not ailing(state):
        return f"nothing is wrong with {service.name} now: it runs and all its checks pass; do nothing that is not needed"
    return ""


def ailing(state: Mapping[str, Any]) -> bool:
    """Whether anything shows that the service is not well. What cannot be seen is not well."""
    if state.get("state") not in _WELL or state.get("process", {}).get("state") in ("gone", "stopped by a signal", "unknown"):
        return True
    checks = state.get("checks") or ()
    return not checks or any(check.get("result") != "pass" for check in checks)


def after_problem(kind: ActionKind, action_id: str, state: Mapping[str, Any]) -> str:
    """What shows that a completed action did not do what it should; empty if it did."""
    if kind is ActionKind.RESTART_SERVICE and state.get("state") not in _WELL:
        return f"{state.get('service')} is {state.get('state')} after the restart"
    if kind in (ActionKind.SET_CONFIG, ActionKind.REVERT_CONFIG):
        config = cast("Mapping[str, Any]", state.get("config") or {})
        if config.get("by_action") != action_id:
            return "the configuration has not changed by it"
    return ""
