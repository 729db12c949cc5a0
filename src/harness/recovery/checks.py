"""What a check is: a query, a condition and what one look at them gave. Parsing and judging evidence; no I/O.

The queries are `http://…`, `latency:http://…`, `tcp:HOST:PORT` and `process:SERVICE`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

from harness.errors import DeclarationError
from harness.recovery.conditions import Condition, compile_condition
from harness.recovery.declarations import Invariant
from harness.recovery.facts import CheckResult
from harness.recovery.judging import Policy

Kind = Literal["http", "latency", "tcp", "process"]

MIN_INTERVAL_SECONDS = 0.1
DEFAULT_CONDITIONS: Mapping[Kind, str] = {
    "http": "status == 200", "latency": "value < 1000", "tcp": "connected", "process": "running",
}  # fmt: skip

_NOT_YET = ("prometheus:", "promql:", "loki:", "log:", "command:", "exec:")


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Where a check looks."""

    kind: Kind
    text: str  # as it was declared
    host: str = ""
    port: int = 0
    path: str = ""  # with its query string
    tls: bool = False
    service: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One declared check that can be run."""

    invariant: Invariant
    query: Query
    condition: Condition
    policy: Policy

    @property
    def name(self) -> str:
        return self.invariant.name

    @property
    def target(self) -> str:
        """The service it is about; empty if none is known."""
        return self.invariant.target or self.query.service


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a probe brought back, before any condition was asked."""

    evidence: Mapping[str, object]
    took_ms: float
    refusal: str = ""  # why the target gave no answer: that is a failure of the target
    blindness: str = ""  # why nothing could be observed: that says nothing of the target


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One result. Samples are kept in a bounded ring, never in the ledger."""

    check: str
    target: str
    result: CheckResult
    detail: str  # why not; empty for a pass
    started_us: int  # when the look began, so that it is known to be newer than an action
    ended_us: int
    took_ms: float
    evidence: dict[str, str | int | float | bool] = {}  # short forms of what was seen
    answered: bool = True  # False: the target gave no answer at all


def parse_query(text: str) -> Query:
    """Read a query. Raises `DeclarationError` for one that makes no sense or is not supported."""
    scheme, _, rest = text.strip().partition(":")
    match scheme:
        case "http" | "https":
            return _http("http", text.strip(), text)
        case "latency":
            return _http("latency", rest.strip(), text)
        case "tcp":
            host, _, port = rest.removeprefix("//").rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
                raise DeclarationError(f"query {text!r}: write tcp:HOST:PORT, such as tcp:127.0.0.1:5432")
            return Query(kind="tcp", text=text, host=host.strip("[]"), port=int(port))
        case "process" if re.fullmatch(r"[A-Za-z0-9_.-]+", rest):
            return Query(kind="process", text=text, service=rest)
        case _ if text.startswith(_NOT_YET):
            raise DeclarationError(f"query {text!r}: {scheme} checks are not supported yet; http, latency, tcp and process are")
        case _:
            raise DeclarationError(
                f"query {text!r} is none of http://HOST/PATH, latency:http://HOST/PATH, tcp:HOST:PORT, process:SERVICE"
            )


def _http(kind: Kind, url: str, text: str) -> Query:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise DeclarationError(f"query {text!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DeclarationError(f"query {text!r}: {url!r} is not an address such as http://127.0.0.1:8001/health")
    if parts.username or parts.password:
        raise DeclarationError(f"query {text!r}: an address with a password in it would be shown and recorded; leave it out")
    if not url.isascii() or any(character <= " " for character in url):
        raise DeclarationError(f"query {text!r}: the address has spaces or characters that must be percent-encoded")
    tls = parts.scheme == "https"
    return Query(
        kind=kind, text=text, host=parts.hostname, port=port or (443 if tls else 80), path=_path(parts), tls=tls
    )  # fmt: skip


def _path(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def build_check(invariant: Invariant) -> Check:
    """The invariant as a check, refused with `DeclarationError` if it could never work."""
    name = invariant.name
    if not (invariant.interval_seconds >= MIN_INTERVAL_SECONDS and 0 < invariant.timeout_seconds <= 300):
        times = f"every {invariant.interval_seconds:g} s with a timeout of {invariant.timeout_seconds:g} s"
        raise DeclarationError(f"check {name}: {times} makes no sense")
    try:
        query = parse_query(invariant.query)
        condition = compile_condition(invariant.condition or DEFAULT_CONDITIONS[query.kind], query.kind)
        policy = Policy(fail=invariant.fail_after, fail_of=invariant.fail_window, recover=invariant.recover_after)
    except (DeclarationError, ValueError) as error:
        raise DeclarationError(f"check {name}: {error}") from error
    return Check(invariant=invariant, query=query, condition=condition, policy=policy)


def assess(check: Check, look: Look) -> tuple[CheckResult, str]:
    """What a look means for the check, and why it is no pass.

    A target that gives no answer fails, but a latency that could not be measured is unknown: nobody was slow.
    """
    if look.blindness:
        return CheckResult.UNKNOWN, look.blindness
    if look.refusal:
        timed_out = look.evidence.get("timed_out") is True
        measurable = check.query.kind != "latency" or timed_out
        return (CheckResult.FAIL if measurable else CheckResult.UNKNOWN), look.refusal
    return check.condition.holds(look.evidence)


def sample(check: Check, look: Look, *, started_us: int, ended_us: int) -> Sample:
    """The look's result as it is kept."""
    result, detail = assess(check, look)
    return Sample(
        check=check.name, target=check.target, result=result, detail=detail, started_us=started_us, ended_us=ended_us,
        took_ms=round(look.took_ms, 1), evidence=_short(look.evidence), answered=not (look.refusal or look.blindness),
    )  # fmt: skip


def _short(evidence: Mapping[str, object]) -> dict[str, str | int | float | bool]:
    short: dict[str, str | int | float | bool] = {}
    for name, value in evidence.items():
        match value:
            case str():
                short[name] = value[:200]
            case float():
                short[name] = round(value, 1)
            case bool() | int():
                short[name] = value
            case _:
                pass  # headers and parsed bodies are for the condition only
    return short
