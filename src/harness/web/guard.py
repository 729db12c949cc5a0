"""Who may talk to the web door: pure decisions over a request's method and headers, and the middleware that asks them.

* Host: only names this door is known by, so that a foreign page cannot reach it under a name of its own.
* Origin: a page of another origin may not write, nor open the page's socket.
* Body: of a bounded size, and read before anything else sees it.
* Token: where one is set, writing takes it; beyond loopback everything does, and without one the door does not open.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from harness.errors import UsageError

READING = frozenset({"GET", "HEAD", "OPTIONS"})
COOKIE = "harness_token"
OPEN_PATHS = frozenset({"/health"})
MAX_BODY_BYTES = 1024 * 1024

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
        offered = given.strip() if kind.lower() == "bearer" else _cookie(headers.get("cookie", ""))
        return hmac.compare_digest(offered.encode(), self.token.encode())


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


def _cookie(text: str) -> str:
    try:
        morsel = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


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
        refusal = self._access.judge(scope.get("method", "GET"), scope["path"], headers, socket=socket)
        if refusal is None and not socket and scope["method"] not in READING:
            received = await _received(receive, headers.get("content-length", ""))
            if received is None:
                message = f"a request's body has {MAX_BODY_BYTES} bytes at most"
                refusal = Refusal(status=413, code="too_large", message=message)
            else:
                receive = _again(received, receive)
        if refusal is None:
            await self._app(scope, receive, send)
        elif socket:
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": refusal.message[:120]})
        else:
            await self._refuse(refusal)(scope, receive, send)


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
