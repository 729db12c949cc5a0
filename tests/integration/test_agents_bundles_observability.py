"""The observability tools on real files, and on a server that speaks the interfaces of Prometheus and Loki."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from harness import Kernel, MemoryStore, StepFailed, StepRejected, TenantContext, ToolRejected, UsageError
from harness.agents.bundles.observability import LOGS, METRICS
from harness.errors import CapabilityDenied
from harness.tools import ObservabilityTools

TENANT = TenantContext(tenant_id="watcher", capabilities=frozenset({LOGS, METRICS}))

METRICS_TEXT = """\
# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{method="post",code="200"} 1027 1395066363000
http_requests_total{method="a \\"b\\" {c}"} 3
up 1
size_bytes{le="+Inf"} NaN
garbage here and there
"""


class Server(ThreadingHTTPServer):
    """Answers as told, and keeps what it was asked."""

    asked: list[tuple[str, dict[str, list[str]], dict[str, str]]]
    status: int
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.asked.append((parts.path, parse_qs(parts.query), dict(self.headers)))
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), _Handler)
    server.asked, server.status = [], 200
    server.body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}}).encode()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
async def kernel(tmp_path: Path, server: Server) -> AsyncIterator[Kernel]:
    address = f"http://127.0.0.1:{server.server_port}"
    (tmp_path / "box").mkdir()
    tools = ObservabilityTools(
        root=tmp_path / "box", prometheus_url=address, loki_url=f"{address}/", headers={"X-Scope-OrgID": "one"}
    )
    async with Kernel(store=MemoryStore(), tool_port=tools) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")
        yield kernel


async def use(kernel: Kernel, tool: str, tenant: TenantContext = TENANT, /, **arguments: Any) -> Any:
    done = await kernel.step_tool(run_id="r", tenant=tenant, tool_name=tool, arguments=arguments)
    return json.loads(done.result_json)


async def test_the_last_matching_lines_of_a_log_are_shown(kernel: Kernel, tmp_path: Path) -> None:
    """Oldest first, and garbage bytes are no reason to stop."""
    (tmp_path / "box" / "a.log").write_bytes(b"".join(b"%d %s\n" % (n, b"bad \xff" if n % 2 else b"ok") for n in range(100)))

    told = await use(kernel, "query_logs", file="a.log", limit=2, contains="bad")

    assert told == {"lines": ["97 bad \ufffd", "99 bad \ufffd"], "matching": 50, "total": 100}


async def test_metrics_are_read_from_the_text_format(kernel: Kernel, tmp_path: Path) -> None:
    """Labels with quotes and braces, time stamps, NaN; what is no sample is counted."""
    (tmp_path / "box" / "m.prom").write_text(METRICS_TEXT)

    told = await use(kernel, "query_metrics", file="m.prom")
    one = await use(kernel, "query_metrics", file="m.prom", name="up")

    assert [sample["value"] for sample in told["samples"]] == [1027, 3, 1, "NaN"]
    assert told["samples"][0]["labels"] == {"method": "post", "code": "200"}
    assert told["samples"][1]["labels"] == {"method": 'a "b" {c}'}
    assert told["unreadable_lines"] == 1
    assert [sample["name"] for sample in one["samples"]] == ["up"]


async def test_prometheus_is_asked_now_and_over_time(kernel: Kernel, server: Server) -> None:
    """The addresses and parameters of its HTTP interface, with the headers that were given."""
    now = await use(kernel, "query_prometheus", query="up == 0")
    await use(kernel, "query_prometheus", query="up", start="1", end="2", step_seconds=5)

    assert now == {"resultType": "vector", "result": []}
    assert server.asked[0][:2] == ("/api/v1/query", {"query": ["up == 0"]})
    assert server.asked[0][2]["X-Scope-OrgID"] == "one"
    assert server.asked[1][:2] == ("/api/v1/query_range", {"query": ["up"], "start": ["1"], "end": ["2"], "step": ["5"]})


async def test_loki_is_asked_for_lines(kernel: Kernel, server: Server) -> None:
    """The newest so many lines of a range."""
    await use(kernel, "query_loki", query='{app="x"}', limit=5)

    assert server.asked[0][:2] == ("/loki/api/v1/query_range", {"query": ['{app="x"}'], "limit": ["5"]})


async def test_a_bad_query_is_a_rejection_with_the_servers_reason(kernel: Kernel, server: Server) -> None:
    """The model reads why, and asks better."""
    server.status = 400
    server.body = json.dumps({"status": "error", "errorType": "bad_data", "error": "parse error: unexpected )"}).encode()

    with pytest.raises(ToolRejected, match="parse error: unexpected"):
        await use(kernel, "query_prometheus", query=")")


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>", "no JSON"), (200, b"[]", "no JSON object"), (503, b'{"status":"error","error":"down"}', "503: down"),
        (302, b"{}", "answered 302"), (200, b'{"status":"error"}', "answered 200"),
    ],
)  # fmt: skip
async def test_a_server_that_answers_badly_fails_the_step(
    kernel: Kernel, server: Server, status: int, body: bytes, words: str
) -> None:
    """Garbage, an error, a redirect: a failure in one line, and no other address is asked."""
    server.status, server.body = status, body

    with pytest.raises(StepFailed, match=words):
        await use(kernel, "query_prometheus", query="up")


async def test_a_server_that_is_away_fails_the_step(tmp_path: Path) -> None:
    """Nobody listens there."""
    tools = ObservabilityTools(root=tmp_path, prometheus_url="http://127.0.0.1:9")
    async with Kernel(store=MemoryStore(), tool_port=tools) as kernel:
        await kernel.start_run(tenant=TENANT, run_id="r")

        with pytest.raises(StepFailed, match=r"127\.0\.0\.1:9 cannot be asked: ConnectError"):
            await use(kernel, "query_prometheus", query="up")


async def test_an_answer_that_does_not_end_is_cut_off(kernel: Kernel, server: Server) -> None:
    """Nine megabytes are more than anybody wants to read."""
    server.body = b" " * (9 << 20)

    with pytest.raises(ToolRejected, match="ask for less"):
        await use(kernel, "query_loki", query="x")


@pytest.mark.parametrize("file", ["../secret", "/etc/passwd", "x\0", "link"])
async def test_no_file_outside_is_read(kernel: Kernel, tmp_path: Path, file: str) -> None:
    """The same paths as everywhere."""
    (tmp_path / "secret").write_text("do not show")
    (tmp_path / "box" / "link").symlink_to("../secret")

    with pytest.raises(StepRejected):
        await use(kernel, "query_logs", file=file)


async def test_limits_and_capabilities_are_kept(kernel: Kernel) -> None:
    """Each tool needs its own capability; limits have bounds; half a range is none."""
    blind = TenantContext(tenant_id="watcher", capabilities=frozenset({METRICS}))

    with pytest.raises(CapabilityDenied):
        await use(kernel, "query_logs", blind, file="x")
    with pytest.raises(ToolRejected, match="1 to 1000"):
        await use(kernel, "query_logs", file="x", limit=0)
    with pytest.raises(ToolRejected, match="both start and end"):
        await use(kernel, "query_prometheus", query="x", start="1")


def test_servers_are_tools_only_when_they_are_configured(tmp_path: Path) -> None:
    """Nothing is offered that cannot work; an address that is none is refused."""
    assert sorted(tool.name for tool in ObservabilityTools(root=tmp_path).registry()) == ["query_logs", "query_metrics"]
    with pytest.raises(UsageError, match="loki_url"):
        ObservabilityTools(root=tmp_path, loki_url="localhost:3100")
