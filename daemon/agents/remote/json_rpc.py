"""JSON-RPC 2.0 over HTTP: requests, and answers that are not taken at their word."""

import asyncio
import json
from typing import Any

_LONGEST_ID = 100  # characters of another request's id that are shown
_MUCH = 256 * 1024  # bytes; C code would hold up all else for as long as it takes to parse more


class AnswerError(Exception):
    """A peer answered with an error, or with what is no answer to the request; the text says which."""


def request(method: str, params: dict[str, Any], request_id: str) -> bytes:
    """Return the body of a request."""
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()


async def parse(data: bytes) -> dict[str, Any]:
    """Return a JSON object; raise AnswerError for anything else. A large one is parsed slowly, beside other work."""
    return _parse(data) if len(data) <= _MUCH else await asyncio.to_thread(_parse, data)


class _Decoder(json.JSONDecoder):
    """Parses in Python, which lets other threads run meanwhile; long strings are still read at once."""

    def __init__(self) -> None:
        super().__init__(parse_constant=_refuse_constant)
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]


def _parse(data: bytes) -> dict[str, Any]:
    """Return a JSON object; raise AnswerError for anything else, NaN and bottomless nesting included."""
    if not data.strip():
        raise AnswerError("its answer is empty")
    try:
        text = data.decode(json.detect_encoding(data), "surrogatepass")
        much = len(data) > _MUCH
        content = _Decoder().decode(text) if much else json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise AnswerError("its answer is nested too deeply") from None
    except ValueError as error:
        raise AnswerError(f"its answer is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise AnswerError("its answer is not a JSON object")
    return content


async def result_of(data: bytes, request_id: str) -> dict[str, Any]:
    """Return the result in an answer to a request; raise AnswerError."""
    answer = await parse(data)
    error = answer.get("error")
    if error is not None:
        raise _error(error)
    if answer.get("id") != request_id:
        raise AnswerError(
            f"its answer carries the id {str(answer.get('id'))[:_LONGEST_ID]!r}, which is another request's"
        )
    result = answer.get("result")
    if result is not None and not isinstance(result, dict):
        raise AnswerError("the result in its answer is not a JSON object")
    if "result" not in answer:
        raise AnswerError("its answer holds neither a result nor an error")
    return result or {}


def objects_in(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list in an answer, nothing for what is no list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _error(error: object) -> AnswerError:
    if not isinstance(error, dict):
        return AnswerError(f"it answered with an error: {error}")
    code = error.get("code")
    told = "" if code is None else f" (JSON-RPC error {code})"
    details = error.get("data")
    more = f": {json.dumps(details)}" if details else ""
    return AnswerError(f"{error.get('message') or 'it answered with an error'}{told}{more}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
