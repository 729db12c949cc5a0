"""Errors of the API: every one of them has the same JSON shape and a status that fits its class."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from harness import errors
from harness.sessions.client import InboxFull
from harness.web.guard import App, Receive, Refusal, Scope, Send
from harness.web.requests import NoAnswer, NotSupervised

_AGENTAPI = "/agentapi/"


class Problem(BaseModel):
    """What went wrong: `code` for machines, `message` for people, `details` for both."""

    code: str
    message: str
    details: list[dict[str, Any]] = []


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: Problem


_STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.NotFound, 404, "not_found"),
    (errors.Duplicate, 409, "duplicate"),
    (errors.IllegalTransition, 409, "illegal_transition"),
    (errors.DependencyCycle, 409, "dependency_cycle"),
    (errors.Conflict, 409, "conflict"),
    (errors.Fenced, 409, "fenced"),
    (errors.PolicyDenied, 409, "denied"),
    (InboxFull, 429, "inbox_full"),
    (errors.DeclarationError, 422, "invalid_declaration"),
    (errors.UsageError, 422, "invalid"),
    (errors.Busy, 503, "busy"),
    (errors.StoreUnavailable, 503, "ledger_unavailable"),
    (NotSupervised, 503, "not_supervised"),
    (NoAnswer, 504, "no_answer"),
    (errors.HarnessError, 500, "failed"),
)

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 408, 409, 413, 421, 422, 429, 503)
}
"""For the API's description."""


def body(status: int, code: str, message: str, details: list[dict[str, Any]] | None = None) -> JSONResponse:
    """An error's answer."""
    problem = Problem(code=code, message=message, details=details or [])
    return JSONResponse(ErrorBody(error=problem).model_dump(), status_code=status)


def status_of(error: Exception) -> tuple[int, str]:
    """The status and the code of an error of Harness."""
    return next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))


def details_of(error: RequestValidationError) -> list[dict[str, str]]:
    """Where a request does not fit, and how."""
    return [{"where": ".".join(map(str, each["loc"])), "message": each["msg"]} for each in error.errors()]


def install(app: FastAPI) -> None:
    """Give every error of an application the one shape."""

    async def harness_error(request: Request, error: Exception) -> JSONResponse:
        status, code = status_of(error)
        details = [{"item_id": error.item_id}] if isinstance(error, errors.Duplicate) else []
        return body(status, code, str(error), details)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
        return body(error.status_code, code, str(error.detail))

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        details = details_of(error)
        return body(422, "invalid", "; ".join(f"{each['where']}: {each['message']}" for each in details), details)

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return body(500, "internal", f"unexpected {type(error).__name__}; the web process's log has it")

    app.add_exception_handler(errors.HarnessError, harness_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unexpected)


def refused_app(refusal: Refusal) -> App:
    """The answer to a request that the guard refused, as an application of its own."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if _AGENTAPI in scope["path"]:
            shown = problem(refusal.status, refusal.message)
        else:
            shown = body(refusal.status, refusal.code, refusal.message)
        await cast("App", shown)(scope, receive, send)

    return app


def problem(status: int, detail: str, details: list[dict[str, str]] | None = None) -> JSONResponse:
    """An error in the form of agentapi, which is that of RFC 9457."""
    told = [{"message": each["message"], "location": each["where"]} for each in details or ()]
    shown = {"title": HTTPStatus(status).phrase, "status": status, "detail": detail, "errors": told}
    return JSONResponse(shown, status_code=status, media_type="application/problem+json")
