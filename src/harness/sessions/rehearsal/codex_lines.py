"""The messages that Codex's app-server writes, as they were seen on the wire of 0.169.0, without what nobody reads."""

from __future__ import annotations

import os
import time
from typing import Any

from harness.sessions.rehearsal.stage import here

VERSION = "0.169.0"
MODEL = "gpt-rehearsal"
SHELL = "/bin/bash -lc"

Line = dict[str, Any]


def new_id() -> str:
    """A UUID of version 7, as threads and turns have."""
    digits = f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def notification(method: str, **params: object) -> Line:
    return {"method": method, "params": params, "emittedAtMs": now_ms()}


def error_reply(request_id: object, message: str, code: int = -32600) -> Line:
    return {"error": {"code": code, "message": message}, "id": request_id}


def thread(thread_id: str, preview: str, status: str) -> Line:
    return {
        "id": thread_id, "sessionId": thread_id, "preview": preview, "ephemeral": False, "modelProvider": "rehearsal",
        "model": MODEL, "createdAt": now_ms() // 1000, "updatedAt": now_ms() // 1000, "status": {"type": status},
        "path": None, "cwd": here(), "cliVersion": VERSION, "originator": "rehearsal", "source": "vscode", "gitInfo": None,
        "name": None, "turns": [],
    }  # fmt: skip


def opened(known: Line) -> Line:
    """The result of `thread/start` and `thread/resume`."""
    return {
        "thread": known, "model": MODEL, "modelProvider": "rehearsal", "cwd": here(), "approvalPolicy": "on-request",
        "approvalsReviewer": "user", "sandbox": {"type": "workspaceWrite"}, "reasoningEffort": None,
    }  # fmt: skip


def turn(turn_id: str, status: str, *, error: Line | None = None, began_ms: int = 0) -> Line:
    done = status != "inProgress"
    return {
        "id": turn_id, "rootTurnId": turn_id, "items": [], "itemsView": "notLoaded", "status": status, "error": error,
        "startedAt": began_ms // 1000 or None, "completedAt": now_ms() // 1000 if done else None,
        "durationMs": now_ms() - began_ms if done else None,
    }  # fmt: skip


def turn_error(message: str, info: object = "other") -> Line:
    return {"message": message, "codexErrorInfo": info, "additionalDetails": None}


def user_item(client_id: str | None, text: str) -> Line:
    content: list[Line] = [{"type": "text", "text": text, "text_elements": []}]
    return {"type": "userMessage", "id": new_id(), "clientId": client_id, "content": content}


def text_item(text: str) -> Line:
    return {"type": "agentMessage", "id": f"msg_{os.urandom(10).hex()}", "text": text, "phase": None}


def command_item(command: str) -> Line:
    return {
        "type": "commandExecution", "id": f"call_{os.urandom(10).hex()}", "command": f"{SHELL} '{command}'", "cwd": here(),
        "processId": None, "source": "agent", "status": "inProgress", "aggregatedOutput": None, "exitCode": None,
        "commandActions": [{"type": "unknown", "command": command}], "durationMs": None,
    }  # fmt: skip


def file_item(path: str) -> Line:
    change = {"path": path, "kind": {"type": "add"}, "diff": "+rehearsed\n"}
    return {"type": "fileChange", "id": f"call_{os.urandom(10).hex()}", "changes": [change], "status": "inProgress"}


def breakdown(tokens: tuple[int, int]) -> Line:
    return {
        "totalTokens": sum(tokens), "inputTokens": tokens[0], "cachedInputTokens": 0, "cacheWriteInputTokens": 0,
        "outputTokens": tokens[1], "reasoningOutputTokens": 0,
    }  # fmt: skip


def rate_limits(resets_at: int | None) -> Line:
    primary = None if resets_at is None else {"usedPercent": 100, "windowDurationMins": 300, "resetsAt": resets_at}
    reached = None if resets_at is None else "rate_limit_reached"
    limits = {"limitId": "codex", "primary": primary, "secondary": None, "rateLimitReachedType": reached, "planType": None}
    return notification("account/rateLimits/updated", rateLimits=limits)
