"""Errors as answers: `{"message", "code", "data"}` with the matching status."""

import json
from typing import Any

from aiohttp import web
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import TypedDict

from daemon.errors import (
    AgentcronError,
    ConfigError,
    DamagedRowError,
    ForbiddenError,
    InvalidError,
    LimitError,
    NotFoundError,
    RefusedError,
    StaleVersionError,
    StoreUnavailableError,
)


class ErrorView(TypedDict):
    """What is wrong and how to fix it; `code` is for programs."""

    message: str
    code: str
    data: dict[str, Any]


_MOST_FIELDS = 20
_LONGEST_NAME = 200  # characters
_STATUSES: dict[type[AgentcronError], tuple[int, str]] = {
    InvalidError: (400, "invalid"),
    ConfigError: (400, "config"),
    ForbiddenError: (403, "forbidden"),
    NotFoundError: (404, "not_found"),
    RefusedError: (409, "conflict"),
    StaleVersionError: (412, "stale_version"),
    LimitError: (429, "too_many_requests"),
    StoreUnavailableError: (503, "unavailable"),
    DamagedRowError: (500, "damaged"),
}
_CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    411: "length_required",
    413: "too_large",
    415: "unsupported_media_type",
    417: "expectation_failed",
    422: "unprocessable",
    429: "too_many_requests",
}


def refusal(status: int, message: str, data: dict[str, Any] | None = None, code: str | None = None) -> web.Response:
    """Return an answer that says what is wrong."""
    body: ErrorView = {"message": message, "code": code or _CODES.get(status, "error"), "data": data or {}}
    return web.Response(text=json.dumps(body), status=status, content_type="application/json")


def answer_to(error: Exception) -> web.Response | None:
    """Return the answer to a request that raised an expected error, None for an unexpected one."""
    if isinstance(error, ValidationError):
        return _wrong_shape(error)
    if isinstance(error, web.HTTPException):
        message = error.text if isinstance(error, web.HTTPRequestEntityTooLarge) else error.reason
        refused = refusal(error.status, message or "not possible")
        for name in ("Allow", "Retry-After"):
            if name in error.headers:
                refused.headers[name] = error.headers[name]
        if error.status == web.HTTPUnauthorized.status_code:
            refused.headers["WWW-Authenticate"] = "Bearer"
        return refused
    for kind, (status, code) in _STATUSES.items():
        if isinstance(error, kind):
            data = {"problems": error.problems} if isinstance(error, ConfigError) else {}
            return refusal(status, str(error), data, code)
    return None


def _wrong_shape(error: ValidationError) -> web.Response:
    """Name the fields that have a wrong shape, at most 20 of them, and what is allowed."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    fields = [{"field": _name_of(one["loc"]), "problem": _problem(one)} for one in found[:_MOST_FIELDS]]
    message = "the request has a wrong shape; data.fields names each"
    if len(found) > _MOST_FIELDS:
        message = f"the request has a wrong shape; data.fields names the first {_MOST_FIELDS} wrong fields"
    return refusal(422, message, {"fields": fields})


def _name_of(location: tuple[int | str, ...]) -> str:
    name = ".".join(str(part) for part in location) or "body"
    return name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…"


def _problem(found: ErrorDetails) -> str:
    return "should be an object" if found["type"] == "model_type" else _plain(found["msg"])


def _plain(message: str) -> str:
    """Return the message of one of our own rules without pydantic's prefix."""
    return message.removeprefix("Value error, ")
