"""`codex app-server`: JSON-RPC without its version field, one message a line, both sides asking and answering.

Owns the handshake, one thread with its turns, and what our requests came to. Facts of the program (0.169) that it relies on:

* The status of the thread changes before the turn is said to be over, so a prompt is reported with the turn's end.
* After a turn that failed the status stays `systemError`, and the thread takes the next message all the same.
* `turn/start` during a turn joins that turn. `turn/steer` is taken at once and read later; a turn that ends before has
  lost it.
* A turn cannot be interrupted before `turn/started`. An interrupted turn leaves its commands running; they are ended here.
* Sub-agents are threads of their own on the same pipe: nothing of theirs says anything about this thread's state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeGuard

import msgspec

from harness.errors import NotFound, UsageError
from harness.sessions.dialects.codex import asked
from harness.sessions.dialects.codex.items import brief
from harness.sessions.dialects.codex.options import ThreadOptions
from harness.sessions.dialects.codex.thread import Thread
from harness.sessions.dialects.fields import NotJson, Object, as_object, decoded, encoded, part, parts, text
from harness.sessions.facts import Identified, Noted, Placing, Source, State, Unrecognised
from harness.sessions.reports import ApprovalAsked, ApprovalSettled, Decision, Outgoing, Progress, Reading, Receipt, Step

_RAW = 2_000
_MAX_KINDS = 256
_MAX_ASKED = 1_000
_CLIENT = {"name": "harness", "title": "Harness", "version": "1"}
_UNWANTED = ("turn/diff/updated", "thread/readState/changed", "remoteControl/status/changed")
"""Notifications that are turned off: the whole diff again after each patch, and what only a screen needs."""


class _Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request of ours that is not answered."""

    method: str
    message_id: str = ""
    turn: str = ""


class CodexServer:
    """See `LineDialect`. Messages can be given once a prompt has been reported, which the thread's existence begins.

    `failed` says why there is no thread and will be none: the program is of no use then, and should be ended.
    """

    can = frozenset({"steer", "interrupt", "approve", "receipts", "usage", "resume", "probe", "messages"})

    def __init__(self, options: ThreadOptions, *, now: Callable[[], float] = time.time) -> None:
        self.failed = ""
        self._options = options
        self._now = now
        self._number = -1
        self._calls: dict[int, _Call] = {}
        self._asked: dict[str, asked.Asked] = {}
        self._kinds: set[str] = set()
        self._thread = Thread(resumed=options.resume, now=now)
        self._ready = False
        self._starting = ""  # the message of a turn/start that is not answered
        self._cut_next = False  # the turn that is starting is to be interrupted

    # What we say

    def opening(self) -> tuple[bytes, ...]:
        """The first step of the handshake; the others are replies."""
        capabilities = {"experimentalApi": True, "optOutNotificationMethods": _UNWANTED}
        return (self._call("initialize", {"clientInfo": _CLIENT, "capabilities": capabilities}),)

    def message(self, message: Outgoing) -> bytes:
        """See `LineDialect`. A steering message without a turn under way starts one."""
        if not self._ready:
            raise UsageError(self.failed or "the thread is not there yet: wait for the prompt")
        if message.only_submit or not message.submit:
            raise UsageError("codex app-server has no input line: a message is sent whole, or not at all")
        if not message.text.strip():
            raise UsageError("an empty message would start a turn about nothing")
        turn = self._thread.turns.active
        given: dict[str, object] = {
            "threadId": self._thread.id, "clientUserMessageId": message.message_id,
            "input": [{"type": "text", "text": message.text}],
        }  # fmt: skip
        if turn is not None and message.placing is Placing.STEER:
            steer = {**given, "expectedTurnId": turn.id}
            return self._call("turn/steer", steer, message_id=message.message_id, turn=turn.id)
        if turn is not None or self._starting:
            raise UsageError("a turn is under way: steer it, interrupt it, or wait for the prompt")
        self._starting, self._cut_next = message.message_id, False
        return self._call("turn/start", given, message_id=message.message_id)

    def interrupt(self) -> bytes:
        """See `LineDialect`. A turn that has not begun yet is interrupted as soon as it has."""
        turn = self._thread.turns.active
        if turn is None:
            self._cut_next = bool(self._starting)
            return self.probe() if self._starting else b""
        turn.cut = True
        return self._interrupt(turn.id) if turn.begun else self.probe()

    def decide(self, request: str, decision: Decision) -> bytes:
        """See `LineDialect`. The program takes no reason for a no, so that is steered into the turn behind it."""
        waiting = self._asked.pop(request, None)
        if waiting is None:
            raise NotFound(f"nobody waits for an answer to {request}")
        said = encoded({"id": waiting.id, "result": asked.answer(waiting, decision)})
        turn = self._thread.turns.active
        told = waiting.method in (asked.Ask.COMMAND, asked.Ask.FILES, asked.Ask.PERMISSIONS, asked.Ask.ELICITATION)
        if decision.allow or decision.interrupt or not decision.reason or not told or turn is None:
            return said
        if text(waiting.params, "turnId") != turn.id:
            return said
        why = {"type": "text", "text": f"[harness] The request to use {waiting.tool} was declined: {decision.reason}"}
        return said + self._call("turn/steer", {"threadId": self._thread.id, "expectedTurnId": turn.id, "input": [why]})

    def probe(self) -> bytes:
        """Read the thread's status; empty before there is one."""
        return self._call("thread/read", {"threadId": self._thread.id}) if self._ready else b""

    def finish(self) -> bytes:
        """The end of its input ends the program, with exit code 0 and whatever it runs."""
        return b""

    # What we are told

    def feed(self, line: bytes) -> Step:
        """See `LineDialect`."""
        if not line.strip():
            return Step()
        try:
            said = as_object(decoded(line))
        except NotJson:
            said = None
        if said is None:
            return Step(reports=(Noted(kind="output", text=brief(line[: 4 * _RAW].decode("utf-8", "replace"), _RAW)),))
        method, id_ = text(said, "method"), said.get("id")
        if method and _is_id(id_):
            return self._request(id_, method, part(said, "params"))
        if method:
            return self._notification(method, said, line)
        call = self._calls.pop(id_, None) if isinstance(id_, int) and not isinstance(id_, bool) else None
        if call is None:
            return self._unknown("response" if "id" in said else "message", line)
        refusal = as_object(said.get("error"))
        if refusal is not None:
            return self._refused(call, brief(text(refusal, "message"), 500) or "refused without words")
        return self._answered(call, part(said, "result"))

    def _notification(self, method: str, said: Object, line: bytes) -> Step:
        params = part(said, "params")
        if method == "serverRequest/resolved":
            return self._resolved(params.get("requestId"))
        reports = self._thread.notified(method, params)
        if reports is None:
            return self._unknown(brief(method, 200), line)
        replies: list[bytes] = []
        if method == "turn/started" and (turn := self._thread.turns.active) is not None and turn.cut:
            replies.append(self._interrupt(turn.id))
        if method == "turn/completed":
            reports = [*self._withdrawn(text(part(params, "turn"), "id")), *reports]
            if self._thread.left_running:
                replies.append(self._call("thread/backgroundTerminals/list", {"threadId": self._thread.id}))
        return Step(reports=tuple(reports), replies=tuple(replies))

    def _request(self, id_: int | str, method: str, params: Object) -> Step:
        """The program asks; see `asked`."""
        taken = asked.take(id_, method, params, self._thread.announced(text(params, "itemId")), self._now())
        if isinstance(taken, asked.Asked) and len(self._asked) < _MAX_ASKED:
            turn = text(params, "turnId")
            request = brief(f"{id_}-{turn[-6:]}" if turn else str(id_), 100)
            self._asked[request] = taken
            return Step(
                reports=(
                    ApprovalAsked(
                        request=request, tool=taken.tool, arguments=taken.arguments, summary=taken.summary, turn=turn
                    ),
                )
            )  # fmt: skip
        if isinstance(taken, asked.Asked):
            taken = asked.Answered(error="too many requests wait for an answer", note=f"{method} was refused: too many wait")
        refusal = {"code": -32601, "message": taken.error}
        reply = encoded({"id": id_, "error": refusal} if taken.error else {"id": id_, "result": taken.result})
        noted = (Noted(kind="request", text=brief(taken.note)),) if taken.note else ()
        unknown = () if taken.known else self._unknown(brief(method, 200), encoded({"method": method})).reports
        return Step(reports=(Progress(what="heartbeat"), *noted, *unknown), replies=(reply,))

    def _resolved(self, id_: object) -> Step:
        """A request is over. Ours are forgotten as they are answered; this one was withdrawn, or answered by somebody else."""
        request = next((name for name, each in self._asked.items() if each.id == id_ and type(each.id) is type(id_)), None)
        if request is None:
            return Step(reports=(Progress(what="heartbeat"),))
        del self._asked[request]
        return Step(reports=(ApprovalSettled(request=request, reason="the program does not wait for it any more"),))

    def _withdrawn(self, turn: str) -> list[ApprovalSettled]:
        gone = [name for name, each in self._asked.items() if turn and text(each.params, "turnId") == turn]
        for name in gone:
            del self._asked[name]
        return [ApprovalSettled(request=name, reason="its turn is over") for name in gone]

    def _answered(self, call: _Call, result: Object) -> Step:
        """What a request of ours came to."""
        thread = self._thread
        match call.method:
            case "initialize":
                version = text(result, "userAgent").partition("/")[2].partition(" ")[0]
                capabilities = tuple(sorted(self.can))
                reports = (
                    Identified(cli_version=brief(version, 100), capabilities=capabilities),
                    Reading(state=State.STARTING, source=Source.PROTOCOL, evidence="initialize"),
                )
                return Step(
                    reports=reports, replies=(encoded({"method": "initialized"}), self._call(*self._options.request()))
                )  # fmt: skip
            case "thread/start" | "thread/resume":
                if not text(part(result, "thread"), "id"):
                    return self._no_thread("the program named no thread")
                self._ready = True
                return Step(reports=tuple(thread.opened(result, call.method)))
            case "thread/read":
                told = () if self._starting else thread.read(part(result, "thread"))
                return Step(reports=(Progress(what="heartbeat"), *told))
            case "turn/start":
                cut, self._starting, self._cut_next = self._cut_next, "", False
                return Step(reports=tuple(thread.started(text(part(result, "turn"), "id"), call.message_id, cut=cut)))
            case "turn/steer" if call.message_id:
                return Step(reports=tuple(thread.steered(text(result, "turnId") or call.turn, call.message_id)))
            case "thread/backgroundTerminals/list":
                left = thread.terminals(parts(result, "data"), all_=not text(result, "nextCursor"))
                return Step(replies=tuple(self._terminate(each) for each in left))
            case _:
                return Step(reports=(Progress(what="heartbeat"),))

    def _refused(self, call: _Call, why: str) -> Step:
        """A request of ours was refused, so nothing has come of it."""
        match call.method:
            case "initialize" | "thread/start" | "thread/resume":
                return self._no_thread(f"{call.method}: {why}")
            case "turn/start" | "turn/steer" if call.message_id:
                if call.method == "turn/start":
                    self._starting, self._cut_next = "", False
                receipt = Receipt(stage="failed", message_id=call.message_id, turn=call.turn, proof=why)
                return Step(reports=(receipt,))
            case "thread/read":
                return Step(reports=(Progress(what="heartbeat"),))
            case _:
                return Step(reports=(Noted(kind="refused", text=f"{call.method}: {why}"),))

    def _no_thread(self, why: str) -> Step:
        self.failed = f"there is no thread: {why}"
        noted = Noted(kind="thread", text=self.failed)
        return Step(
            reports=(noted, Reading(state=State.UNKNOWN, source=Source.PROTOCOL, detail="no thread", evidence=why)),
        )  # fmt: skip

    def _unknown(self, kind: str, line: bytes) -> Step:
        """Report a kind that is not known, once, and count it as a sign of life."""
        if kind in self._kinds or len(self._kinds) >= _MAX_KINDS:
            return Step(reports=(Progress(what="heartbeat"),))
        self._kinds.add(kind)
        raw = brief(line[: 4 * _RAW].decode("utf-8", "replace"), _RAW)
        return Step(reports=(Unrecognised(kind=kind, raw=raw),))

    def _interrupt(self, turn: str) -> bytes:
        return self._call("turn/interrupt", {"threadId": self._thread.id, "turnId": turn})

    def _terminate(self, process: str) -> bytes:
        return self._call("thread/backgroundTerminals/terminate", {"threadId": self._thread.id, "processId": process})

    def _call(self, method: str, params: Mapping[str, object], *, message_id: str = "", turn: str = "") -> bytes:
        self._number += 1
        self._calls[self._number] = _Call(method=method, message_id=message_id, turn=turn)
        return encoded({"id": self._number, "method": method, "params": params})


def _is_id(value: object) -> TypeGuard[int | str]:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63)
