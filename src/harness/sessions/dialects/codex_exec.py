"""`codex exec --json`: one prompt, one line for each thing that happens, exit.

Nothing can be said to it, its approvals are refused by the program itself, and its lines have no ids of turns, no times and
no states. Its `usage` is the thread's total, also after `resume`. Errors have no codes: a usage limit is known by its words.
"""

from __future__ import annotations

import re

from harness.errors import NotFound, UsageError
from harness.sessions.dialects.codex.account import LIMIT, Outcome, retried, tokens_of
from harness.sessions.dialects.codex.items import CALLS, arguments_text, brief, item_of
from harness.sessions.dialects.fields import NotJson, Object, as_object, decoded, part, text
from harness.sessions.facts import Identified, Limited, Noted, Source, State, TurnCompleted, TurnStarted, Unrecognised
from harness.sessions.reports import Decision, Outgoing, Progress, Reading, Receipt, Report, Step

_RAW = 2_000
_MAX_KINDS = 256
_COUNTED = "these tokens are the thread's, with those of its earlier turns; what this turn alone used is not told"
_TRIES_AGAIN = re.compile(r"Reconnecting\.\.\. \d+/\d+")
_LIMITED = re.compile(r"hit your usage limit|quota exceeded|usage limit (?:has been )?reached", re.IGNORECASE)


class CodexExec:
    """See `LineDialect`. `message_id` is the prompt's, where it has one; `resumed`: the thread had turns before."""

    can = frozenset({"receipts", "usage", "resume"})
    failed = ""

    def __init__(self, *, message_id: str | None = None, model: str = "", resumed: bool = False) -> None:
        self._message_id = message_id
        self._model = model
        self._resumed = resumed
        self._thread = ""
        self._number = 0
        self._calls: set[str] = set()
        self._last_words = ""
        self._kinds: set[str] = set()

    def opening(self) -> tuple[bytes, ...]:
        """Nothing: the prompt is an argument."""
        return ()

    def message(self, message: Outgoing) -> bytes:
        """Always refused."""
        raise UsageError("codex exec takes no messages after its first")

    def interrupt(self) -> bytes:
        """There is no way but a signal."""
        return b""

    def decide(self, request: str, decision: Decision) -> bytes:
        """Nothing is ever asked."""
        raise NotFound(f"nobody waits for an answer to {request}")

    def probe(self) -> bytes:
        """It cannot be asked anything."""
        return b""

    def finish(self) -> bytes:
        """It ends by itself."""
        return b""

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
        return Step(reports=tuple(self._reports(said, line)))

    def _reports(self, said: Object, line: bytes) -> list[Report]:
        match text(said, "type"):
            case "thread.started":
                self._thread = text(said, "thread_id")
                return [Identified(vendor_session=self._thread)]
            case "turn.started":
                return self._begun()
            case "turn.completed":
                total = tokens_of(part(said, "usage"), self._model, self._turn)
                counted = (Noted(kind="usage", text=_COUNTED),) if self._resumed else ()
                return [total, *counted, *self._over("success", "")]
            case "turn.failed":
                error = brief(text(part(said, "error"), "message"), _RAW)
                return self._over("limit" if _LIMITED.search(error) else "error", error)
            case "item.started" | "item.updated" | "item.completed" as type_:
                return self._item(_camel(part(said, "item")), type_)
            case "error":
                return self._error(text(said, "message"))
            case kind:
                return self._strange(kind or "message", line)

    @property
    def _turn(self) -> str:
        return f"{self._thread or 'turn'}/{self._number}"

    def _begun(self) -> list[Report]:
        self._number += 1
        ids = (self._message_id,) if self._message_id else ()
        return [
            Reading(state=State.BUSY, source=Source.PROTOCOL, evidence="turn.started"),
            Receipt(stage="accepted", message_id=self._message_id, turn=self._turn, proof="turn.started"),
            TurnStarted(turn=self._turn, message_ids=ids),
        ]

    def _over(self, outcome: Outcome, error: str) -> list[Report]:
        """The turn is over, and the program about to exit: it is at no prompt."""
        ids = (self._message_id,) if self._message_id else ()
        told = TurnCompleted(turn=self._turn, outcome=outcome, summary=self._last_words, error=error, message_ids=ids)
        done = Receipt(stage="done", message_id=self._message_id, turn=self._turn, proof=f"turn {outcome}")
        limited = (Limited(kind=LIMIT),) if outcome == "limit" else ()
        working = (Progress(what="tool", in_tool=False),) if self._calls else ()
        self._calls.clear()
        return [told, done, *limited, *working]

    def _error(self, message: str) -> list[Report]:
        """One that is tried again; the last one is told by the turn's end as well, or ends the program without a turn."""
        if _TRIES_AGAIN.search(message):
            return [retried({"message": message, "additionalDetails": message.partition("(")[2].removesuffix(")")})]
        return [Progress(what="heartbeat")] if self._number else [Noted(kind="error", text=brief(message))]

    def _item(self, item: Object, type_: str) -> list[Report]:
        kind, id_ = text(item, "type"), text(item, "id")
        if type_ != "item.completed" and kind != "todoList":
            if kind in CALLS and len(self._calls) < _RAW:
                self._calls.add(id_)
                return [Progress(what="tool", in_tool=True)]
            return [Progress(what="text")]
        told = item_of(item, self._turn if self._number else "")
        if told is None:
            return self._strange(f"item/{kind}", arguments_text(item).encode())
        if told.kind == "text":
            self._last_words = told.summary
        working = id_ in self._calls
        self._calls.discard(id_)
        return [told, Progress(what="tool", in_tool=False)] if working and not self._calls else [told]

    def _strange(self, kind: str, line: bytes) -> list[Report]:
        kind = brief(kind, 200)
        if kind in self._kinds or len(self._kinds) >= _MAX_KINDS:
            return [Progress(what="heartbeat")]
        self._kinds.add(kind)
        return [Unrecognised(kind=kind, raw=brief(line[: 4 * _RAW].decode("utf-8", "replace"), _RAW))]


def _camel(item: Object) -> Object:
    """An item with the names of the app-server, which differ in nothing else that matters here."""
    named = {_camel_word(name): value for name, value in item.items()}
    status = text(named, "status")
    return {**named, "type": _camel_word(text(named, "type")), "status": _camel_word(status)}


def _camel_word(word: str) -> str:
    first, *rest = word.split("_")
    return first + "".join(part_.capitalize() for part_ in rest)
