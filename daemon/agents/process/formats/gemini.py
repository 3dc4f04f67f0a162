"""`gemini --output-format json`: one object, a failure at the end of the standard error; and `stream-json`."""

from collections.abc import Iterator
from typing import Any

from .events import Amounts, Ended, Event, Failed, Said, SessionStarted, ToolResult, UsedTool
from .values import json_in, object_in, status_in, text_in, total

KINDS = frozenset(("init", "message", "tool_use", "tool_result", "result", None))
"""The types of its lines; the one object of the `json` format has none."""
_MOST_MODELS = 20
_API_ERROR = "[API Error: "


def events_of(content: dict[str, Any]) -> Iterator[Event]:
    """Yield what one object of the output says."""
    session = text_in(content, "session_id")
    if session:
        yield SessionStarted(session)
    match content.get("type"):
        case "message" if content.get("role") == "assistant":
            yield Said(text_in(content, "content"), continues=content.get("delta") is True)
        case "tool_use":
            call = text_in(content, "tool_id") or None
            yield UsedTool(text_in(content, "tool_name"), content.get("parameters"), call)
        case "tool_result":
            failed = content.get("status") == "error"
            yield ToolResult(content.get("output"), text_in(content, "tool_id") or None, failed)
        case "result":
            stats = object_in(content, "stats")
            yield Ended(total=Amounts(total([stats.get("input_tokens")]), total([stats.get("output_tokens")])))
            if content.get("status") == "error":
                yield _failure(object_in(content, "error"))
        case None:
            yield from _document(content)


def _document(content: dict[str, Any]) -> Iterator[Event]:
    """Yield what the one object of the `json` format says."""
    error = object_in(content, "error")
    if "response" in content or "stats" in content:
        models = {
            name: _amounts(object_in(stats, "tokens"))
            for name, stats in list(object_in(object_in(content, "stats"), "models").items())[:_MOST_MODELS]
            if isinstance(stats, dict)
        }
        found = models.values()
        used = Amounts(total(one.input_tokens for one in found), total(one.output_tokens for one in found))
        yield Ended(text_in(content, "response") or None, used, models)
    if error:
        yield _failure(error)


def _amounts(tokens: dict[str, Any]) -> Amounts:
    return Amounts(total([tokens.get("prompt")]), total(tokens.get(name) for name in ("candidates", "thoughts")))


def _failure(error: dict[str, Any]) -> Failed:
    """Return a failure; its words may hold the provider's answer, which is JSON again."""
    words = text_in(error, "message")
    inner = object_in(json_in(words.removeprefix(_API_ERROR).rpartition("]")[0]), "error")
    if inner:
        return Failed(text_in(inner, "message") or words, status_in(inner, "code"), text_in(inner, "status"))
    return Failed(words, status_in(error, "code"), text_in(error, "type"))
