"""The demo's service: a rate limiter over HTTP, a token bucket per key. Standard library only, since it shall be small.

`/check?key=K&cost=1` takes tokens (200 or 429), `/health` answers 200 while its configuration is good, `/metrics` is in
Prometheus' text form. It looks at its configuration file anew when that changes, takes over a listening socket that it
inherits, and finishes what it has begun before it ends on SIGTERM. It knows nothing of supervisors or agents.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
import tomllib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

CHAOS_FILE = "HARNESS_CHAOS_FILE"
SOCKETS = "HARNESS_SOCKETS"
SLOW_SECONDS = 0.6
_MAX_KEYS = 10_000
_HEAD_BYTES = 16_384
_IDLE_SECONDS = 30.0
_DRAIN_SECONDS = 3.0  # how long an accepted connection may take to send its first request once the end has begun
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    503: "Unavailable",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How much a key may take: `capacity` at once, `refill_per_second` in the long run."""

    capacity: float = 100.0
    refill_per_second: float = 50.0

    @classmethod
    def read(cls, path: Path | None) -> Limit:
        """The limit in a file, or the default where there is none. Raises ValueError in words."""
        if path is None or not path.exists():
            return cls()
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        for key, value in data.items():
            if key not in ("capacity", "refill_per_second"):
                raise ValueError(f"unknown key {key!r}")
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ValueError(f"{key} must be a number above zero, not {value!r}")
        return cls(**{key: float(value) for key, value in data.items()})


@dataclass(slots=True)
class Buckets:
    """Tokens by key. The keys that were used least recently are forgotten, and so full again, above a bound."""

    limit: Limit = field(default_factory=Limit)
    _held: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict[str, tuple[float, float]])

    def take(self, key: str, cost: float, now: float) -> tuple[bool, float]:
        """Whether the tokens were there and taken, and how many are left; `now` in seconds."""
        tokens, at = self._held.pop(key, (self.limit.capacity, now))
        tokens = min(self.limit.capacity, tokens + max(0.0, now - at) * self.limit.refill_per_second)
        allowed = tokens >= cost
        tokens -= cost if allowed else 0.0
        self._held[key] = (tokens, now)
        if len(self._held) > _MAX_KEYS:
            self._held.popitem(last=False)
        return allowed, tokens

    def wait_seconds(self, cost: float, tokens: float) -> float:
        """How long until `cost` tokens are there."""
        return max(0.0, cost - tokens) / self.limit.refill_per_second

    def __len__(self) -> int:
        return len(self._held)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: str
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Limiter:
    """Answers requests; the clock and the log are given, so that it can be tested without a socket."""

    def __init__(
        self, *, config: Path | None = None, clock: Callable[[], float] = time.monotonic, log: Callable[[str], None] = print
    ) -> None:
        self._config = config
        self._clock = clock
        self._log = log
        self._buckets = Buckets()
        self._seen: tuple[int, int] | None = (0, 0)
        self._broken = ""
        self._started = clock()
        self.answered: dict[int, int] = {}
        self.decided = {"allowed": 0, "rejected": 0}
        self.seconds = 0.0
        self.reload()

    def reload(self) -> None:
        """Look at the configuration if its file has changed. A bad one is said, and `/health` says it too."""
        seen = _stamp(self._config)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._buckets.limit, self._broken = Limit.read(self._config), ""
        except (ValueError, OSError) as problem:
            self._broken = f"{self._config}: {problem}"
            self._log(f"ERROR configuration is not usable: {self._broken}")
        else:
            limit = self._buckets.limit
            self._log(f"INFO limit is {limit.capacity:g} at once and {limit.refill_per_second:g} a second")

    def answer(self, method: str, target: str) -> Answer:
        """The answer to one request."""
        self.reload()
        parts = urlsplit(target)
        if method not in ("GET", "HEAD") and not (method == "POST" and parts.path == "/check"):
            return Answer(405, _json(error=f"{method} is not allowed here"))
        match parts.path:
            case "/health" if self._broken:
                return Answer(503, _json(status="misconfigured", error=self._broken))
            case "/health":
                return Answer(200, _json(status="ok", uptime_seconds=round(self._clock() - self._started, 3)))
            case "/check":
                return self._check(parse_qs(parts.query))
            case "/metrics":
                return Answer(200, self._metrics(), "text/plain; version=0.0.4")
            case _:
                return Answer(404, _json(error="there are /check, /health and /metrics"))

    def _check(self, query: Mapping[str, list[str]]) -> Answer:
        key = query.get("key", ["default"])[0][:200]
        try:
            cost = float(query.get("cost", ["1"])[0])
        except ValueError:
            cost = 0.0
        if not 0 < cost <= 1_000_000:  # also refuses NaN
            return Answer(400, _json(error="cost must be a number above zero"))
        allowed, tokens = self._buckets.take(key, cost, self._clock())
        self.decided["allowed" if allowed else "rejected"] += 1
        if allowed:
            return Answer(200, _json(allowed=True, remaining=round(tokens, 3)))
        wait = self._buckets.wait_seconds(cost, tokens)
        body = _json(allowed=False, remaining=round(tokens, 3), retry_after_seconds=round(wait, 3))
        return Answer(429, body, headers=(("Retry-After", str(int(wait) + 1)),))

    def note(self, method: str, target: str, status: int, seconds: float) -> None:
        """Count an answered request, and say what is worth saying."""
        self.answered[status] = self.answered.get(status, 0) + 1
        self.seconds += seconds
        path = urlsplit(target).path[:100]
        if status >= 500:
            self._log(f"ERROR {method} {path!r} answered {status}")
        elif seconds > 0.2:
            self._log(f"WARNING {method} {path!r} took {seconds * 1000:.0f} ms")

    def _metrics(self) -> str:
        lines = [
            "# TYPE rate_limiter_requests_total counter",
            *(f'rate_limiter_requests_total{{status="{status}"}} {count}' for status, count in sorted(self.answered.items())),
            "# TYPE rate_limiter_decisions_total counter",
            *(f'rate_limiter_decisions_total{{decision="{name}"}} {count}' for name, count in self.decided.items()),
            "# TYPE rate_limiter_request_seconds summary",
            f"rate_limiter_request_seconds_sum {self.seconds:.6f}",
            f"rate_limiter_request_seconds_count {sum(self.answered.values())}",
            "# TYPE rate_limiter_keys gauge",
            f"rate_limiter_keys {len(self._buckets)}",
            "# TYPE rate_limiter_uptime_seconds gauge",
            f"rate_limiter_uptime_seconds {self._clock() - self._started:.3f}",
        ]
        return "\n".join(lines) + "\n"


def _json(**values: object) -> str:
    return json.dumps(values) + "\n"


def _stamp(path: Path | None) -> tuple[int, int] | None:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size) if found else None


@dataclass(frozen=True, slots=True)
class Fault:
    """What is broken on purpose in this very process."""

    kind: str = ""
    seconds: float = SLOW_SECONDS

    @classmethod
    def present(cls, path: str | None) -> Fault:
        """The fault in the control file, if it names this process and its time is not over."""
        if not path:
            return cls()
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["pid"] == os.getpid() and time.time_ns() // 1000 < data["until_us"]:
                return cls(str(data["kind"]), float(data.get("seconds", SLOW_SECONDS)))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return cls()


class Server:
    """Speaks enough HTTP/1.1 for the limiter: requests without bodies, kept connections, a graceful end."""

    def __init__(self, limiter: Limiter, *, chaos_file: str | None = None) -> None:
        self._limiter = limiter
        self._chaos_file = chaos_file
        self._ending = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, listening: socket.socket, *, until: asyncio.Event) -> None:
        """Answer on the socket until told to end; then answer what has been accepted, and no more."""
        server = await asyncio.start_server(self._connected, sock=listening, limit=_HEAD_BYTES)
        try:
            await until.wait()
        finally:
            server.close()
            self._ending.set()
            if self._connections:
                await asyncio.wait(self._connections, timeout=_DRAIN_SECONDS + SLOW_SECONDS)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await self._head(reader, first=True)
        while head:
            keep = await self._exchange(head, writer)
            if not keep:
                return
            head = await self._head(reader, first=False)

    async def _head(self, reader: asyncio.StreamReader, *, first: bool) -> bytes:
        """The next request's head; empty when the end has begun and nothing was sent yet."""
        reading = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait((reading, ending), timeout=_IDLE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done() and first and self._ending.is_set():
                await asyncio.wait((reading,), timeout=_DRAIN_SECONDS)
            return reading.result() if reading.done() else b""
        finally:
            reading.cancel()
            ending.cancel()

    async def _exchange(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        line, _, rest = head.decode("latin-1").partition("\r\n")
        words = line.split(" ")
        lowered = rest.lower()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            await self._send(writer, "GET", Answer(400, _json(error="this is not HTTP/1.1")), keep=False)
            return False
        method, target, version = words
        keep = version == "HTTP/1.1" and "connection: close" not in lowered and not self._ending.is_set()
        keep = keep and "content-length:" not in lowered and "transfer-encoding:" not in lowered  # a body is not read
        begun = time.monotonic()
        fault = Fault.present(self._chaos_file)
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        answer = (
            Answer(503, _json(error="the store behind is not available"))
            if fault.kind == "503"
            else self._limiter.answer(method, target)
        )
        keep = keep and not self._ending.is_set()
        await self._send(writer, method, answer, keep=keep)
        self._limiter.note(method, target, answer.status, time.monotonic() - begun)
        return keep

    async def _send(self, writer: asyncio.StreamWriter, method: str, answer: Answer, *, keep: bool) -> None:
        body = answer.body.encode()
        head = [
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}",
            f"Content-Type: {answer.kind}",
            f"Content-Length: {len(body)}",
            f"Connection: {'keep-alive' if keep else 'close'}",
            *(f"{name}: {value}" for name, value in answer.headers),
        ]
        writer.write("\r\n".join([*head, "", ""]).encode("latin-1") + (b"" if method == "HEAD" else body))
        await writer.drain()


def _listening(host: str, port: int, inherited: str) -> socket.socket:
    if inherited:
        listening = socket.socket(fileno=int(inherited.split(",")[0]))
        listening.setblocking(False)
        return listening
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(256)
    listening.setblocking(False)
    return listening


async def _run(listening: socket.socket, config: Path | None) -> None:
    until = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, until.set)
    host, port = listening.getsockname()[:2]
    print(f"INFO rate limiter listens on http://{host}:{port}", flush=True)
    limiter = Limiter(config=config, log=lambda line: print(line, flush=True))
    await Server(limiter, chaos_file=os.environ.get(CHAOS_FILE)).serve(listening, until=until)
    print("INFO rate limiter has ended", flush=True)


def main(*, host: str = "127.0.0.1", port: int = 8001, config: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT; gives the exit code. `config` may be missing: then the defaults hold."""
    try:
        listening = _listening(host, port, os.environ.get(SOCKETS, ""))
    except (OSError, ValueError) as problem:
        print(f"harness: {host}:{port}: cannot listen: {problem}", file=sys.stderr)
        return 1
    asyncio.run(_run(listening, config))
    return 0
