"""The server: its life, its face for tests, and the way of a request to its protocol, its turn and its record."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import HarnessError
from harness.sessions.mock_model.answering import Answer, answer_to
from harness.sessions.mock_model.anthropic import ANTHROPIC
from harness.sessions.mock_model.aside import answered_aside
from harness.sessions.mock_model.asking import Asked, Malformed
from harness.sessions.mock_model.chat import CHAT
from harness.sessions.mock_model.choosing import Choice
from harness.sessions.mock_model.control import PREFIX, administered
from harness.sessions.mock_model.http import BadRequest, Client, Gone, Request
from harness.sessions.mock_model.playing import Played, encoded, json_headers
from harness.sessions.mock_model.recording import Received, kept_body, shown_headers, shown_path
from harness.sessions.mock_model.responses import RESPONSES
from harness.sessions.mock_model.script import Failure, Script, Turn, make_script
from harness.sessions.mock_model.stage import Stage
from harness.text import clipped

LOOPBACK = "127.0.0.1"
MAX_CLIENTS = 1_000
_PAUSE_SECONDS = 0.5  # without new clients when no descriptor is free

_WIRES = {"/messages": ANTHROPIC, "/responses": RESPONSES, "/chat/completions": CHAT}
_SCENARIO = re.compile(r"/s/([A-Za-z0-9][A-Za-z0-9._-]{0,79})(/.*)?")


class MockModel:
    """A scripted model API. Use it as a context manager, which serves from a thread of its own, or await `serve`.

    `script` is a `Script` or plain data. It binds loopback unless told otherwise; port 0 lets the system choose.
    """

    def __init__(
        self,
        script: Script | Mapping[str, object] | None = None,
        *,
        host: str = LOOPBACK,
        port: int = 0,
        log: Path | None = None,
    ) -> None:
        self._stage = Stage(script if isinstance(script, Script) else make_script(script or {}), log)
        self._host = host
        self._port = port
        self._socket: socket.socket | None = None
        self._clients: dict[asyncio.Task[None], socket.socket] = {}
        self._thread: threading.Thread | None = None
        self._halt: Callable[[], None] = lambda: None
        self.told: Callable[[Received], None] = lambda _: None  # called after each request

    # -- for tests and people in this process

    @property
    def url(self) -> str:
        """Where it listens: the base of Anthropic's SDK; OpenAI's wants `/v1` after it."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    def base(self, scenario: str) -> str:
        """The same for one scenario, which goes its own way through the script."""
        return f"{self.url}/s/{scenario}"

    @property
    def requests(self) -> list[Received]:
        """What has been asked so far, the oldest first."""
        return self._stage.records.all()

    def load(self, script: Script | Mapping[str, object]) -> None:
        """Replace the script; everything begins anew."""
        self._stage.load(script if isinstance(script, Script) else make_script(script))

    def reset(self) -> None:
        """Begin the script anew, forget the requests, close the gates."""
        self._stage.reset()

    def release(self, gate: str) -> int:
        """Open a gate; gives how many answers waited there."""
        return self._stage.gates.release(gate)

    def held(self) -> dict[str, int]:
        """How many answers wait now, by gate."""
        return self._stage.gates.held()

    def wait_held(self, gate: str, *, count: int = 1, timeout_seconds: float = 30.0) -> None:
        """Wait until so many answers are held at a gate. Raises `TimeoutError`."""
        self.wait_for(
            lambda: self.held().get(gate, 0) >= count, what=f"{count} held at {gate!r}", timeout_seconds=timeout_seconds
        )

    def wait_requests(self, count: int, *, timeout_seconds: float = 30.0) -> list[Received]:
        """Wait until so many requests have used a turn; gives those. Raises `TimeoutError`."""

        def main() -> list[Received]:
            return [request for request in self.requests if request.main]

        self.wait_for(lambda: len(main()) >= count, what=f"{count} requests", timeout_seconds=timeout_seconds)
        return main()

    def wait_for(self, condition: Callable[[], bool], *, what: str = "it", timeout_seconds: float = 30.0) -> None:
        """Wait until something about the requests or gates is so; looked at after each change. Raises `TimeoutError`."""
        with self._stage.changed:
            if not self._stage.changed.wait_for(condition, timeout_seconds):
                turns = [request.turn or request.path for request in self._stage.records.all()]
                raise TimeoutError(f"waited {timeout_seconds:g} s for {what}; held: {self.held()}, asked: {turns[-20:]}")

    # -- its life

    def __enter__(self) -> MockModel:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve from a thread; it listens when this returns."""
        assert self._thread is None, "it is started once"
        self._bind()
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(ready.set)), name="mock-model", daemon=True)
        self._thread.start()
        if not ready.wait(30):
            raise HarnessError("the scripted model did not start within 30 s")

    def stop(self) -> None:
        """End every connection and the thread."""
        self._halt()
        if self._thread is not None:
            self._thread.join(30)
            self._thread = None

    async def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled, or until `stop`; calls `ready` when it listens."""
        listening = self._bind()
        loop = asyncio.get_running_loop()
        halted = asyncio.Event()
        loop.add_reader(listening, self._accept, listening)
        self._halt = lambda: _call_in(loop, halted.set)
        try:
            ready()
            await halted.wait()
        finally:
            loop.remove_reader(listening)
            listening.close()
            for task in self._clients:
                task.cancel()
            await asyncio.gather(*self._clients, return_exceptions=True)
            self._stage.records.close()

    def _bind(self) -> socket.socket:
        if self._socket is None:
            try:
                found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
                self._socket = socket.create_server(found[0][4][:2], family=found[0][0], backlog=128)
                self._socket.setblocking(False)
            except OSError as problem:
                self._stage.records.close()
                reason = str(problem.strerror or problem).partition(" (while")[0]
                raise HarnessError(f"{self.url} cannot be listened on: {reason}") from problem
            self._port = int(self._socket.getsockname()[1])
        return self._socket

    # -- one connection

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection, _ = listening.accept()
        except (BlockingIOError, ConnectionError):  # it left before we came
            return
        except OSError:  # no descriptor is free: look again when some client may have left
            loop.remove_reader(listening)
            loop.call_later(_PAUSE_SECONDS, self._accept_again, listening)
            return
        if len(self._clients) >= MAX_CLIENTS:
            connection.close()
            return
        task = loop.create_task(self._attend(connection))
        self._clients[task] = connection
        task.add_done_callback(self._parted)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _parted(self, task: asyncio.Task[None]) -> None:
        self._clients.pop(task).close()
        problem = None if task.cancelled() else task.exception()
        if problem is not None:
            context = {"message": "the scripted model failed to answer", "exception": problem}
            asyncio.get_running_loop().call_exception_handler(context)

    async def _attend(self, connection: socket.socket) -> None:
        """Answer one client's requests until it leaves."""
        client = await Client.attend(connection)
        try:
            await self._converse(client)
        finally:
            client.cut()

    async def _converse(self, client: Client) -> None:
        try:
            while (request := await client.read()) is not None:
                await self._answer(client, request)
                if not request.keep_alive:
                    break
        except BadRequest as problem:
            body = {"type": "error", "error": {"type": "invalid_request_error", "message": str(problem)}}
            with suppress(Gone):
                await client.send(problem.status, encoded(body), json_headers({"connection": "close"}))
        except Gone:
            return
        await client.close()

    async def _answer(self, client: Client, request: Request) -> None:
        if request.path.startswith(PREFIX):
            status, body = administered(self._stage, request, bound_to=self._host)
            await client.send(status, body, json_headers())
            return
        matched = _SCENARIO.fullmatch(request.path)
        scenario, path = (matched[1], matched[2] or "/") if matched else ("", request.path)
        wire = next((wire for end, wire in _WIRES.items() if path.endswith(end)), None) if request.method == "POST" else None
        if wire is None:
            await self._answer_aside(client, request, scenario, path)
            return
        try:
            asked = wire.read(request.body)
        except Malformed as problem:
            received = self._received(request, scenario, wire.name)
            failure = Failure(status=400, message=str(problem))
            with self._recorded(received, "malformed") as finish:
                finish()
                await client.send(400, encoded(wire.refusal(failure)), json_headers())
            return
        choice = self._stage.choose(scenario, asked)
        answer = answer_to(choice.turn, asked)
        received = _with_answer(self._received(request, scenario, wire.name), asked, choice, answer)
        with self._recorded(received, _outcome(choice.turn)) as finish:
            turn, chunked = choice.turn, not request.old
            played = Played(client=client, wire=wire, turn=turn, asked=asked, answer=answer, chunked=chunked, finish=finish)
            await played.play(self._stage.gates)

    async def _answer_aside(self, client: Client, request: Request, scenario: str, path: str) -> None:
        """What programs ask beside talking to a model; harmless answers."""
        protocol, status, body = answered_aside(request, path)
        outcome = "answered" if status == 200 else f"error {status}"
        with self._recorded(self._received(request, scenario, protocol), outcome) as finish:
            finish()
            await client.send(status, encoded(body), json_headers(), head_only=request.method == "HEAD")

    def _received(self, request: Request, scenario: str, protocol: str) -> Received:
        return Received(
            number=self._stage.records.next_number(),
            at=round(time.time(), 3),
            scenario=scenario,
            protocol=protocol,
            method=request.method,
            path=shown_path(request.path, request.parameters),
            headers=shown_headers(request.headers),
            raw_body=kept_body(request.body),
        )

    @contextmanager
    def _recorded(self, received: Received, outcome: str) -> Generator[Callable[[], None]]:
        """Keep the request from now on; what became of it is said once, by the function that this gives or in the end."""

        def finish(how: str = outcome) -> None:
            if not received.outcome:
                self._stage.records.finish(received, how)
                self.told(received)

        self._stage.records.add(received)
        try:
            yield finish
        except Gone:
            finish("client left")
            raise
        except asyncio.CancelledError:
            finish("stopped")
            raise
        finally:
            finish()


def _with_answer(received: Received, asked: Asked, choice: Choice, answer: Answer) -> Received:
    received.model = asked.model
    received.stream = asked.stream
    received.tools = list(asked.tools)
    received.side = choice.side
    received.turn = choice.label
    received.prompt = clipped(asked.prompt, 2000)
    calls = [{"name": call.name, "input": call.arguments} for call in answer.calls]
    received.answer = {"text": answer.text, "calls": calls}
    return received


def _outcome(turn: Turn) -> str:
    if turn.disconnect is not None:
        return f"disconnected {turn.disconnect}"
    return "answered" if turn.failure is None else f"error {turn.failure.status}"


def _call_in(loop: asyncio.AbstractEventLoop, action: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(action)
