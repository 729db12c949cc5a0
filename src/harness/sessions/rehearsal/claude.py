"""A rehearsed Claude Code: stream-json in both directions, one-shot, and its terminal where `-p` is missing. No model."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from typing import Any, cast

from harness.sessions.rehearsal import claude_lines as lines
from harness.sessions.rehearsal import deeds
from harness.sessions.rehearsal.arguments import Arguments, described
from harness.sessions.rehearsal.claude_lines import Counters, Line, new_uuid
from harness.sessions.rehearsal.flags import BadFlag, Plan, for_turn
from harness.sessions.rehearsal.stage import Journal, Lines, Over, Stage, Turn
from harness.sessions.rehearsal.vendor_store import VendorStore

VALUED = frozenset({
    "--input-format", "--output-format", "--permission-prompt-tool", "--session-id", "--resume", "-r", "--model", "--settings",
    "--permission-mode", "--max-turns", "--max-budget-usd", "--append-system-prompt", "--system-prompt", "--allowedTools",
    "--disallowedTools", "--add-dir", "--mcp-config", "--fallback-model", "--effort", "--json-schema", "--agents", "--name",
    "--append-system-prompt-file", "--permission-prompts", "--setting-sources", "--tools", "--resume-session-at",
})  # fmt: skip


class Message:
    """One message of the user."""

    def __init__(self, id_: str, text: str) -> None:
        self.id = id_
        self.text = text


class Claude:
    """One process of the program in `-p` mode."""

    def __init__(self, arguments: Arguments, journal: Journal) -> None:
        self.plan: Plan = arguments.plan
        self.journal = journal
        self.both_ways = arguments.value("--input-format") == "stream-json"
        self.json = arguments.value("--output-format") == "stream-json"
        self.replays = arguments.has("--replay-user-messages")
        self.asks_host = arguments.value("--permission-prompt-tool") == "stdio"
        self.tells_state = os.environ.get("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS") == "1"
        self.mode = "default" if (given := arguments.value("--permission-mode")) in ("", "manual") else given
        self.resumed = arguments.value("--resume") or arguments.value("-r")
        self.session = self.resumed or arguments.value("--session-id") or new_uuid()
        self.vendor = VendorStore(self.plan.store, self.session)
        self.counters = Counters()
        self.stage = Stage(self._hear, self._input_ended)
        self.lines = Lines()
        self.queue: list[Message] = []
        self.now: list[Message] = []  # that the turn under way answers
        self.waiting: dict[str, Line | None] = {}  # permissions asked for, with their answers
        self.tool_runs = False
        self.ends = not self.both_ways  # after the queue is done
        self.failed = False
        self.results = 0
        self.limited_until = 0.0

    def run(self, prompt: str) -> int:
        """Until its input ends, or the one prompt is answered; gives the exit code."""
        code = self._resume() if self.resumed else self._begin()
        if code is not None:
            return code
        signal.signal(signal.SIGTERM, self._on_signal) if "TERM" not in self.plan.ignores else None
        signal.signal(signal.SIGINT, self._on_signal) if "INT" not in self.plan.ignores else None
        if self.plan.dies_after >= 0:
            self.stage.after(self.plan.dies_after, lambda: deeds.end_silently(self.plan.code, self.journal))
        if not self.both_ways:
            self._take(Message("", prompt), how="prompt")
        return self.stage.run()

    def _begin(self) -> int | None:
        if self.plan.store and not self.vendor.create(self._saved()):
            deeds.complain(f"Error: Session ID {self.session} is already in use.")
            return 1
        return None

    def _resume(self) -> int | None:
        self.journal.note("resumed", session=self.session)
        if self.plan.crashes_on_resume:
            deeds.complain("TypeError: Cannot read properties of undefined (reading 'messages')")
            return 1
        saved = self.vendor.load()
        if saved is None and self.plan.store:
            error = f"No conversation found with session ID: {self.session}"
            self._fail_at_start(error)
            return 1
        self.counters = Counters(**(saved or {}))
        return None

    def _fail_at_start(self, error: str) -> None:
        deeds.complain(error)
        if self.json:
            self.say(lines.result(Counters(), used=(0, 0), index=0, words=error, subtype="error_during_execution"))

    def _saved(self) -> dict[str, int]:
        return dict(self.counters.__dict__)

    def _save(self) -> None:
        if self.plan.store:
            self.vendor.save(self._saved())

    # -- what comes in

    def _hear(self, data: bytes) -> None:
        if not self.both_ways:
            return
        for line in self.lines.feed(data):
            self._line(line)

    def _line(self, line: bytes) -> None:
        try:
            told: Any = json.loads(line)
            kind = told["type"]
        except (ValueError, TypeError, KeyError):
            self.journal.note("garbage", bytes=len(line))
            return
        if kind == "user":
            content = told["message"]["content"]
            words = content if isinstance(content, str) else "".join(block.get("text", "") for block in content)
            self._take(Message(told.get("uuid") or "", words), how="user")
        elif kind == "control_request":
            self._asked(told["request_id"], told["request"])
        elif kind == "control_response":
            self._answered(told["response"])

    def _take(self, message: Message, *, how: str) -> None:
        self.journal.note("message", id=message.id, text=message.text, how=how, busy=self.stage.busy)
        if not self.stage.busy:
            self._state("running")
        self._lifecycle(message, "queued")
        self.queue.append(message)
        self._next()

    def _next(self) -> None:
        """Begin the next turn if there is one and none is under way, end if it is time to."""
        if self.stage.busy:
            return
        if self.queue:
            self.now = [self.queue.pop(0)]
            self.stage.perform(self._turn())
        elif self.ends and not self.plan.lingers:
            raise Over(int(self.failed))

    def _input_ended(self) -> None:
        self.journal.note("input-ended")
        self.ends = True
        self._next()

    def _on_signal(self, number: int, _frame: object) -> None:
        self.journal.note("signal", signal=number)
        if number == signal.SIGINT:
            if self.stage.busy:
                self._cut("aborted_tools" if self.tool_runs else "aborted_streaming")
            raise Over(0)
        raise Over(143)

    # -- the control channel

    def _asked(self, request_id: str, request: Line) -> None:
        match request.get("subtype"):
            case "initialize":
                open_requests = [{"request_id": each} for each, answer in self.waiting.items() if answer is None]
                answer: Line = {
                    "commands": [], "models": [], "account": {}, "pid": os.getpid(), "output_style": "default",
                    "pending_permission_requests": open_requests,
                }  # fmt: skip
            case "interrupt":
                self.journal.note("interrupt", busy=self.stage.busy)
                self.say(lines.control_answer(request_id, {"still_queued": [message.id for message in self.queue]}))
                if self.stage.busy:
                    self._cut("aborted_tools" if self.tool_runs else "aborted_streaming")
                return
            case "cancel_async_message":
                answer = {"cancelled": self._unqueue(str(request.get("message_uuid")))}
            case "get_context_usage":
                answer = {"categories": [], "totalTokens": self.counters.input_tokens, "maxTokens": 200_000, "percentage": 1}
            case "set_permission_mode":
                self.mode = str(request.get("mode"))
                answer = {"mode": self.mode}
            case "set_model" | "get_session_cost" | "get_usage" | "mcp_status" | "rename_session" | "list_models":
                answer = {}
            case other:
                self.say(lines.control_error(request_id, f"Unsupported control request subtype: {other}"))
                return
        self.say(lines.control_answer(request_id, answer))

    def _unqueue(self, message_id: str) -> bool:
        for message in self.queue:
            if message.id == message_id:
                self.queue.remove(message)
                self._lifecycle(message, "cancelled")
                return True
        return False

    def _answered(self, response: Line) -> None:
        request_id = str(response.get("request_id"))
        if self.waiting.get(request_id, response) is not None:
            return  # nobody asked, or it is answered
        answer = cast("Line", response.get("response") or {"behavior": "deny", "message": str(response.get("error"))})
        self.journal.note("decision", request=request_id, behavior=answer.get("behavior"), message=answer.get("message", ""))
        self.say(lines.control_answer(request_id, answer))
        self.waiting[request_id] = answer
        self.stage.wake()

    # -- turns

    def _turn(self) -> Turn:
        self.counters.turns += 1
        self._save()
        began, message = time.monotonic(), self.now[0]
        try:
            plan = for_turn(self.plan, self.counters.turns, message.text)
        except BadFlag as error:
            plan = self.plan.harmless
            plan.answer = str(error)
        self._lifecycle(message, "started")
        self.say(lines.init(self.mode))
        if self.replays and message.id:
            self.say(lines.replayed(message.id, message.text))
        yield plan.work
        for attempt in range(1, plan.retries + 1):
            self.say(lines.api_retry(attempt, max(10, plan.retries), plan.retry_delay))
            yield plan.retry_delay
        yield from self._tools(plan)
        deeds.disturb(plan, self.journal)
        yield from deeds.trouble(plan, self.journal, lambda: self.say({"type": "keep_alive"}))
        self._merge()
        if plan.limit > 0:
            self.limited_until = math.ceil(time.time() + plan.limit)
        if self.limited_until > time.time():
            self._limited()
        else:
            self._finish(plan, began)
        if plan.exit >= 0:
            raise Over(plan.exit)
        self.stage.after(0, self._next)

    def _tools(self, plan: Plan) -> Turn:
        if plan.tool > 0:
            yield from self._tool("Bash", {"command": f"sleep {plan.tool:g}"}, plan.tool, plan.heartbeat)
        if plan.asks:
            yield from self._permission(plan)
        number = 0
        while plan.repeats == 0 or number < plan.repeats:
            number += 1
            yield from self._tool("Bash", {"command": "make test"}, plan.pause, 0)

    def _tool(self, name: str, arguments: Line, seconds: float, heartbeat: float) -> Turn:
        use = f"toolu_{os.urandom(8).hex()}"
        self.say(lines.assistant(lines.tool_use(use, name, arguments), self._ids()))
        began, self.tool_runs = time.monotonic(), True
        while (left := began + seconds - time.monotonic()) > 0:
            yield min(left, heartbeat) if heartbeat > 0 else left
            if heartbeat > 0:
                self.say(lines.tool_progress(use, name, time.monotonic() - began))
        self.tool_runs = False
        self.say(lines.tool_result(use, "(Bash completed with no output)"))
        self._merge()

    def _permission(self, plan: Plan) -> Turn:
        use, request, arguments = f"toolu_{os.urandom(8).hex()}", new_uuid(), {"command": "touch rehearsed"}
        self.say(lines.assistant(lines.tool_use(use, plan.asks, arguments), self._ids()))
        answer: Line = {"behavior": "deny", "message": "permission prompts are not answered here"}
        if self.asks_host:
            self.waiting[request] = None
            self._state("requires_action")
            self.say(lines.can_use_tool(request, plan.asks, arguments, use))
            yield plan.withdraws or None
            while self.waiting[request] is None and not plan.withdraws:
                yield None
            answer = self.waiting.pop(request) or {"behavior": "deny", "message": "withdrawn", "withdrawn": True}
            if answer.get("withdrawn"):
                self.say({"type": "control_cancel_request", "request_id": request})
            self._state("running")
        allowed = answer.get("behavior") == "allow"
        self.say(lines.tool_result(use, "done" if allowed else str(answer.get("message")), is_error=not allowed))
        if answer.get("interrupt"):
            self.stage.after(0, lambda: self._cut("aborted_tools"))
            yield None

    def _merge(self) -> None:
        """Messages that came meanwhile join the turn under way."""
        while self.queue:
            message = self.queue.pop(0)
            self.now.append(message)
            self._lifecycle(message, "started")
            if self.replays:
                self.say(lines.replayed(message.id, message.text))

    def _limited(self) -> None:
        words = "You've hit your limit · resets " + time.strftime("%H:%M", time.localtime(self.limited_until))
        self.say(lines.rate_limit(int(self.limited_until)))
        self.say(lines.assistant(lines.text(words), error="rate_limit"))
        self.say(self._result(words=words, reason="blocking_limit", is_error=True))
        self._over("cancelled", failed=True)

    def _finish(self, plan: Plan, began: float) -> None:
        used = plan.tokens
        self.counters.input_tokens += used[0]
        self.counters.output_tokens += used[1]
        words = plan.answer or "echo: " + "\n".join(message.text for message in self.now)
        self.say(lines.assistant(lines.text(words), self._ids()))
        self._save()
        self.say(self._result(words=words, used=used, milliseconds=round((time.monotonic() - began) * 1000)))
        if not self.json:
            print(words, flush=True)
        self._over("completed", failed=False)

    def _cut(self, reason: str) -> None:
        """End the turn under way as an interrupt does."""
        self.stage.cut()
        self.tool_runs = False
        for request in [request for request, answer in self.waiting.items() if answer is None]:
            del self.waiting[request]
            self.say({"type": "control_cancel_request", "request_id": request})
        self.say(lines.interrupted())
        self.say(self._result(subtype="error_during_execution", words="Request was aborted.", reason=reason))
        self._over("cancelled", failed=True)
        self.stage.after(0, self._next)

    def _result(self, *, used: tuple[int, int] = (0, 0), **told: Any) -> Line:
        self.journal.note("turn-over", messages=self._ids(), reason=told.get("reason", "completed"))
        self.results += 1
        ids = self._ids()
        return lines.result(self.counters, used=used, index=self.results - 1, message_ids=ids, queued=len(self.queue), **told)

    def _over(self, stage: str, *, failed: bool) -> None:
        self.failed = failed
        for message in self.now:
            self._lifecycle(message, stage)
        self.now = []
        if not self.queue:
            self._state("idle")

    def _ids(self) -> list[str]:
        """Of the messages that the turn under way answers, as far as they have one."""
        return [message.id for message in self.now if message.id]

    # -- what goes out

    def _lifecycle(self, message: Message, name: str) -> None:
        if message.id:
            self.say(lines.lifecycle(message.id, name))

    def _state(self, name: str) -> None:
        if self.tells_state:
            self.say(lines.state(name))

    def say(self, line: Line) -> None:
        """One line on stdout, with the envelope."""
        if self.json:
            full = {**line, "uuid": line.get("uuid") or new_uuid(), "session_id": self.session}
            if line["type"].startswith("control_"):
                full = line
            deeds.write(1, json.dumps(full, ensure_ascii=False).encode() + b"\n")


def main(argv: list[str]) -> int:
    """Run the program; gives its exit code."""
    try:
        arguments = Arguments(argv, valued=VALUED)
    except BadFlag as error:
        deeds.complain(f"error: {error}")
        return 2
    if arguments.has("--help") or arguments.has("-h"):
        print(described("claude"))
        return 0
    if arguments.has("--version") or arguments.has("-v"):
        print(f"{lines.VERSION} (Claude Code)")
        return 0
    if not (arguments.has("-p") or arguments.has("--print")):
        from harness.sessions.rehearsal import terminal

        return terminal.perform(arguments, like="claude")
    journal = Journal(arguments.plan.journal)
    deeds.begin(arguments.plan, journal, argv)
    code = Claude(arguments, journal).run(" ".join(arguments.words))
    journal.note("end", code=code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
