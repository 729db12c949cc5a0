"""A rehearsed Codex: `app-server`, `exec --json`, and its terminal where neither is asked for. No model."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from typing import Any

from harness.sessions.rehearsal import codex_lines as lines
from harness.sessions.rehearsal import deeds
from harness.sessions.rehearsal.arguments import Arguments, described
from harness.sessions.rehearsal.codex_lines import Line, new_id
from harness.sessions.rehearsal.flags import BadFlag, Plan, for_turn
from harness.sessions.rehearsal.stage import Journal, Lines, Over, Stage, Turn
from harness.sessions.rehearsal.vendor_store import VendorStore

VALUED = frozenset({
    "-c", "--config", "-m", "--model", "-s", "--sandbox", "-C", "--cd", "-o", "--output-last-message", "--output-schema",
    "--listen", "-p", "--profile", "-a", "--ask-for-approval", "-i", "--image", "--add-dir", "--enable", "--disable", "--color",
})  # fmt: skip


class Refused(Exception):
    """A request that cannot be done; the text is the answer."""


class Codex:
    """One app-server with at most one thread."""

    def __init__(self, plan: Plan, journal: Journal) -> None:
        self.plan = plan
        self.journal = journal
        self.stage = Stage(self._hear, self._input_ended)
        self.lines = Lines()
        self.thread = ""
        self.announced = True
        self.preview = ""
        self.vendor = VendorStore("", "")
        self.used = (0, 0)
        self.turns = 0
        self.turn = ""  # under way
        self.text = ""
        self.began_ms = 0
        self.interrupting = False
        self.requests = 0
        self.waiting: dict[int, Line | None] = {}
        self.ends = False
        self.limited_until = 0.0

    def run(self) -> int:
        """Until its input ends; gives the exit code."""
        if "INT" not in self.plan.ignores:
            signal.signal(signal.SIGINT, self._on_interrupt)
        if self.plan.dies_after >= 0:
            self.stage.after(self.plan.dies_after, lambda: deeds.end_silently(self.plan.code, self.journal))
        return self.stage.run()

    def _on_interrupt(self, number: int, _frame: object) -> None:
        self.journal.note("signal", signal=number)
        raise Over(1)

    # -- what comes in

    def _hear(self, data: bytes) -> None:
        for line in self.lines.feed(data):
            self._line(line)

    def _line(self, line: bytes) -> None:
        try:
            told: Any = json.loads(line)
            method, request_id = told.get("method"), told.get("id")
        except (ValueError, AttributeError):
            self.journal.note("garbage", bytes=len(line))
            return
        if method is None:
            self._answered(told)
        elif request_id is not None:
            try:
                result = self._asked(str(method), told.get("params") or {})
            except Refused as refused:
                self.say(lines.error_reply(request_id, str(refused)))
                return
            self.say({"id": request_id, "result": result})
            if str(method) == "turn/start" and not self.stage.busy:
                self.stage.perform(self._turn())
            if self.interrupting:
                self._interrupted()

    def _asked(self, method: str, params: Line) -> Line:
        match method:
            case "initialize":
                client: Line = params.get("clientInfo") or {}
                name = client.get("name", "unknown")
                agent = f"{name}/{lines.VERSION} (rehearsal)"
                return {"userAgent": agent, "codexHome": "", "platformFamily": "unix", "platformOs": sys.platform}
            case "thread/start":
                self.thread, self.announced = new_id(), False
                self.vendor = VendorStore(self.plan.store, self.thread)
                self.vendor.create(self._saved())
                return lines.opened(lines.thread(self.thread, "", "idle"))
            case "thread/resume":
                return self._resumed(str(params.get("threadId")))
            case "thread/read" | "thread/turns/list" | "thread/items/list":
                self._must_know(params)
                status = "active" if self.turn else "idle"
                return {"thread": lines.thread(self.thread, self.preview, status), "data": [], "nextCursor": None}
            case "thread/loaded/list":
                return {"data": [self.thread] if self.thread else [], "nextCursor": None}
            case "turn/start":
                self._must_know(params)
                return {"turn": lines.turn(self._started(params), "inProgress")}
            case "turn/steer":
                self._must_know(params)
                return {"turnId": self._steered(params)}
            case "turn/interrupt":
                if not self.turn:
                    raise Refused("no active turn to interrupt")
                self.journal.note("interrupt", busy=True)
                self.interrupting = True
                return {}
            case "account/rateLimits/read":
                return {"rateLimits": lines.rate_limits(None)["params"]["rateLimits"]}
            case "model/list" | "account/read" | "config/read" | "thread/list":
                return {"data": [], "nextCursor": None}
            case _:
                raise Refused(f"Invalid request: unknown variant `{method}`")

    def _must_know(self, params: Line) -> None:
        if not self.thread or params.get("threadId") != self.thread:
            raise Refused(f"thread not found: {params.get('threadId')}")

    def _resumed(self, thread_id: str) -> Line:
        self.journal.note("resumed", session=thread_id)
        if self.plan.crashes_on_resume:
            deeds.complain("thread 'main' panicked at 'called `Option::unwrap()` on a `None` value'")
            deeds.end_silently(1, self.journal)
        vendor = VendorStore(self.plan.store, thread_id)
        saved = vendor.load()
        if saved is None and self.plan.store:
            raise Refused(f"no rollout found for thread id {thread_id}")
        self.thread, self.vendor, self.announced = thread_id, vendor, True
        if saved:
            self.used, self.turns = (saved["input_tokens"], saved["output_tokens"]), saved["turns"]
        self._status("idle")
        return lines.opened(lines.thread(thread_id, self.preview, "idle"))

    def _started(self, params: Line) -> str:
        if self.turn:
            self._steer(params)
            return self.turn
        self.turn, self.text = new_id(), _words(params)
        self.client_id = params.get("clientUserMessageId")
        self.preview = self.preview or self.text
        self.journal.note("message", id=self.client_id, text=self.text, how="turn/start", busy=False)
        return self.turn

    def _steered(self, params: Line) -> str:
        if not self.turn:
            raise Refused("no active turn to steer")
        if params.get("expectedTurnId") != self.turn:
            raise Refused(f"expected active turn id `{params.get('expectedTurnId')}` but found `{self.turn}`")
        self._steer(params)
        return self.turn

    def _steer(self, params: Line) -> None:
        text, client_id = _words(params), params.get("clientUserMessageId")
        self.journal.note("message", id=client_id, text=text, how="turn/steer", busy=True)
        self.text += f"\n{text}"
        self.stage.after(0, lambda: self._item(lines.user_item(client_id, text)))

    def _answered(self, told: Line) -> None:
        request = told.get("id")
        if not isinstance(request, int) or self.waiting.get(request, told) is not None:
            return
        answer = told.get("result") or {"decision": "decline"}
        self.journal.note("decision", request=request, behavior=answer.get("decision"))
        self.waiting[request] = answer
        self.stage.wake()

    def _input_ended(self) -> None:
        self.journal.note("input-ended")
        self.ends = True
        if not self.plan.lingers:
            raise Over(0)

    # -- turns

    def _turn(self) -> Turn:
        self.turns += 1
        self._save()
        self.began_ms = lines.now_ms()
        try:
            plan = for_turn(self.plan, self.turns, self.text)
        except BadFlag as error:
            plan = self.plan.harmless
            plan.answer = str(error)
        if not self.announced:
            self.announced = True
            self.say(lines.notification("thread/started", thread=lines.thread(self.thread, self.preview, "idle")))
        self._status("active")
        self._tell("turn/started", turn=lines.turn(self.turn, "inProgress", began_ms=self.began_ms))
        self._item(lines.user_item(self.client_id, self.text))
        yield plan.work
        for attempt in range(1, plan.retries + 1):
            error = lines.turn_error(
                f"Reconnecting... {attempt}/{max(5, plan.retries)}", {"responseStreamDisconnected": {"httpStatusCode": None}}
            )
            self._tell("error", error=error, willRetry=True, turnId=self.turn)
            yield plan.retry_delay
        if plan.tool > 0:
            yield from self._command(f"sleep {plan.tool:g}", plan.tool, plan.heartbeat)
        if plan.asks:
            yield from self._permission(plan)
        number = 0
        while plan.repeats == 0 or number < plan.repeats:
            number += 1
            yield from self._command("make test", plan.pause, 0)
        deeds.disturb(plan, self.journal)
        yield from deeds.trouble(plan, self.journal, lambda: self.say(lines.rate_limits(None)))
        if plan.limit > 0:
            self.limited_until = math.ceil(time.time() + plan.limit)
        if self.limited_until > time.time():
            self._limited()
        else:
            self._finish(plan)
        if plan.exit >= 0:
            raise Over(plan.exit)

    def _command(self, command: str, seconds: float, heartbeat: float) -> Turn:
        item = lines.command_item(command)
        self._tell("item/started", item=item, turnId=self.turn)
        began = time.monotonic()
        while (left := began + seconds - time.monotonic()) > 0:
            yield min(left, heartbeat) if heartbeat > 0 else left
            if heartbeat > 0:
                self._tell("item/commandExecution/outputDelta", turnId=self.turn, itemId=item["id"], delta=".\n")
        item |= {"status": "completed", "exitCode": 0, "durationMs": round((time.monotonic() - began) * 1000)}
        self._tell("item/completed", item=item, turnId=self.turn)

    def _permission(self, plan: Plan) -> Turn:
        edits = plan.asks.lower() in ("edit", "write", "filechange", "patch")
        item = lines.file_item("rehearsed") if edits else lines.command_item("touch rehearsed")
        request, self.requests = self.requests, self.requests + 1
        self.waiting[request] = None
        self._status("active", "waitingOnApproval")
        self._tell("item/started", item=item, turnId=self.turn)
        known = {"threadId": self.thread, "turnId": self.turn, "itemId": item["id"], "startedAtMs": lines.now_ms()}
        if not edits:
            known |= {"kind": "command", "command": item["command"], "cwd": item["cwd"]}
        decisions = ["accept", "acceptForSession", "decline", "cancel"]
        method = f"item/{item['type']}/requestApproval"
        self.say({"method": method, "id": request, "params": {**known, "availableDecisions": decisions}})
        yield plan.withdraws or None
        while self.waiting[request] is None and not plan.withdraws:
            yield None
        answer = self.waiting.pop(request) or {"decision": "decline"}
        self._tell("serverRequest/resolved", requestId=request)
        self._status("active")
        accepted = str(answer.get("decision")).startswith("accept")
        item |= {"status": "completed" if accepted else "declined"} | ({} if edits else {"exitCode": 0 if accepted else None})
        self._tell("item/completed", item=item, turnId=self.turn)
        if answer.get("decision") == "cancel":
            self.stage.after(0, self._interrupted)
            yield None

    def _finish(self, plan: Plan) -> None:
        words = plan.answer or f"echo: {self.text}"
        item = lines.text_item(words)
        self._tell("item/started", item={**item, "text": ""}, turnId=self.turn)
        self._tell("item/agentMessage/delta", turnId=self.turn, itemId=item["id"], delta=words)
        self._tell("item/completed", item=item, turnId=self.turn)
        self.used = (self.used[0] + plan.tokens[0], self.used[1] + plan.tokens[1])
        self._save()
        usage = {"total": lines.breakdown(self.used), "last": lines.breakdown(plan.tokens), "modelContextWindow": 258_400}
        self._tell("thread/tokenUsage/updated", turnId=self.turn, tokenUsage=usage)
        self._over("completed", "idle")

    def _limited(self) -> None:
        error = lines.turn_error("You've hit your usage limit. Try again later.", "usageLimitExceeded")
        self.say(lines.rate_limits(int(self.limited_until)))
        self._over("failed", "systemError", error)

    def _interrupted(self) -> None:
        self.interrupting = False
        self.stage.cut()
        for request in [request for request, answer in self.waiting.items() if answer is None]:
            del self.waiting[request]
            self._tell("serverRequest/resolved", requestId=request)
        self._over("interrupted", "idle")

    def _over(self, status: str, then: str, error: Line | None = None) -> None:
        """The thread's status comes first, the turn's end after it, as the real one has it."""
        self.journal.note("turn-over", status=status)
        turn_id, self.turn = self.turn, ""
        self._status(then)
        if error is not None:
            self._tell("error", error=error, willRetry=False, turnId=turn_id)
        self._tell("turn/completed", turn=lines.turn(turn_id, status, error=error, began_ms=self.began_ms))

    def _saved(self) -> dict[str, int]:
        return {"input_tokens": self.used[0], "output_tokens": self.used[1], "turns": self.turns}

    def _save(self) -> None:
        if self.plan.store:
            self.vendor.save(self._saved())

    # -- what goes out

    def _status(self, name: str, *active_flags: str) -> None:
        status: Line = {"type": name} | ({"activeFlags": list(active_flags)} if name == "active" else {})
        self._tell("thread/status/changed", status=status)

    def _item(self, item: Line) -> None:
        self._tell("item/started", item=item, turnId=self.turn)
        self._tell("item/completed", item=item, turnId=self.turn)

    def _tell(self, method: str, **params: object) -> None:
        self.say(lines.notification(method, threadId=self.thread, **params))

    def say(self, line: Line) -> None:
        """One line on stdout."""
        deeds.write(1, json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _words(params: Line) -> str:
    return "".join(str(part.get("text", "")) for part in params.get("input", ()))


def main(argv: list[str]) -> int:
    """Run the program; gives its exit code."""
    try:
        arguments = Arguments(argv, valued=VALUED)
    except BadFlag as error:
        deeds.complain(f"error: {error}")
        return 2
    if arguments.has("--help") or arguments.has("-h"):
        print(described("codex"))
        return 0
    if arguments.has("--version") or arguments.has("-V"):
        print(f"codex-cli {lines.VERSION}")
        return 0
    match arguments.words[:1]:
        case ["app-server"]:
            journal = Journal(arguments.plan.journal)
            deeds.begin(arguments.plan, journal, argv)
            code = Codex(arguments.plan, journal).run()
            journal.note("end", code=code)
            return code
        case ["exec"]:
            from harness.sessions.rehearsal import codex_exec

            return codex_exec.run(arguments, argv)
        case _:
            from harness.sessions.rehearsal import terminal

            resumes = arguments.words[:1] == ["resume"]
            resumed = arguments.words[1] if resumes and len(arguments.words) > 1 else ""
            arguments.words = arguments.words[2:] if resumes else arguments.words
            return terminal.perform(arguments, like="codex", resumed=resumed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
