"""Harmless answers to what programs ask beside talking to a model: which models there are, how many tokens a text has."""

from __future__ import annotations

from harness.sessions.mock_model.http import Request
from harness.sessions.mock_model.wire import Json

_MODEL = {
    "id": "mock-model", "type": "model", "object": "model", "display_name": "Scripted model", "owned_by": "script",
    "created": 1_700_000_000, "created_at": "2023-11-14T22:13:20Z",
}  # fmt: skip
_PAGE = {"has_more": False, "first_id": _MODEL["id"], "last_id": _MODEL["id"]}
_MODELS = {"object": "list", "data": [_MODEL], "models": [], **_PAGE}  # all that either provider's list has


def answered_aside(request: Request, path: str) -> tuple[str, int, Json]:
    """The protocol's name for it, status and body."""
    if request.method == "POST" and path.endswith("/messages/count_tokens"):
        return "count_tokens", 200, {"input_tokens": max(1, len(request.body) // 4)}
    if request.method in ("GET", "HEAD"):
        if path.endswith("/models"):
            return "models", 200, _MODELS
        if "/models/" in path:
            return "models", 200, {**_MODEL, "id": path.rpartition("/")[2]}
        if path == "/":
            return "other", 200, {"ok": True, "server": "harness mock-model"}
    message = f"the scripted model answers nothing at {request.method} {path[:200]}"
    return "other", 404, {"type": "error", "error": {"type": "not_found_error", "message": message}}
