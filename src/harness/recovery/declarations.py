"""What a project declares in `harness.toml`: services, invariants, and the envelope that agents act in.

Parses and checks; starts nothing and asks nobody. Conditions are compiled by `conditions`, when they are registered.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from harness.errors import DeclarationError
from harness.recovery.facts import OWN_PREFIX, ActionKind, Level
from harness.settings import Document, Settings, convert, field_names, nearest, parse_document, refuse_unknown

Restart = Literal["agent", "always", "on-failure", "never"]
"""Who starts a service again: an action only (the default), the supervisor after any exit, after a failure, or nobody."""

Reload = Literal["none", "hup", "restart"]
Priority = Literal["low", "medium", "high", "critical"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LOOPBACK = {"localhost": "127.0.0.1", "::1": "127.0.0.1", "0.0.0.0": "127.0.0.1", "": "127.0.0.1"}  # noqa: S104 - for comparing


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A process that shall run."""

    name: str
    command: tuple[str, ...]
    ready: str = ""  # http(s)://…, tcp:host:port, command:…, log:regular expression; empty: as soon as it runs
    ready_timeout_seconds: float = 30.0
    restart: Restart = "agent"
    depends_on: tuple[str, ...] = ()
    directory: str = ""  # relative to the project's root
    environment: dict[str, str] = {}
    secrets: tuple[str, ...] = ()  # variables with secret-looking names that it may see
    config: str = ""  # the file that set_config edits, relative to the root
    reload: Reload = "restart"  # what makes a changed configuration count
    stop_signal: str = "TERM"
    stop_timeout_seconds: float = 10.0
    back_off_seconds: float = 0.5  # before the first automatic restart; doubles
    back_off_max_seconds: float = 30.0
    give_up_after: int = 5  # automatic restarts within the window
    give_up_window_seconds: float = 300.0
    log_max_bytes: int = 16 * 1024 * 1024
    log_keep: int = 4
    listen: str = ""  # host:port that the supervisor holds open and hands down, so that a restart refuses nobody
    faults: bool = False  # it shows the faults that HARNESS_CHAOS_FILE tells of, so that chaos slow and 503 work
    own: bool = False  # one of Harness's own processes; not a key of harness.toml

    @property
    def address(self) -> str:
        """`host:port` that it listens on, as declared or as its readiness tells; empty if neither does."""
        return address_of(f"tcp:{self.listen}" if self.listen else self.ready)


class Invariant(msgspec.Struct, frozen=True, kw_only=True):
    """Something that shall be true all the time."""

    name: str
    query: str  # http(s)://…, latency:URL, tcp:host:port, process:SERVICE
    condition: str = ""  # CEL; empty: what the kind of query means by itself
    target: str = ""  # the service that it says something about; inferred from the address if empty
    description: str = ""
    enabled: bool = True
    interval_seconds: float = 5.0
    timeout_seconds: float = 3.0
    fail_after: int = 2  # failures among the last `fail_window` results make it hard
    fail_window: int = 3
    recover_after: int = 3  # passes in a row
    priority: Priority = "high"
    labels: dict[str, str] = {}


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much agents may do within the envelope."""

    actions_per_incident: int = 3
    actions_per_target_hour: int = 6  # per target
    concurrent_targets: int = 2  # for all targets together
    recurrences: int = 3  # this many verified incidents of one fingerprint …
    recurrence_seconds: float = 3600.0  # … within this time go to a person
    breaker_failures: int = 3  # this many failures of actions or attempts …
    breaker_seconds: float = 3600.0  # … within this time demote auto to suggest


class TargetEnvelope(msgspec.Struct, frozen=True, kw_only=True):
    """What agents may do to one service."""

    levels: dict[ActionKind, Level] = {}
    limits: Limits = Limits()


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What agents may do to all services. What is not declared is `suggest`."""

    targets: dict[str, TargetEnvelope] = {}
    limits: Limits = Limits()

    def level(self, target: str, kind: ActionKind) -> Level:
        """The declared level."""
        found = self.targets.get(target)
        return Level.SUGGEST if found is None else found.levels.get(kind, Level.SUGGEST)

    def limits_of(self, target: str) -> Limits:
        """The target's limits, or those of all."""
        found = self.targets.get(target)
        return self.limits if found is None else found.limits


class Declarations(msgspec.Struct, frozen=True, kw_only=True):
    """Everything declared for one home."""

    services: tuple[Service, ...] = ()
    invariants: tuple[Invariant, ...] = ()
    envelope: Envelope = Envelope()
    root: str = "."
    demo: bool = False  # nothing was declared, so these are the built-in ones

    def service(self, name: str) -> Service | None:
        """The service of this name."""
        return next((service for service in self.services if service.name == name), None)


DEMO_PORT = 8001


def demo_toml(*, port: int = DEMO_PORT, raised_limits: bool = False, config: str = ".harness/rate_limiter.toml") -> str:
    """The built-in declarations as `harness.toml`; with limits raised, they allow many kills in a row."""
    path = msgspec.json.encode(config).decode()
    text = f"""\
[services.rate_limiter]
command = ["harness", "service", "--port", "{port}", "--config", {path}]
ready = "http://127.0.0.1:{port}/health"
config = {path}
reload = "none"              # it looks at the file itself
restart = "agent"            # only an action restarts it
stop_timeout_seconds = 2
faults = true                # it can be slow, or answer 503, on demand

[invariants.rate_limiter_healthy]
description = "Rate limiter responds to health checks"
query = "http://localhost:{port}/health"
condition = "status == 200"
target = "rate_limiter"

[invariants.rate_limiter_latency]
description = "Rate limiter answers quickly"
query = "latency:http://localhost:{port}/health"
condition = "value < 200"
target = "rate_limiter"

[envelope.rate_limiter]
restart_service = "auto"
set_config = "approve"
revert_config = "approve"
"""
    if raised_limits:
        text += """
# The demo breaks the service on purpose, again and again: raised so that this is not taken for a hopeless case.
actions_per_target_hour = 1000
recurrences = 1000
breaker_failures = 1000
"""
    return text


def load_declarations(settings: Settings) -> Declarations:
    """What the project declares, or the demo's when it declares neither service nor invariant.

    Raises `DeclarationError` that names file, line and, for an unknown key, the nearest known one.
    """
    document = settings.document
    if "slos" in document.data:
        raise DeclarationError(f"{document.where('slos')}: [slos.*] is not supported yet; declare an invariant instead")
    if document.data.get("services") or document.data.get("invariants"):
        return parse_declarations(document, settings.root)
    if "envelope" in document.data:
        raise DeclarationError(f"{document.where('envelope')}: [envelope.*] limits services, but none is declared")
    inside = settings.home.is_relative_to(settings.root)
    home = settings.home.relative_to(settings.root) if inside else settings.home
    demo = parse_document(demo_toml(config=str(home / "rate_limiter.toml")), Path("(built-in demo)"))
    return msgspec.structs.replace(parse_declarations(demo, settings.root), demo=True)


def parse_declarations(document: Document, root: Path) -> Declarations:
    """The three sections of a document. Raises `DeclarationError`."""
    services = tuple(_service(document, name) for name in document.table("services", error=DeclarationError))
    _check_dependencies(document, services)
    invariants = tuple(_invariant(document, name, services) for name in document.table("invariants", error=DeclarationError))
    envelope = _envelope(document, services)
    return Declarations(services=services, invariants=invariants, envelope=envelope, root=str(root))


def _service(document: Document, name: str) -> Service:
    keys = ("services", name)
    _check_name(document, keys)
    _require(document, keys, "command")
    service = convert(document, keys, Service, extra={"name": name}, hidden=("name", "own"), error=DeclarationError)
    problem = service_problem(service)
    if problem:
        key, said = problem
        raise DeclarationError(f"{document.where(*keys, key)}: services.{name}.{key}: {said}")
    return service


def service_problem(service: Service) -> tuple[str, str] | None:
    """The first key of a service that makes no sense, and why."""
    if not service.command or not service.command[0]:
        return "command", "needs a program and its arguments, as a list of strings"
    if said := ready_problem(service.ready):
        return "ready", said
    if service.listen and not _host_port(f"tcp:{service.listen}"):
        return "listen", "must be host:port"
    if not hasattr(signal, f"SIG{service.stop_signal}"):
        return "stop_signal", f"{service.stop_signal!r} is no signal; write TERM, INT, HUP, QUIT"
    for key in (
        "ready_timeout_seconds",
        "back_off_seconds",
        "back_off_max_seconds",
        "give_up_window_seconds",
        "log_max_bytes",
        "log_keep",
    ):
        if not 0 < getattr(service, key) < inf:
            return key, "must be above zero"
    for key in ("stop_timeout_seconds", "give_up_after"):
        if not 0 <= getattr(service, key) < inf:
            return key, "must not be below zero"
    return None


def ready_problem(ready: str) -> str:
    """Why a readiness probe cannot be understood; empty if it can."""
    kind, _, rest = ready.partition(":")
    match kind:
        case "":
            return ""
        case "http" | "https":
            return "" if _host_port(ready) else "is no address such as http://127.0.0.1:8001/health"
        case "tcp":
            return "" if _host_port(ready) else "must be tcp:host:port"
        case "command":
            return "" if rest.strip() else "needs a command after `command:`"
        case "log":
            try:
                re.compile(rest)
            except re.error as problem:
                return f"is no regular expression: {problem}"
            return "" if rest else "needs a regular expression after `log:`"
        case _:
            return "must begin with http:, https:, tcp:, command: or log:"


def _check_dependencies(document: Document, services: tuple[Service, ...]) -> None:
    known = {service.name: service for service in services}
    for service in services:
        where = document.where("services", service.name, "depends_on")
        for name in service.depends_on:
            if name not in known:
                raise DeclarationError(
                    f"{where}: services.{service.name} depends on {name!r}, which is not declared{nearest(name, known)}"
                )
        circle = _circle(service.name, known)
        if circle:
            raise DeclarationError(f"{where}: services depend on each other in a circle: {' -> '.join(circle)}")


def _circle(start: str, known: Mapping[str, Service]) -> list[str]:
    """A path from `start` back to itself, if there is one."""
    paths = [[start]]
    seen: set[str] = set()
    while paths:
        path = paths.pop()
        for name in known[path[-1]].depends_on if path[-1] in known else ():
            if name == start:
                return [*path, name]
            if name not in seen:
                seen.add(name)
                paths.append([*path, name])
    return []


def _invariant(document: Document, name: str, services: tuple[Service, ...]) -> Invariant:
    keys = ("invariants", name)
    _check_name(document, keys)
    _require(document, keys, "query")
    invariant = convert(document, keys, Invariant, extra={"name": name}, hidden=("name",), error=DeclarationError)
    known = [service.name for service in services]
    if invariant.target and invariant.target not in known and not invariant.target.startswith(OWN_PREFIX):
        said = f"target {invariant.target!r} is no declared service{nearest(invariant.target, known)}"
        raise DeclarationError(f"{document.where(*keys, 'target')}: invariants.{name}: {said}")
    problem = invariant_problem(invariant)
    if problem:
        raise DeclarationError(f"{document.where(*keys, problem[0])}: invariants.{name}.{problem[0]}: {problem[1]}")
    return msgspec.structs.replace(invariant, target=infer_target(invariant, services))


def invariant_problem(invariant: Invariant) -> tuple[str, str] | None:
    """The first key of an invariant that makes no sense, and why; its condition is `conditions`' to judge."""
    kind, _, rest = invariant.query.partition(":")
    if kind not in ("http", "https", "latency", "tcp", "process"):
        return "query", "must begin with http:, https:, latency:, tcp: or process:"
    if not (rest if kind == "process" else _host_port(invariant.query)):
        return "query", f"{invariant.query!r} names no address" if kind != "process" else "names no service"
    for key in ("interval_seconds", "timeout_seconds", "fail_after", "fail_window", "recover_after"):
        if not 0 < getattr(invariant, key) < inf:
            return key, "must be above zero"
    if invariant.fail_after > invariant.fail_window:
        return "fail_after", f"{invariant.fail_after} failures never fit into fail_window = {invariant.fail_window}"
    return None


def infer_target(invariant: Invariant, services: tuple[Service, ...]) -> str:
    """The service that an invariant is about: as declared, by `process:NAME`, or by the same address; else empty."""
    if invariant.target:
        return invariant.target
    kind, _, rest = invariant.query.partition(":")
    if kind == "process":
        return rest
    address = address_of(invariant.query)
    return next((service.name for service in services if address and service.address == address), "")


def address_of(query: str) -> str:
    """`host:port` of a probe or query, with every name of this machine's loopback made one; empty if it has none."""
    found = _host_port(query)
    return f"{_LOOPBACK.get(found[0], found[0])}:{found[1]}" if found else ""


def _host_port(query: str) -> tuple[str, int] | None:
    url = query.removeprefix("latency:")
    if url.startswith("tcp:") and not url.startswith("tcp://"):
        url = f"tcp://{url.removeprefix('tcp:')}"
    parts = urlsplit(url)
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None


def _envelope(document: Document, services: tuple[Service, ...]) -> Envelope:
    table = document.table("envelope", error=DeclarationError)
    limit_names = field_names(Limits)
    names = [service.name for service in services]
    scalars = {key: value for key, value in table.items() if key in limit_names}
    refuse_unknown(document, ("envelope",), (*limit_names, *names), error=DeclarationError)
    limits = _limits(document, ("envelope",), scalars, Limits())
    targets = {name: _target(document, name, limits) for name in table if name in names}
    return Envelope(targets=targets, limits=limits)


def _target(document: Document, name: str, limits: Limits) -> TargetEnvelope:
    keys = ("envelope", name)
    table = document.table(*keys, error=DeclarationError)
    kinds = [kind.value for kind in ActionKind if kind is not ActionKind.START_SERVICE]
    own = [key for key in field_names(Limits) if key != "concurrent_targets"]
    refuse_unknown(document, keys, (*kinds, *own), error=DeclarationError)
    levels: dict[ActionKind, Level] = {}
    for key, value in table.items():
        if key in kinds:
            if value not in [level.value for level in Level]:
                raise DeclarationError(
                    f"{document.where(*keys, key)}: envelope.{name}.{key}: {value!r} is none of off, suggest, approve, auto"
                )
            levels[ActionKind(key)] = Level(value)
    return TargetEnvelope(
        levels=levels, limits=_limits(document, keys, {key: table[key] for key in table if key in own}, limits)
    )


def _limits(document: Document, keys: tuple[str, ...], given: dict[str, Any], base: Limits) -> Limits:
    for key, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf or (
            not key.endswith("_seconds") and not isinstance(value, int)
        ):  # fmt: skip
            kind = "a number" if key.endswith("_seconds") else "a whole number"
            raise DeclarationError(f"{document.where(*keys, key)}: {'.'.join(keys)}.{key}: must be {kind} above zero")
    return msgspec.structs.replace(base, **given)


def _check_name(document: Document, keys: tuple[str, str]) -> None:
    if not _NAME.fullmatch(keys[1]):
        raise DeclarationError(
            f"{document.where(*keys)}: {keys[1]!r} is no name: letters, digits, `_`, `.` and `-`, 64 at most"
        )
    if keys[0] == "services" and keys[1].startswith(OWN_PREFIX):
        raise DeclarationError(f"{document.where(*keys)}: names that begin with {OWN_PREFIX!r} are Harness's own")


def _require(document: Document, keys: tuple[str, ...], key: str) -> None:
    if key not in document.table(*keys, error=DeclarationError):
        raise DeclarationError(f"{document.where(*keys)}: [{'.'.join(keys)}] needs `{key}`")
