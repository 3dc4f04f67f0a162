"""JSON-RPC 2.0 over HTTP: requests, and answers that are not taken at their word."""

import json
from typing import Any

_LONGEST = 1000  # characters of a peer's words that go into a reason


class AnswerError(Exception):
    """A peer answered with an error, or with what is no answer to the request; the text says which."""

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code
        """Of a JSON-RPC error."""


def request(method: str, params: dict[str, Any], request_id: str) -> bytes:
    """Return the body of a request."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()


def parse(data: bytes) -> dict[str, Any]:
    """Return a JSON object; raise AnswerError for anything else, NaN and bottomless nesting included."""
    if not data.strip():
        raise AnswerError("its answer is empty")
    try:
        content = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise AnswerError("its answer is nested too deeply") from None
    except ValueError as error:
        raise AnswerError(f"its answer is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise AnswerError("its answer is not a JSON object")
    return content


def result_of(data: bytes, request_id: str) -> dict[str, Any]:
    """Return the result in an answer to a request; raise AnswerError."""
    answer = parse(data)
    error = answer.get("error")
    if error is not None:
        raise _error(error)
    if answer.get("id") != request_id:
        raise AnswerError(f"its answer carries the id {str(answer.get('id'))[:_LONGEST]!r}, which is another request's")
    result = answer.get("result")
    if result is not None and not isinstance(result, dict):
        raise AnswerError("the result in its answer is not a JSON object")
    if "result" not in answer:
        raise AnswerError("its answer holds neither a result nor an error")
    return result or {}


def _error(error: object) -> AnswerError:
    if not isinstance(error, dict):
        return AnswerError(f"it answered with an error: {str(error)[:_LONGEST]}")
    code = error.get("code")
    told = "" if code is None else f" (JSON-RPC error {code})"
    details = error.get("data")
    more = f": {json.dumps(details)}" if details else ""
    text = f"{error.get('message') or 'it answered with an error'}{told}{more}"
    return AnswerError(text[:_LONGEST], code if isinstance(code, int) else None)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
