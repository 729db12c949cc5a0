"""What the agent said and did: texts, and tool calls joined with their results."""

from __future__ import annotations

import re
from hashlib import sha256

import msgspec
from msgspec.structs import replace

from harness.sessions.dialects.fields import Object, part, parts, seconds, text, truth, words
from harness.sessions.facts import ItemCompleted
from harness.sessions.reports import Progress, Report
from harness.text import cleaned, clipped

_SUMMARY = 500
_READ = 8_000  # that much of a text is looked at for its summary
_OPEN_CALLS = 1_000
_PATHS = ("file_path", "notebook_path")
_WRITES = frozenset({"Write", "Edit", "MultiEdit", "NotebookEdit"})
_TELLING = ("command", *_PATHS, "path", "pattern", "query", "url", "description", "prompt")
_EXIT_CODE = re.compile(r"Exit code (\d{1,3})\b")


def brief(said: str, limit: int = _SUMMARY) -> str:
    """A text as it is put on record: cleaned and clipped."""
    return cleaned(clipped(said, _READ), limit=limit).strip()


def summary_of(given: Object) -> str:
    """What a call is about, from its arguments: the command, the path, the questions, or all of them."""
    questions = [text(question, "question") for question in parts(given, "questions")]
    if any(questions):
        return brief("\n".join(questions))
    named = next((value for name in _TELLING if (value := text(given, name))), "")
    return brief(named or (msgspec.json.encode(given).decode() if given else ""))


def call_of(tool: str, given: Object) -> str:
    """A digest that the same call again has too."""
    return sha256(msgspec.json.encode((tool, given), order="deterministic")).hexdigest()[:16]


class _Call(msgspec.Struct, frozen=True, kw_only=True):
    item: ItemCompleted
    began: float | None  # None: it waited for leave, so nobody knows how long it ran


class Items:
    """Follows the calls that are under way, of the agent and of its sub-agents."""

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}

    def said(self, line: Object, turn: str) -> list[Report]:
        """An `assistant` line: one block, or several."""
        found: list[Report] = []
        for block in parts(part(line, "message"), "content"):
            match text(block, "type"):
                case "text":
                    found += self._text(line, text(block, "text"), turn)
                case "tool_use" | "server_tool_use" | "mcp_tool_use":
                    found.append(self._begin(line, block, turn))
                case "thinking" | "redacted_thinking":
                    found.append(Progress(what="tokens"))
                case _:
                    found.append(Progress(what="heartbeat"))
        return found

    def results(self, line: Object) -> list[Report]:
        """A `user` line with what came of calls."""
        found: list[Report] = []
        for block in parts(part(line, "message"), "content"):
            call = self._calls.pop(text(block, "tool_use_id"), None) if text(block, "type") == "tool_result" else None
            if call is not None:
                found.append(_finished(call, block, seconds(line, "timestamp")))
        return [Progress(what="tool", in_tool=bool(self._calls)), *found] if found else [Progress(what="heartbeat")]

    def waits(self, tool_use_id: str) -> None:
        """A call is put before somebody first: how long it ran is not known."""
        call = self._calls.get(tool_use_id)
        if call is not None:
            self._calls[tool_use_id] = replace(call, began=None)

    def end_turn(self) -> list[Report]:
        """Calls of the agent itself that no result came of, such as one that a limit forestalled."""
        left = [id_ for id_, call in self._calls.items() if not call.item.agent]
        if not left:
            return []
        calls = [self._calls.pop(id_).item for id_ in left]
        told = [replace(item, ok=False, summary=f"{item.summary} (no result)".strip()) for item in calls]
        return [Progress(what="tool", in_tool=bool(self._calls)), *told]

    def _text(self, line: Object, said: str, turn: str) -> list[Report]:
        if not said.strip():
            return [Progress(what="heartbeat")]
        error = text(line, "error")
        failed = bool(error) or truth(line, "is_api_error_message")
        item = ItemCompleted(
            kind="error" if failed else "text", name=brief(error), summary=brief(said), turn=turn, ok=not failed,
            agent=agent_of(line),
        )  # fmt: skip
        return [Progress(what="heartbeat" if failed else "text"), item]

    def _begin(self, line: Object, block: Object, turn: str) -> Report:
        tool, given = text(block, "name"), part(block, "input")
        paths = tuple(path for name in _PATHS if (path := text(given, name))) if tool in _WRITES else ()
        item = ItemCompleted(
            kind="tool", name=brief(tool), summary=summary_of(given), turn=turn, call=call_of(tool, given), paths=paths,
            agent=agent_of(line),
        )  # fmt: skip
        if len(self._calls) >= _OPEN_CALLS:
            del self._calls[next(iter(self._calls))]
        self._calls[text(block, "id")] = _Call(item=item, began=seconds(line, "timestamp"))
        return Progress(what="tool", in_tool=True)


def agent_of(line: Object) -> str:
    """The sub-agent that a line is of; empty: the agent itself."""
    return text(line, "agent_id") or text(line, "parent_tool_use_id")


def _finished(call: _Call, block: Object, ended: float | None) -> ItemCompleted:
    item = call.item
    duration = None if call.began is None or ended is None else max(0, round((ended - call.began) * 1000))
    if not truth(block, "is_error"):
        return replace(item, duration_ms=duration)
    said = words(block, "content")
    code = _EXIT_CODE.match(said)
    return replace(
        item, ok=False, duration_ms=duration, exit_code=int(code[1]) if code else None,
        summary=brief(f"{item.summary}\n{brief(said)}", 2 * _SUMMARY),
    )  # fmt: skip


def task_item(line: Object, turn: str) -> ItemCompleted:
    """The end of a task in the background."""
    status = text(line, "status")
    return ItemCompleted(
        kind="notice", name="background task", summary=brief(text(line, "summary")), turn=turn, ok=status == "completed",
        agent=text(line, "task_id"),
    )  # fmt: skip


def tasks_of(line: Object) -> frozenset[str]:
    """The background tasks that somebody may want to wait for; those of the program's own (`ambient`) do not count."""
    return frozenset(text(task, "task_id") for task in parts(line, "tasks") if not truth(task, "ambient"))
