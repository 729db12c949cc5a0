"""Who may talk to the web door: pure decisions over a request's method and headers, and the middleware that asks them.

* Host: only names this door is known by, so that a foreign page cannot reach it under a name of its own.
* Origin: a page of another origin may not write, nor open the page's socket.
* Body: of a bounded size, and read before anything else sees it.
* Token: where one is set, writing takes it; beyond loopback everything does, and without one the door does not open.
* Sessions: whoever reads or writes to an agent acts as its user, so that takes the token, and where none is set, a
  connection of the user whom the door runs for.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from harness.errors import UsageError
from harness.web.peers import same_user

READING = frozenset({"GET", "HEAD", "OPTIONS"})
COOKIE = "harness_token"
OPEN_PATHS = frozenset({"/health"})
MAX_BODY_BYTES = 1024 * 1024
BODY_SECONDS = 30.0
_NOT_YOURS = (
    "sessions take the token, as 'Authorization: Bearer …'; where none is set (web.token), only programs of the user whom the "
    "door runs for see them"
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a request goes no further."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the door is guarded. Raises `UsageError` for a host beyond loopback without a token."""

    host: str = "127.0.0.1"
    token: str = ""
    names: frozenset[str] = frozenset()  # further host names it is known by

    def __post_init__(self) -> None:
        if not self.token and not is_loopback(self.host):
            raise UsageError(
                f"refusing to listen on {self.host} without a token: set web.token in harness.toml or HARNESS_WEB_TOKEN"
            )

    @property
    def public(self) -> bool:
        """Whether others than this machine can reach it."""
        return not is_loopback(self.host)

    def judge(self, method: str, path: str, headers: Mapping[str, str], *, socket: bool = False) -> Refusal | None:
        """Whether a request may pass; header names in lower case."""
        host = headers.get("host", "")
        if not self.knows(host):
            return Refusal(status=421, code="unknown_host", message=f"this door is not known as {host!r}; see web.names")
        changing = socket or method not in READING
        if changing and not _same_origin(headers, host):
            origin = headers.get("origin", "another site")
            return Refusal(status=403, code="foreign_origin", message=f"{origin} may not act here")
        needed = self.token and (self.public or (changing and not socket)) and path not in OPEN_PATHS
        if needed and not self.holds_token(headers):
            return Refusal(status=401, code="token_required", message="send the token as 'Authorization: Bearer …'")
        return None

    def knows(self, host: str) -> bool:
        """Whether this door goes by a Host header's name."""
        name = _name_of(host)
        return name in {"localhost", self.host.lower(), *self.names} or _is_address(name, any_address=self.public)

    def holds_token(self, headers: Mapping[str, str]) -> bool:
        """Whether the request carries the token, as a bearer or as the page's cookie."""
        if not self.token:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        offered = [given.strip()] if kind.lower() == "bearer" else _cookies(headers.get("cookie", ""))
        return any(self.is_token(each) for each in offered)

    def is_token(self, text: str) -> bool:
        """Whether this is the token."""
        return hmac.compare_digest(text.encode(), self.token.encode())

    def trusts(self, headers: Mapping[str, str], scope: Mapping[str, Any]) -> bool:
        """Whether the request may see and control agents' sessions: it has the token, or is the user's where none is set."""
        return self.holds_token(headers) if self.token else same_user(scope.get("client"), scope.get("server"))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an interface."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    name = host.lower()
    return name[1 : name.index("]")] if name.startswith("[") and "]" in name else name.rpartition(":")[0] or name


def _is_address(name: str, *, any_address: bool) -> bool:
    """A numeric address cannot be given to a foreign name: the loopback's passes, another one if the door is public."""
    try:
        return ipaddress.ip_address(name).is_loopback or any_address
    except ValueError:
        return False


def _same_origin(headers: Mapping[str, str], host: str) -> bool:
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()


def _cookies(text: str) -> list[str]:
    """The tokens of this and of other doors of the machine: a browser does not tell ports apart."""
    try:
        return [unquote(morsel.value) for name, morsel in SimpleCookie(text).items() if name.startswith(COOKIE)]
    except CookieError:
        return []


def _of_sessions(path: str) -> bool:
    """Whether a path is about sessions; the pages decide for themselves what they show."""
    return (
        path == "/api/sessions" or path.startswith("/api/sessions/") or (path.startswith("/sessions/") and "/agentapi" in path)
    )


class Guard:
    """ASGI middleware: asks `Access` about every request and socket before anything else sees it."""

    def __init__(self, app: App, access: Access, refuse: Callable[[Refusal], App]) -> None:
        self._app = app
        self._access = access
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        socket = scope["type"] == "websocket"
        if not socket and await self._welcomes(scope, headers, send):
            return
        refusal = self._access.judge(scope.get("method", "GET"), scope["path"], headers, socket=socket)
        if refusal is None and _of_sessions(scope["path"]) and not self._access.trusts(headers, scope):
            refusal = Refusal(status=401, code="token_required", message=_NOT_YOURS)
        if refusal is None and not socket and scope["method"] not in READING:
            received = await _in_time(receive, headers.get("content-length", ""))
            if isinstance(received, Refusal):
                refusal = received
            else:
                receive = _again(received, receive)
        if refusal is None:
            await self._app(scope, receive, send)
        elif socket:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.message[:120]})
        else:
            await self._refuse(refusal)(scope, receive, send)

    async def _welcomes(self, scope: Scope, headers: Mapping[str, str], send: Send) -> bool:
        """Whether this was a page's address with the token in it: the browser gets it as a cookie, and the page without it."""
        query: bytes = scope.get("query_string", b"")
        if scope["method"] != "GET" or b"token=" not in query or scope["path"].startswith("/api/"):
            return False
        asked = parse_qs(query.decode("latin-1"))
        given = asked.pop("token", [""])[0]
        host = headers.get("host", "")
        if not (self._access.token and self._access.knows(host) and self._access.is_token(given)):
            return False
        name = f"{COOKIE}_{host.rpartition(':')[2]}" if host.rpartition(":")[2].isdigit() else COOKIE
        target = f"{quote(scope['path'])}?{urlencode(asked, doseq=True)}".removesuffix("?")
        sent = [
            (b"location", f"/{target.lstrip('/')}".encode()),
            (b"set-cookie", f"{name}={quote(given, safe='')}; HttpOnly; SameSite=Strict; Path=/".encode("latin-1")),
            (b"cache-control", b"no-store"),
            (b"content-length", b"0"),
        ]
        await send({"type": "http.response.start", "status": 303, "headers": sent})
        await send({"type": "http.response.body", "body": b""})
        return True


async def _in_time(receive: Receive, declared: str) -> list[MutableMapping[str, Any]] | Refusal:
    """The body, or why it is not taken."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            received = await _received(receive, declared)
    except TimeoutError:
        return Refusal(status=408, code="too_slow", message=f"a request's body has to come within {BODY_SECONDS:g} s")
    if received is None:
        return Refusal(status=413, code="too_large", message=f"a request's body has {MAX_BODY_BYTES} bytes at most")
    return received


async def _received(receive: Receive, declared: str) -> list[MutableMapping[str, Any]] | None:
    """The whole body as it came; None if it is too long, and then no more of it than that was read."""
    left = MAX_BODY_BYTES
    if declared.isdecimal() and int(declared) > left:
        return None
    messages: list[MutableMapping[str, Any]] = []
    while not messages or messages[-1].get("more_body"):
        messages.append(await receive())
        left -= len(messages[-1].get("body", b""))
        if left < 0:
            return None
    return messages


def _again(messages: list[MutableMapping[str, Any]], receive: Receive) -> Receive:
    """Give what was received once more, and then what comes."""

    async def given() -> MutableMapping[str, Any]:
        return messages.pop(0) if messages else await receive()

    return given
