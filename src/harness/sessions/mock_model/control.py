"""`/__admin/…`: look at a rehearsal and change it over HTTP."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import msgspec

from harness.errors import UsageError
from harness.sessions.mock_model.http import Request
from harness.sessions.mock_model.script import parse_json
from harness.sessions.mock_model.stage import Stage

PREFIX = "/__admin/"
_KNOWN = "requests, held, release, reset, script"


def administered(stage: Stage, request: Request, *, bound_to: str) -> tuple[int, bytes]:
    """The status and JSON that answer this request."""
    if _foreign(request, bound_to):
        return 403, _json({"error": "this is for programs on this machine, not for web pages"})
    match request.path.removeprefix(PREFIX), request.method:
        case "requests", "GET":
            return 200, _json(stage.records.all())
        case "held", "GET":
            return 200, _json(stage.gates.held())
        case "release", "POST":
            return _release(stage, request.parameter("gate"))
        case "reset", "POST":
            stage.reset()
            return 200, _json({"ok": True})
        case "script", "GET":
            return 200, _json(stage.script.as_data())
        case "script", "POST":
            return _load(stage, request.body)
        case ("requests" | "held" | "release" | "reset" | "script") as known, method:
            return 405, _json({"error": f"{known} is not asked for with {method}"})
        case unknown, _:
            return 404, _json({"error": f"nothing is known as {unknown!r}; known: {_KNOWN}"})


def _release(stage: Stage, gate: str) -> tuple[int, bytes]:
    if not gate:
        return 400, _json({"error": "say which gate: /__admin/release?gate=NAME"})
    return 200, _json({"ok": True, "gate": gate, "waited": stage.gates.release(gate)})


def _load(stage: Stage, body: bytes) -> tuple[int, bytes]:
    try:
        stage.load(parse_json(body, "script"))
    except UsageError as problem:
        return 400, _json({"error": str(problem)})
    return 200, _json({"ok": True})


def _foreign(request: Request, bound_to: str) -> bool:
    """Whether this may come from a web page: it names its origin, or reached us by a name that is not ours.

    Beyond loopback others know this server by names that it cannot know.
    """
    if "origin" in request.headers:
        return True
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    return is_loopback(bound_to) and host not in ("", "localhost", bound_to) and not is_loopback(host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an interface."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)
