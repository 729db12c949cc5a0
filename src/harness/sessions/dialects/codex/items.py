"""What the agent said and did: items of a thread, of the app-server and, in other letters, of `codex exec --json`."""

from __future__ import annotations

import re
import shlex
from hashlib import sha256

import msgspec

from harness.sessions.dialects.fields import Object, number, part, parts, text, texts, words
from harness.sessions.facts import ItemCompleted
from harness.text import cleaned, clipped

SHELL = "Bash"
PATCH = "apply_patch"
"""Tools are called as in the program's own hooks, so that one rule for approvals fits every way of running it."""

CALLS = frozenset({
    "commandExecution", "fileChange", "mcpToolCall", "dynamicToolCall", "collabAgentToolCall", "webSearch", "imageView",
    "imageGeneration", "sleep", "functionCallOutput",
})  # fmt: skip
"""The items that are tools at work."""

_SUMMARY = 500
_TEXT = 2_000
_READ = 8_000  # that much of a text is looked at for its summary
_SHELLS = re.compile(r"(?:.*/)?(?:ba|z|da|k|fi)?sh")


def brief(said: str, limit: int = _SUMMARY) -> str:
    """A text as it is put on record: cleaned and clipped."""
    return cleaned(clipped(said, _READ), limit=limit).strip()


def call_of(tool: str, given: object) -> str:
    """A digest that the same call again has too; empty for arguments that no JSON holds."""
    try:
        return sha256(msgspec.json.encode((tool, given), order="deterministic")).hexdigest()[:16]
    except (OverflowError, RecursionError):
        return ""


def script_of(command: str) -> str:
    """The command without the shell that is wrapped around it: `/bin/bash -lc 'git status'` is `git status`."""
    try:
        argv = shlex.split(command)
    except ValueError:
        return command
    wrapped = len(argv) == 3 and _SHELLS.fullmatch(argv[0]) and argv[1] in ("-c", "-lc")
    return argv[2] if wrapped else command


def changed_paths(item: Object) -> tuple[str, ...]:
    """The files that a `fileChange` touches, those it moves something to among them."""
    found = [
        path for change in parts(item, "changes") for path in (text(change, "path"), text(part(change, "kind"), "move_path"))
    ]
    return tuple(dict.fromkeys(path for path in found if path))


def item_of(item: Object, turn: str, agent: str = "") -> ItemCompleted | None:
    """A finished item as it is put on record; None for what is no deed of the agent, or unknown."""
    ok = text(item, "status") in ("", "completed")
    match text(item, "type"):
        case "agentMessage":
            return ItemCompleted(kind="text", summary=brief(text(item, "text"), _TEXT), turn=turn, agent=agent)
        case "reasoning":
            said = "\n".join((*texts(item, "summary"), *texts(item, "content"))) or text(item, "text")
            return ItemCompleted(kind="reasoning", summary=brief(said), turn=turn, agent=agent)
        case "plan":
            return ItemCompleted(kind="plan", summary=brief(text(item, "text"), _TEXT), turn=turn, agent=agent)
        case "todoList":
            return plan_of(parts(item, "items"), turn, agent)
        case "commandExecution":
            return _command(item, turn, agent)
        case "fileChange":
            return _patch(item, turn, agent, ok=ok)
        case "mcpToolCall":
            return _call(item, f"mcp__{text(item, 'server')}__{text(item, 'tool')}", turn, agent, ok=ok)
        case "dynamicToolCall":
            return _call(item, text(item, "tool"), turn, agent, ok=ok and item.get("success") is not False)
        case "collabAgentToolCall" | "collabToolCall":
            given = {"prompt": text(item, "prompt"), "agents": texts(item, "receiverThreadIds")}
            return _tool(item, f"agent:{text(item, 'tool')}", given, turn, agent, ok=ok, summary=text(item, "prompt"))
        case "webSearch":
            query = text(item, "query")
            return _tool(item, "web_search", {"query": query}, turn, agent, ok=True, summary=query)
        case "imageView":
            path = text(item, "path")
            seen = _tool(item, "view_image", {"path": path}, turn, agent, ok=True, summary=path)
            return msgspec.structs.replace(seen, paths=(brief(path),) if path else ())
        case "imageGeneration":
            return _tool(item, "image_generation", {}, turn, agent, ok=ok, summary=text(item, "revisedPrompt"))
        case "sleep":
            return _tool(item, "sleep", {}, turn, agent, ok=True, summary="")
        case "functionCallOutput":
            return _tool(item, text(item, "name"), {}, turn, agent, ok=True, summary=words(item, "output"))
        case "subAgentActivity":
            said = f"{text(item, 'agentPath')} {text(item, 'kind')}"
            return ItemCompleted(kind="notice", name="sub-agent", summary=brief(said), turn=turn, agent=agent)
        case "contextCompaction":
            return ItemCompleted(kind="compaction", turn=turn, agent=agent)
        case "enteredReviewMode" | "exitedReviewMode":
            return ItemCompleted(
                kind="notice", name="review", summary=brief(text(item, "review"), _TEXT), turn=turn, agent=agent
            )
        case "hookPrompt":
            said = "\n".join(text(fragment, "text") for fragment in parts(item, "fragments"))
            return ItemCompleted(kind="notice", name="hook", summary=brief(said), turn=turn, agent=agent)
        case "error":
            return ItemCompleted(kind="error", summary=brief(text(item, "message")), turn=turn, ok=False, agent=agent)
        case _:
            return None


def plan_of(steps: list[Object], turn: str, agent: str = "") -> ItemCompleted:
    """A list of what is to be done, with what is done of it."""
    lines = [f"[{_mark(step)}] {text(step, 'step') or text(step, 'text')}" for step in steps]
    return ItemCompleted(kind="plan", summary=brief("\n".join(lines), _TEXT), turn=turn, agent=agent)


def _mark(step: Object) -> str:
    done = text(step, "status") == "completed" or step.get("completed") is True
    return "x" if done else ">" if text(step, "status") == "inProgress" else " "


def _command(item: Object, turn: str, agent: str) -> ItemCompleted:
    command = script_of(text(item, "command"))
    code = number(item, "exitCode")
    status = text(item, "status")
    ok = status == "completed" and not code
    said = command if ok else f"{command}\n{'' if code is not None else status}\n{brief(text(item, 'aggregatedOutput'))}"
    done = _tool(item, SHELL, {"command": command, "cwd": text(item, "cwd")}, turn, agent, ok=ok, summary=said)
    return msgspec.structs.replace(done, exit_code=None if code is None else int(code))


def _patch(item: Object, turn: str, agent: str, *, ok: bool) -> ItemCompleted:
    kinds = ((text(part(each, "kind"), "type") or text(each, "kind"), text(each, "path")) for each in parts(item, "changes"))
    said = "\n".join(f"{kind} {path}" for kind, path in kinds) if ok else f"not done: {'; '.join(changed_paths(item))}"
    return ItemCompleted(
        kind="file", name=PATCH, summary=brief(said), turn=turn, ok=ok, agent=agent,
        call=call_of(PATCH, item.get("changes")), paths=tuple(brief(path) for path in changed_paths(item)),
    )  # fmt: skip


def _call(item: Object, tool: str, turn: str, agent: str, *, ok: bool) -> ItemCompleted:
    given = item.get("arguments")
    said = arguments_text(given)
    if not ok:
        said = f"{said}\n{text(part(item, 'error'), 'message') or words(part(item, 'result'), 'content')}"
    return _tool(item, tool, given, turn, agent, ok=ok, summary=said)


def arguments_text(given: object) -> str:
    """A call's arguments in one line; empty for none, or for what no JSON holds."""
    try:
        return msgspec.json.encode(given).decode() if given else ""
    except (OverflowError, RecursionError):
        return ""


def _tool(item: Object, tool: str, given: object, turn: str, agent: str, *, ok: bool, summary: str) -> ItemCompleted:
    duration = number(item, "durationMs")
    return ItemCompleted(
        kind="tool", name=brief(tool, 200), summary=brief(summary, 2 * _SUMMARY), turn=turn, ok=ok, call=call_of(tool, given),
        agent=agent, duration_ms=None if duration is None else max(0, round(duration)),
    )  # fmt: skip
