"""What Codex's own record of a thread tells of tokens: its rollout, a file of lines of JSON. Pure.

Source: files of Codex 0.169. `turn_context` names the model, `token_count` the thread's tokens in all and those
of the last request. A thread that was forked from another begins at where that one stood, without its lines. Sub-agents have
rollouts of their own, which name the session that they belong to and may begin with what was said there.
"""

from __future__ import annotations

import msgspec

from harness.sessions.dialects.codex.account import tokens_of
from harness.sessions.dialects.fields import Object, as_object, object_on, part, seconds, text, words
from harness.sessions.dialects.tally import NOTHING, Counts, Tally, plus
from harness.sessions.reports import Report

_MAX_THREADS = 10_000
_MAX_NAME = 200


class _Thread(msgspec.Struct):
    model: str = ""
    total: Counts | None = None


class CodexRecord:
    """Counts what is new in each thread's total. `began`: seconds since 1970; what is older is not this run's."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._tally = Tally()
        self._threads: dict[str, _Thread] = {}

    def feed(self, line: bytes, source: str = "") -> None:
        """One line of the rollout called `source`. Never raises."""
        if b'"token_count"' not in line and b'"turn_context"' not in line:
            return
        told = object_on(line)
        payload = part(told, "payload")
        if source not in self._threads and len(self._threads) >= _MAX_THREADS:
            return
        thread = self._threads.setdefault(source, _Thread())
        if text(told, "type") == "turn_context":
            thread.model = text(payload, "model")[:_MAX_NAME] or thread.model
        elif text(payload, "type") == "token_count" and (info := as_object(payload.get("info"))) is not None:
            self._count(thread, info, before=(seconds(told, "timestamp") or self._began) < self._began)

    def told(self) -> list[Report]:
        """The counters that have moved. Of which turn is not said: at a terminal its turns are not those that we know."""
        return self._tally.told("")

    def _count(self, thread: _Thread, info: Object, *, before: bool) -> None:
        now, last = _counts(part(info, "total_token_usage")), thread.total
        if last is None:
            last = NOTHING if before else _down_to_nothing(now, _counts(part(info, "last_token_usage")))
            self._tally.add(thread.model, last, before=True)
        self._tally.add(thread.model, _down_to_nothing(now, last), before=before)
        thread.total = now


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """What the first lines of a rollout say of it."""

    thread: str = ""
    root: str = ""  # the thread that a person sees; it is another one if this is of a sub-agent
    cwd: str = ""
    began: float = 0.0  # seconds since 1970
    prompts: tuple[str, ...] = ()


def read_rollout(lines: list[bytes]) -> Rollout:
    """Which thread it is, where it works and what it was asked. Never raises."""
    first = object_on(lines[0] if lines else b"")
    meta = part(first, "payload")
    said = [part(object_on(line), "payload") for line in lines[1:] if b'"input_text"' in line]
    prompts = [words(each, "content") for each in said if text(each, "role") == "user"]
    if text(first, "type") != "session_meta":
        return Rollout()
    thread = text(meta, "id")
    return Rollout(
        thread=thread, root=text(meta, "session_id") or thread, cwd=text(meta, "cwd"),
        began=seconds(meta, "timestamp") or 0.0, prompts=tuple(prompts),
    )  # fmt: skip


def _counts(usage: Object) -> Counts:
    told = tokens_of(usage)
    return told.input_tokens, told.output_tokens, told.cached_tokens, told.cache_write_tokens, told.reasoning_tokens


def _down_to_nothing(now: Counts, last: Counts) -> Counts:
    a, b, c, d, e = plus(now, last, -1)
    return max(0, a), max(0, b), max(0, c), max(0, d), max(0, e)
