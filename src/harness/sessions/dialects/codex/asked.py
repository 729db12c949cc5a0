"""What the app-server asks its client: who answers, what is to be shown, and the answers. Nothing may hang.

A person, or a rule, decides what can be put as yes or no. Everything else is answered at once, and what was answered is
reported. A question to the user is put as one too: the reason of a yes is its answer.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from harness.sessions.dialects.codex.items import PATCH, SHELL, arguments_text, brief, changed_paths, script_of
from harness.sessions.dialects.fields import Object, part, parts, text, texts
from harness.sessions.reports import Decision


class Ask(StrEnum):
    """The requests that a decision, or an answer of our own, is known for."""

    COMMAND = "item/commandExecution/requestApproval"
    FILES = "item/fileChange/requestApproval"
    PERMISSIONS = "item/permissions/requestApproval"
    QUESTION = "item/tool/requestUserInput"
    ELICITATION = "mcpServer/elicitation/request"
    TOOL = "item/tool/call"
    TIME = "currentTime/read"
    TOKENS = "account/chatgptAuthTokens/refresh"
    ATTESTATION = "attestation/generate"
    OLD_COMMAND = "execCommandApproval"
    OLD_FILES = "applyPatchApproval"


_ADDRESS = frozenset({
    "threadId", "turnId", "itemId", "startedAtMs", "availableDecisions", "commandActions", "proposedExecpolicyAmendment",
    "proposedNetworkPolicyAmendments", "environmentId", "approvalId", "conversationId", "callId", "parsedCmd", "kind",
})  # fmt: skip
_NO_ANSWER = "Nobody answers questions in this session. Decide yourself, and say what you have decided and why."


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A request that waits for a decision, in the words of the approvals."""

    id: int | str
    method: str
    params: Object
    tool: str
    arguments: dict[str, object]
    summary: str


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was answered at once. `note` says what, where it is worth saying."""

    result: dict[str, object] | None = None
    error: str = ""
    note: str = ""
    known: bool = True


def take(id_: int | str, method: str, params: Object, item: Object, now: float) -> Asked | Answered:
    """See who answers a request. `item` is what it is about, as far as that was told before."""
    if not arguments_text(params) and params:
        return _unreadable(method)
    match method:
        case Ask.COMMAND:
            return _asked(id_, method, params, *_command(params))
        case Ask.OLD_COMMAND:
            arguments = {**_rest(params), "command": " ".join(texts(params, "command"))}
            return _asked(id_, method, params, SHELL, arguments, str(arguments["command"]))
        case Ask.FILES | Ask.OLD_FILES:
            return _asked(id_, method, params, *_files(params, item))
        case Ask.PERMISSIONS:
            return _asked(id_, method, params, "permissions", _rest(params), arguments_text(params.get("permissions")))
        case Ask.QUESTION:
            said = "\n".join(text(each, "question") for each in parts(params, "questions"))
            return _asked(id_, method, params, "question", _rest(params), said)
        case Ask.ELICITATION:
            return _elicitation(id_, params)
        case Ask.TOOL:
            said = f"This session has no tool {text(params, 'tool')!r}."
            content = [{"type": "inputText", "text": said}]
            return Answered(result={"contentItems": content, "success": False}, note=said)
        case Ask.TIME:
            return Answered(result={"currentTimeAt": int(now)})
        case Ask.TOKENS:
            return Answered(
                error="this client has no tokens of ChatGPT's", note="the program asked for new tokens, and got none"
            )
        case Ask.ATTESTATION:
            return Answered(error="this client cannot attest", note="the program asked for an attestation, and got none")
        case _:
            return Answered(error="this client does not know this request", note=f"{method} was refused", known=False)


def answer(asked: Asked, decision: Decision) -> dict[str, object]:
    """What the app-server is told."""
    allow, end = decision.allow, decision.interrupt
    match asked.method:
        case Ask.COMMAND | Ask.FILES:
            return {"decision": "accept" if allow else "cancel" if end else "decline"}
        case Ask.OLD_COMMAND | Ask.OLD_FILES:
            denied: object = "abort" if end else {"denied": {"rejection": decision.reason or "declined"}}
            return {"decision": "approved" if allow else denied}
        case Ask.PERMISSIONS:
            return {"permissions": asked.params.get("permissions") if allow else {}, "scope": "turn"}
        case Ask.QUESTION:
            return {"answers": {text(each, "id"): {"answers": [_reply(each, decision)]} for each in _questions(asked)}}
        case _:
            content = _filled(part(asked.params, "requestedSchema"), decision.reason)
            if allow and content is not None:
                return {"action": "accept", "content": content}
            return {"action": "cancel" if end else "decline", "content": None}


def _questions(asked: Asked) -> list[Object]:
    return parts(asked.params, "questions")


def _reply(question: Object, decision: Decision) -> str:
    """A yes without words takes the first choice, which is the one that is recommended."""
    if not decision.allow:
        return f"{_NO_ANSWER} {decision.reason}".strip()
    return decision.reason or next((text(option, "label") for option in parts(question, "options")), "") or "Yes."


def _asked(id_: int | str, method: str, params: Object, tool: str, arguments: dict[str, object], summary: str) -> Asked:
    reason = text(params, "reason")
    said = f"{summary}\n{reason}" if reason else summary
    return Asked(
        id=id_, method=method, params=params, tool=brief(tool, 200), arguments=arguments, summary=brief(said, 1_000)
    )  # fmt: skip


def _rest(params: Object) -> dict[str, object]:
    return {name: value for name, value in params.items() if name not in _ADDRESS and value is not None}


def _command(params: Object) -> tuple[str, dict[str, object], str]:
    """A command, or a host that one wants to reach."""
    arguments = _rest(params)
    network = part(params, "networkApprovalContext")
    command = script_of(text(params, "command"))
    if network and not command:
        return "network", {**arguments, "url": text(network, "host")}, text(network, "host")
    if text(params, "kind") == "writeStdin":
        return "write_stdin", arguments, command
    return SHELL, {**arguments, "command": command}, command


def _files(params: Object, item: Object) -> tuple[str, dict[str, object], str]:
    """The request does not say what would be changed; the item that was announced before it does."""
    old = part(params, "fileChanges")
    paths = changed_paths(item) or tuple(old)
    arguments = {**_rest(params), "path": "\n".join(paths)}
    if changes := item.get("changes"):
        arguments["changes"] = changes
    return PATCH, arguments, "\n".join(paths) or text(params, "grantRoot")


def _elicitation(id_: int | str, params: Object) -> Asked | Answered:
    """A server of tools wants something: leave to run one, or a form. A form of more than one field nobody fills in."""
    server = text(params, "serverName")
    about = part(params, "_meta")
    message = text(params, "message") or text(params, "description")
    if text(about, "codex_approval_kind") == "mcp_tool_call":
        tool = f"mcp__{server}__{text(about, 'tool_name')}"
        given = dict(part(about, "tool_params"))
        return _asked(id_, Ask.ELICITATION, params, tool, given, f"{message}\n{arguments_text(given)}".strip())
    if text(params, "mode") == "form" and _filled(part(params, "requestedSchema"), "?") is not None:
        return _asked(id_, Ask.ELICITATION, params, f"mcp__{server}__ask", _rest(params), message)
    note = f"a request of {server} was declined, for only a program with a screen can answer it: {message}"
    return Answered(result={"action": "decline", "content": None}, note=brief(note))


def _filled(schema: Object, words: str) -> dict[str, object] | None:
    """The content of a form that a yes and its reason can fill: no field that is required, or one text."""
    required = texts(schema, "required")
    if not required:
        return {}
    kind = text(part(part(schema, "properties"), required[0]), "type")
    return {required[0]: words} if len(required) == 1 and kind in ("string", "") and words else None


def _unreadable(method: str) -> Answered:
    """Arguments that no JSON of ours holds can be neither shown nor judged."""
    said = "its arguments cannot be read"
    declined: dict[str, dict[str, object]] = {
        Ask.COMMAND: {"decision": "decline"}, Ask.FILES: {"decision": "decline"}, Ask.QUESTION: {"answers": {}},
        Ask.PERMISSIONS: {"permissions": {}, "scope": "turn"}, Ask.ELICITATION: {"action": "decline", "content": None},
    }  # fmt: skip
    result = declined.get(method)
    return Answered(result=result, error="" if result else said, note=f"{method} was declined: {said}")
