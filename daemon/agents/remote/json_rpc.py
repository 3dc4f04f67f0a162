"""JSON-RPC 2.0: build requests, and parse answers without trusting them."""

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

from daemon.agents.process.supervisor import untrusted_json

_MUCH = 64 * 1024  # bytes; to parse more than that would block the event loop for too long

_LONGEST_ID = 200  # characters shown of the id in an answer


class AnswerError(Exception):
    """A peer answered with an error, or with something that is not an answer to the request; the text says which."""


def request(method: str, params: dict[str, Any], request_id: str) -> bytes:
    """Return the body of a request."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()


async def parse(data: bytes) -> dict[str, Any]:
    """Return a JSON object; raise AnswerError for anything else. Parse a large one in a thread."""
    return await _read(data, _parse)


async def result_of(data: bytes, request_id: str) -> dict[str, Any]:
    """Return the result in an answer to a request; raise AnswerError if there is none. Read a large one in a thread."""
    return await _read(data, partial(_result_of, request_id))


async def _read(data: bytes, read: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
    return read(data) if len(data) <= _MUCH else await asyncio.to_thread(read, data)


def _parse(data: bytes) -> dict[str, Any]:
    """Return a JSON object; raise AnswerError for anything else, and for what is too deep or has too many values."""
    if not data.strip():
        raise AnswerError("the answer is empty")
    try:
        content = untrusted_json.parse(data)
    except untrusted_json.UntrustedJsonError as error:
        raise AnswerError(f"the answer {error}") from None
    if not isinstance(content, dict):
        raise AnswerError("the answer is not a JSON object")
    return content


def _result_of(request_id: str, data: bytes) -> dict[str, Any]:
    answer = _parse(data)
    error = answer.get("error")
    if error is not None:
        raise _error(error)
    if answer.get("id") != request_id:
        raise AnswerError(f"the answer has the id {_shown(answer.get('id'))}, which belongs to another request")
    result = answer.get("result")
    if result is not None and not isinstance(result, dict):
        raise AnswerError("the result in the answer is not a JSON object")
    if "result" not in answer:
        raise AnswerError("the answer contains neither a result nor an error")
    return result or {}


def objects_in(value: object, most: int | None = None) -> list[dict[str, Any]]:
    """Return the objects among the first `most` entries of a list, an empty list if `value` is not a list."""
    return [entry for entry in value[:most] if isinstance(entry, dict)] if isinstance(value, list) else []


def _shown(number: object) -> str:
    return repr(number[:_LONGEST_ID] if isinstance(number, str) else number)


def _error(error: object) -> AnswerError:
    if not isinstance(error, dict):
        return AnswerError(f"it answered with an error: {error}")
    code = error.get("code")
    suffix = "" if code is None else f" (JSON-RPC error {code})"
    details = error.get("data")
    more = f": {json.dumps(details)}" if details else ""
    return AnswerError(f"{error.get('message') or 'it answered with an error'}{suffix}{more}")
