"""Errors of the API: every one of them has the same JSON shape and a status that fits its class."""

from __future__ import annotations

from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from harness import errors
from harness.web.guard import App, Refusal
from harness.web.requests import NoAnswer, NotSupervised


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
    (errors.DeclarationError, 422, "invalid_declaration"),
    (errors.UsageError, 422, "invalid"),
    (errors.Busy, 503, "busy"),
    (errors.StoreUnavailable, 503, "ledger_unavailable"),
    (NotSupervised, 503, "not_supervised"),
    (NoAnswer, 504, "no_answer"),
    (errors.HarnessError, 500, "failed"),
)

RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 409, 413, 421, 422, 503)
}
"""For the API's description."""


def body(status: int, code: str, message: str, details: list[dict[str, Any]] | None = None) -> JSONResponse:
    """An error's answer."""
    problem = Problem(code=code, message=message, details=details or [])
    return JSONResponse(ErrorBody(error=problem).model_dump(), status_code=status)


def install(app: FastAPI) -> None:
    """Give every error of an application the one shape."""

    def harness_error(request: Request, error: Exception) -> JSONResponse:
        status, code = next((status, code) for kind, status, code in _STATUS if isinstance(error, kind))
        details = [{"item_id": error.item_id}] if isinstance(error, errors.Duplicate) else []
        return body(status, code, str(error), details)

    def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "refused")
        return body(error.status_code, code, str(error.detail))

    def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        details = [{"where": ".".join(map(str, each["loc"])), "message": each["msg"]} for each in error.errors()]
        return body(422, "invalid", "; ".join(f"{each['where']}: {each['message']}" for each in details), details)

    def unexpected(request: Request, error: Exception) -> JSONResponse:
        return body(500, "internal", f"unexpected {type(error).__name__}; the web process's log has it")

    app.add_exception_handler(errors.HarnessError, harness_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unexpected)


def refused_app(refusal: Refusal) -> App:
    """The answer to a request that the guard refused, as an application of its own."""
    return cast("App", body(refusal.status, refusal.code, refusal.message))
