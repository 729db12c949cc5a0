"""How OpenAI's two protocols say that something went wrong."""

from __future__ import annotations

from harness.sessions.mock_model.script import Failure
from harness.sessions.mock_model.wire import Json, failure_message

_TYPES = {401: "invalid_request_error", 429: "requests"}
_CODES = {401: "invalid_api_key", 404: "not_found", 429: "rate_limit_exceeded", 503: "server_is_overloaded"}


def refusal(failure: Failure) -> Json:
    """The body of an error."""
    usual = "server_error" if failure.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": failure_message(failure),
            "type": failure.type or _TYPES.get(failure.status, usual),
            "param": None,
            "code": code(failure),
        }
    }


def code(failure: Failure) -> str | None:
    """The word that programs react to; of a scripted type it is that."""
    return failure.type or _CODES.get(failure.status) or ("server_error" if failure.status >= 500 else None)
