"""Tools for an agent that looks at a system: log files and metric files below one directory, Prometheus and Loki.

Reads only. Files are read from their end, so that a log of any size costs what is shown. Servers are asked over their
HTTP interfaces, at the addresses the bundle was made with and at no other: no redirects, no proxies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from harness.agents.bundles.arguments import RootedPath
from harness.agents.bundles.rooted import Rooted
from harness.errors import ToolRejected, UsageError
from harness.kernel import ToolRegistry

if TYPE_CHECKING:
    from httpx import AsyncClient

LOGS = "observability:logs"
METRICS = "observability:metrics"

_MAX_LINES = 1_000
_MAX_FILE_BYTES = 64 << 20
_MAX_LINE_CHARACTERS = 4_000
_MAX_SAMPLES = 2_000
_MAX_ANSWER_BYTES = 8 << 20

# name{labels} value [timestamp]: the Prometheus text format 0.0.4
_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(\{.*\})?\s+(\S+)(?:\s+-?\d+)?\s*$")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')


class ObservabilityTools:
    """A tool port for agents that look at logs and metrics below `root`.

    With `prometheus_url` or `loki_url` their queries are tools too; `headers` go with each, for an authorization.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        prometheus_url: str | None = None,
        loki_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 30,
    ) -> None:
        self.root = Rooted(root)
        self._prometheus = _address("prometheus_url", prometheus_url)
        self._loki = _address("loki_url", loki_url)
        self._headers = dict(headers or {})
        self._timeout = timeout_seconds
        self._registry = self._registered()

    def registry(self) -> ToolRegistry:
        """The tools."""
        return self._registry

    def _registered(self) -> ToolRegistry:
        tools = ToolRegistry()
        tools.tool(self.query_logs, requires_capability=LOGS, risk_level="low")
        tools.tool(self.query_metrics, requires_capability=METRICS, risk_level="low")
        if self._prometheus:
            tools.tool(self.query_prometheus, requires_capability=METRICS, risk_level="low")
        if self._loki:
            tools.tool(self.query_loki, requires_capability=LOGS, risk_level="low")
        return tools

    # Files

    def query_logs(self, file: RootedPath, limit: int = 100, contains: str = "") -> dict[str, Any]:
        """The last `limit` lines of a log file, the oldest first; with `contains` only lines that contain the text."""
        if not 1 <= limit <= _MAX_LINES:
            raise ToolRejected(f"limit is 1 to {_MAX_LINES}, not {limit}")
        lines = self._text(file).splitlines()
        found = [line[:_MAX_LINE_CHARACTERS] for line in lines if contains in line]
        return {"lines": found[-limit:], "matching": len(found), "total": len(lines)}

    def query_metrics(self, file: RootedPath, name: str = "") -> dict[str, Any]:
        """The samples of a metrics file in the Prometheus text format; with `name` only those of this metric."""
        samples: list[dict[str, Any]] = []
        unreadable = 0
        for line in self._text(file).splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            sample = _sample(line)
            if sample is None:
                unreadable += 1
            elif not name or sample["name"] == name:
                samples.append(sample)
        return {"samples": samples[:_MAX_SAMPLES], "matching": len(samples), "unreadable_lines": unreadable}

    def _text(self, file: str) -> str:
        try:
            return self.root.read_end(file, max_bytes=_MAX_FILE_BYTES).decode("utf-8", "replace")
        except ValueError as error:
            raise ToolRejected(f"{file}: {error}") from error
        except OSError as error:
            raise ToolRejected(f"{file}: {(error.strerror or str(error)).lower()}") from error

    # Servers

    async def query_prometheus(self, query: str, start: str = "", end: str = "", step_seconds: int = 60) -> dict[str, Any]:
        """Ask Prometheus: a PromQL query now, or over time with `start` and `end` (RFC 3339 or Unix seconds)."""
        if bool(start) != bool(end):
            raise ToolRejected("a query over time needs both start and end")
        asked: dict[str, str] = {"query": query}
        if not start:
            return await self._ask(self._prometheus, "/api/v1/query", asked)
        return await self._ask(
            self._prometheus, "/api/v1/query_range", {**asked, "start": start, "end": end, "step": str(step_seconds)}
        )

    async def query_loki(self, query: str, limit: int = 100, start: str = "", end: str = "") -> dict[str, Any]:
        """Ask Loki: a LogQL query, the newest `limit` lines between `start` and `end` (RFC 3339 or Unix nanoseconds)."""
        if not 1 <= limit <= _MAX_LINES:
            raise ToolRejected(f"limit is 1 to {_MAX_LINES}, not {limit}")
        asked = {"query": query, "limit": str(limit)} | {k: v for k, v in (("start", start), ("end", end)) if v}
        return await self._ask(self._loki, "/loki/api/v1/query_range", asked)

    async def _ask(self, address: str, path: str, asked: Mapping[str, str]) -> dict[str, Any]:
        import httpx

        try:
            async with self._client() as client, client.stream("GET", f"{address}{path}", params=dict(asked)) as answer:
                body = bytearray()
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > _MAX_ANSWER_BYTES:
                        raise ToolRejected(f"the answer is over {_MAX_ANSWER_BYTES} bytes; ask for less")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RuntimeError(f"{address} cannot be asked: {type(error).__name__}: {error}") from error
        return _answer(address, answer.status_code, bytes(body))

    def _client(self) -> AsyncClient:
        from httpx import AsyncClient

        return AsyncClient(timeout=self._timeout, follow_redirects=False, trust_env=False, headers=self._headers)


def _address(name: str, url: str | None) -> str:
    if url is None:
        return ""
    if not re.match(r"https?://[^/\s]+", url):
        raise UsageError(f"{name} is an address that begins with http:// or https://, not {url!r}")
    return url.rstrip("/")


def _answer(address: str, status: int, body: bytes) -> dict[str, Any]:
    """The data of an answer. Prometheus and Loki both answer with `status`, `data`, `errorType` and `error`."""
    import json

    try:
        told = json.loads(body)
    except ValueError:
        raise RuntimeError(f"{address} answered {status} with what is no JSON: {body[:100]!r}") from None
    if not isinstance(told, dict):
        raise RuntimeError(f"{address} answered {status} with what is no JSON object")
    answer = cast("dict[str, Any]", told)
    if status == 400 or answer.get("errorType") == "bad_data":
        raise ToolRejected(f"the query is refused: {answer.get('error', body[:200])}")
    if status != 200 or answer.get("status") != "success":
        raise RuntimeError(f"{address} answered {status}: {answer.get('error', '')}")
    data = answer.get("data")
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {"data": data}


def _sample(line: str) -> dict[str, Any] | None:
    """One line of the text format; None if it is none."""
    match = _SAMPLE.match(line)
    if match is None:
        return None
    try:
        value = float(match[3])
    except ValueError:
        return None
    labels = {name: _plain(text) for name, text in _LABEL.findall(match[2] or "")}
    finite = value == value and abs(value) != float("inf")  # JSON has no NaN and no infinity
    return {"name": match[1], "labels": labels, "value": value if finite else match[3]}


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), text)
