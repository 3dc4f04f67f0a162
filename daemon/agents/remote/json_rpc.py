"""JSON-RPC 2.0: build requests, and parse answers without trusting them."""

import asyncio
import json
from typing import Any

_LONGEST_ID = 100  # characters shown of an unexpected id
_MUCH = 256 * 1024  # bytes; for more than that the C parser would block the event loop for too long


class AnswerError(Exception):
    """A peer answered with an error, or with something that is not an answer to the request; the text says which."""


def request(method: str, params: dict[str, Any], request_id: str) -> bytes:
    """Return the body of a request."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()


async def parse(data: bytes) -> dict[str, Any]:
    """Return a JSON object; raise AnswerError for anything else. Parse a large one in a thread."""
    return _parse(data) if len(data) <= _MUCH else await asyncio.to_thread(_parse, data)


class _Decoder(json.JSONDecoder):
    """Parses in Python, so that other threads can run meanwhile, except during a single long string."""

    def __init__(self) -> None:
        super().__init__(parse_constant=_refuse_constant)
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]


def _parse(data: bytes) -> dict[str, Any]:
    """Return a JSON object; raise AnswerError for anything else, including NaN and too deep nesting."""
    if not data.strip():
        raise AnswerError("the answer is empty")
    try:
        text = data.decode(json.detect_encoding(data), "surrogatepass")
        much = len(data) > _MUCH
        content = _Decoder().decode(text) if much else json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise AnswerError("the answer is nested too deeply") from None
    except ValueError as error:
        raise AnswerError(f"the answer is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise AnswerError("the answer is not a JSON object")
    return content


async def result_of(data: bytes, request_id: str) -> dict[str, Any]:
    """Return the result in an answer to a request; raise AnswerError if there is none."""
    answer = await parse(data)
    error = answer.get("error")
    if error is not None:
        raise _error(error)
    if answer.get("id") != request_id:
        raise AnswerError(
            f"the answer has the id {str(answer.get('id'))[:_LONGEST_ID]!r}, which belongs to another request"
        )
    result = answer.get("result")
    if result is not None and not isinstance(result, dict):
        raise AnswerError("the result in the answer is not a JSON object")
    if "result" not in answer:
        raise AnswerError("the answer contains neither a result nor an error")
    return result or {}


def objects_in(value: object) -> list[dict[str, Any]]:
    """Return the objects in a list, an empty list if `value` is not a list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _error(error: object) -> AnswerError:
    if not isinstance(error, dict):
        return AnswerError(f"it answered with an error: {error}")
    code = error.get("code")
    suffix = "" if code is None else f" (JSON-RPC error {code})"
    details = error.get("data")
    more = f": {json.dumps(details)}" if details else ""
    return AnswerError(f"{error.get('message') or 'it answered with an error'}{suffix}{more}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
