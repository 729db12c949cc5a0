"""The records that the rehearsed terminal programs keep in a store: what they have used stands there, and nowhere else."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Any

from harness.sessions.rehearsal.stage import here

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_NO_TIME = "rollout-2026-01-01T00-00-00"
_NOTHING = (0, 0)

Line = dict[str, Any]
Tokens = tuple[int, int]


class Transcript:
    """Claude Code's: a line for each block of a message, all with the message's id and usage. `path`: empty without a store."""

    def __init__(self, store: str, session: str, model: str) -> None:
        self.path = f"{store}/{session}.jsonl" if store and _NAME.fullmatch(session) else ""
        self._model = model

    def turn(self, text: str, words: str, tokens: Tokens) -> None:
        """Append what was asked and what was answered."""
        id_ = f"msg_{time.time_ns():x}"
        usage = {
            "input_tokens": tokens[0], "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": tokens[1],
        }  # fmt: skip
        blocks: list[Line] = [{"type": "thinking", "thinking": ""}, {"type": "text", "text": words}]
        lines: list[Line] = [{"isSidechain": False, "type": "user", "message": {"role": "user", "content": text}}]
        for block in blocks:
            message = {
                "id": id_,
                "type": "message",
                "role": "assistant",
                "model": self._model,
                "content": [block],
                "usage": usage,
            }
            lines.append({"isSidechain": False, "message": message, "type": "assistant"})
        _append(self.path, [{**line, "timestamp": _now(), "cwd": here()} for line in lines])


class Rollout:
    """Codex's: sums over the thread, which go on when it is resumed. The store takes the place of CODEX_HOME."""

    def __init__(self, store: str, thread: str, model: str) -> None:
        self.path = f"{store}/sessions/2026/01/01/{_NO_TIME}-{thread}.jsonl" if store and _NAME.fullmatch(thread) else ""
        self._thread = thread
        self._model = model

    def turn(self, text: str, words: str, tokens: Tokens) -> None:
        """Append what was asked, what was answered, and the sums."""
        total = self._total()
        asked, answered = _message("user", "input_text", text), _message("assistant", "output_text", words)
        info = {"total_token_usage": _usage((total[0] + tokens[0], total[1] + tokens[1])), "last_token_usage": _usage(tokens)}
        lines = [
            ("turn_context", {"cwd": here(), "model": self._model}), ("response_item", asked), ("response_item", answered),
            ("event_msg", {"type": "token_count", "info": info}),
        ]  # fmt: skip
        if not self.path or not os.path.exists(self.path):  # noqa: PTH110
            meta = {"id": self._thread, "session_id": self._thread, "timestamp": _now(), "cwd": here()}
            lines.insert(0, ("session_meta", meta))
        _append(self.path, [{"timestamp": _now(), "type": kind, "payload": payload} for kind, payload in lines])

    def _total(self) -> Tokens:
        try:
            with open(self.path, encoding="utf-8") as file:  # noqa: PTH123
                last = json.loads(file.readlines()[-1])["payload"]["info"]["total_token_usage"]
        except (OSError, IndexError):
            return _NOTHING
        return last["input_tokens"], last["output_tokens"]


def _message(role: str, kind: str, text: str) -> Line:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def _usage(tokens: Tokens) -> Line:
    return {
        "input_tokens": tokens[0], "cached_input_tokens": 0, "cache_write_input_tokens": 0, "output_tokens": tokens[1],
        "reasoning_output_tokens": 0, "total_tokens": sum(tokens),
    }  # fmt: skip


def _now() -> str:
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


def _append(path: str, lines: list[Line]) -> None:
    """In one write, so that nobody sees half of it."""
    if not path:
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, "".join(f"{json.dumps(line)}\n" for line in lines).encode())
    os.close(descriptor)
