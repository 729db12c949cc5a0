"""The lines that Claude Code writes in stream-json, as they were seen on the wire of 2.1.329, without what nobody reads."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from harness.sessions.rehearsal.stage import here

VERSION = "2.1.329"
MODEL = "claude-rehearsal"
_DOLLARS_A_TOKEN = (0.000_003, 0.000_015)

Line = dict[str, Any]


def new_uuid() -> str:
    """A random UUID; the module of that name would cost more time than the rest of the start."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


class Counters:
    """Tokens and money of a vendor's session since it began, over all its processes."""

    def __init__(self, input_tokens: int = 0, output_tokens: int = 0, turns: int = 0) -> None:
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.turns = turns

    @property
    def cost_usd(self) -> float:
        return self.input_tokens * _DOLLARS_A_TOKEN[0] + self.output_tokens * _DOLLARS_A_TOKEN[1]

    def by_model(self) -> Line:
        """The field `modelUsage`; empty before anything was used."""
        if not self.input_tokens:
            return {}
        used = {
            "inputTokens": self.input_tokens, "outputTokens": self.output_tokens, "cacheReadInputTokens": 0,
            "cacheCreationInputTokens": 0, "webSearchRequests": 0, "costUSD": self.cost_usd, "contextWindow": 200_000,
            "maxOutputTokens": 64_000, "thinkingTokens": 0,
        }  # fmt: skip
        return {MODEL: used}


def state(name: str) -> Line:
    return {"type": "system", "subtype": "session_state_changed", "state": name}


def lifecycle(message_id: str, name: str) -> Line:
    return {"type": "command_lifecycle", "command_uuid": message_id, "state": name}


def init(permission_mode: str) -> Line:
    return {
        "type": "system", "subtype": "init", "cwd": here(), "tools": ["Bash", "Edit", "Read", "Write"], "mcp_servers": [],
        "model": MODEL, "permissionMode": permission_mode, "slash_commands": ["clear", "compact"], "apiKeySource": "none",
        "claude_code_version": VERSION, "output_style": "default", "agents": [], "skills": [], "plugins": [],
        "capabilities": ["interrupt_receipt_v1", "interrupt_cancel_queued_v1", "msg_lifecycle_v1"],
    }  # fmt: skip


def replayed(message_id: str, text: str) -> Line:
    return {
        "type": "user", "message": {"role": "user", "content": text}, "parent_tool_use_id": None, "uuid": message_id,
        "timestamp": timestamp(), "isReplay": True,
    }  # fmt: skip


def assistant(block: Line, message_ids: Sequence[str] = (), *, error: str = "") -> Line:
    """One finished block of an answer; with an error it is a synthetic one."""
    message = {
        "id": f"msg_{os.urandom(10).hex()}", "type": "message", "role": "assistant",
        "model": "<synthetic>" if error else MODEL, "content": [block], "stop_reason": None, "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 1},
    }  # fmt: skip
    line: Line = {"type": "assistant", "message": message, "parent_tool_use_id": None, "timestamp": timestamp()}
    if message_ids:
        line |= {"user_message_uuid": message_ids[-1], "user_message_uuids": list(message_ids)}
    return line | ({"error": error} if error else {})


def text(words: str) -> Line:
    return {"type": "text", "text": words}


def tool_use(tool_use_id: str, name: str, arguments: Line) -> Line:
    return {"type": "tool_use", "id": tool_use_id, "name": name, "input": arguments}


def tool_result(tool_use_id: str, content: str, *, is_error: bool = False) -> Line:
    block = {"tool_use_id": tool_use_id, "type": "tool_result", "content": content, "is_error": is_error}
    told: Any = f"Error: {content}" if is_error else {"stdout": content, "stderr": "", "interrupted": False}
    return {
        "type": "user", "message": {"role": "user", "content": [block]}, "parent_tool_use_id": None, "timestamp": timestamp(),
        "tool_use_result": told,
    }  # fmt: skip


def tool_progress(tool_use_id: str, name: str, seconds: float) -> Line:
    return {
        "type": "tool_progress", "tool_use_id": tool_use_id, "tool_name": name, "elapsed_time_seconds": round(seconds, 3),
        "heartbeat": True, "parent_tool_use_id": None,
    }  # fmt: skip


def interrupted() -> Line:
    content = [text("[Request interrupted by user]")]
    return {"type": "user", "message": {"role": "user", "content": content}, "parent_tool_use_id": None}


def api_retry(attempt: int, maximum: int, delay_seconds: float) -> Line:
    return {
        "type": "system", "subtype": "api_retry", "attempt": attempt, "max_retries": maximum,
        "retry_delay_ms": round(delay_seconds * 1000), "error_status": 529, "error": "overloaded",
    }  # fmt: skip


def rate_limit(resets_at: int) -> Line:
    told = {"status": "rejected", "resetsAt": resets_at, "rateLimitType": "five_hour", "utilization": 1.0}
    return {"type": "rate_limit_event", "rate_limit_info": told}


def can_use_tool(request_id: str, name: str, arguments: Line, tool_use_id: str) -> Line:
    request: Line = {
        "subtype": "can_use_tool", "tool_name": name, "display_name": name, "input": arguments,
        "description": str(arguments.get("command", "")), "permission_suggestions": [], "tool_use_id": tool_use_id,
    }  # fmt: skip
    return {"type": "control_request", "request_id": request_id, "request": request}


def control_answer(request_id: str, response: Line) -> Line:
    return {"type": "control_response", "response": {"subtype": "success", "request_id": request_id, "response": response}}


def control_error(request_id: str, error: str) -> Line:
    return {"type": "control_response", "response": {"subtype": "error", "request_id": request_id, "error": error}}


def result(
    counters: Counters, *, used: tuple[int, int], index: int, words: str = "", subtype: str = "success",
    reason: str = "completed", is_error: bool = False, message_ids: Sequence[str] = (), queued: int = 0, milliseconds: int = 0,
) -> Line:  # fmt: skip
    """The one line that ends a turn; `used` are this turn's tokens, all else is cumulative."""
    failed = subtype != "success"
    line: Line = {
        "duration_api_ms": milliseconds, "stop_reason": None if failed else "end_turn", "total_cost_usd": counters.cost_usd,
        "usage": {"input_tokens": used[0], "output_tokens": used[1], "cache_read_input_tokens": 0,
                  "cache_creation_input_tokens": 0},
        "modelUsage": counters.by_model(), "permission_denials": [], "terminal_reason": reason,
        "is_error": is_error or failed, "num_turns": 1, "subtype": subtype, "type": "result", "duration_ms": milliseconds,
        "user_message_uuids": list(message_ids), "queued_turn_count": queued, "result_index": index,
    }  # fmt: skip
    if message_ids:
        line["user_message_uuid"] = message_ids[-1]
    return line | ({"errors": [words]} if failed else {"result": words})


def timestamp() -> str:
    """Now, as the lines have it."""
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
