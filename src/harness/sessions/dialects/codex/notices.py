"""Notifications that say nothing of a turn: what is only a sign of life, what is worth a line, and hooks and reviews."""

from __future__ import annotations

from harness.sessions.dialects.codex.items import brief
from harness.sessions.dialects.fields import Object, part, parts, text
from harness.sessions.facts import Noted
from harness.sessions.reports import Progress, Report

LIFE = Progress(what="heartbeat")
_QUIET = frozenset({
    "thread/started", "thread/readState/changed", "thread/name/updated", "thread/section/changed", "thread/project/updated",
    "thread/attachment/updated", "thread/prediction/updated", "thread/queue/changed", "thread/environment/connected",
    "thread/unarchived", "thread/compacted", "skills/changed", "project/changed", "remoteControl/status/changed",
    "account/updated", "app/list/updated", "hook/started", "item/autoApprovalReview/started", "model/verification",
    "model/safetyBuffering/updated", "turn/diff/updated", "turn/moderationMetadata", "item/fileChange/patchUpdated",
    "item/reasoning/summaryPartAdded", "modelProvider/authRecoveryCompleted", "fs/changed",
})  # fmt: skip
"""What is told for a screen's sake."""
_MOVES = {
    "item/agentMessage/delta": Progress(what="text"), "item/plan/delta": Progress(what="text"),
    "item/reasoning/textDelta": Progress(what="tokens"), "item/reasoning/summaryTextDelta": Progress(what="tokens"),
    "item/commandExecution/outputDelta": Progress(what="tool"), "item/fileChange/outputDelta": Progress(what="tool"),
    "item/commandExecution/terminalInteraction": Progress(what="tool"), "item/mcpToolCall/progress": Progress(what="tool"),
    "command/exec/outputDelta": Progress(what="tool"), "process/outputDelta": Progress(what="tool"),
}  # fmt: skip
_WARNINGS = {
    "warning": "warning", "guardianWarning": "warning", "configWarning": "configuration", "deprecationNotice": "deprecation",
    "modelProvider/authRecoveryStarted": "sign-in", "thread/environment/disconnected": "environment",
}  # fmt: skip
_MAX_WARNINGS = 1_000


class Notices:
    """Each warning is told once, however often the program repeats it."""

    def __init__(self) -> None:
        self._told: set[tuple[str, str]] = set()

    def take(self, method: str, params: Object) -> list[Report] | None:
        """What the notification amounts to; None if it is none of these."""
        if method in _QUIET:
            return [LIFE]
        if method in _MOVES:
            return [_MOVES[method]]
        if method in _WARNINGS:
            said = text(params, "message") or text(params, "summary") or text(params, "environmentId")
            return self._warned(_WARNINGS[method], said)
        match method:
            case "hook/completed":
                return self._hook(part(params, "run"))
            case "item/autoApprovalReview/completed":
                return self._review(part(params, "review"))
            case "mcpServer/startupStatus/updated":
                return self._server(params)
            case _:
                return None

    def _warned(self, kind: str, said: str) -> list[Report]:
        noted = Noted(kind=kind, text=brief(said, 1_000))
        if (kind, noted.text) in self._told or len(self._told) >= _MAX_WARNINGS:
            return [LIFE]
        self._told.add((kind, noted.text))
        return [noted]

    def _hook(self, run: Object) -> list[Report]:
        if text(run, "status") not in ("failed", "blocked", "stopped"):
            return [LIFE]
        lines = [f"{text(run, 'eventName')} {text(run, 'status')}", *(text(each, "text") for each in parts(run, "entries"))]
        return [Noted(kind="hook", text=brief("\n".join(lines)))]

    def _review(self, review: Object) -> list[Report]:
        status = text(review, "status")
        if status in ("approved", ""):
            return [LIFE]
        return [Noted(kind="review", text=brief(f"the automatic review says {status}: {text(review, 'rationale')}"))]

    def _server(self, params: Object) -> list[Report]:
        if text(params, "status") not in ("failed", "cancelled"):
            return [LIFE]
        return self._warned("tools", f"{text(params, 'name')} {text(params, 'status')}: {text(params, 'error')}")
