"""`opencode run --format json`: a line for each part of its messages; every step says what it used."""

from collections.abc import Iterator
from typing import Any

from .events import Amounts, Denied, Ended, Event, Failed, Said, SessionStarted, ToolResult, Used, UsedTool
from .values import amount, count_in, object_in, status_in, text_in, tool_call, total

KINDS = frozenset(("step_start", "text", "reasoning", "tool_use", "step_finish", "error"))
"""The types of its lines."""
_DENIED = ("rejected permission to use", "specified a rule which prevents you from using")
"""What the errors of tools say that it was not allowed to use."""


def events_of(content: dict[str, Any]) -> Iterator[Event]:
    """Yield what one line of the output says."""
    session, part = text_in(content, "sessionID"), object_in(content, "part")
    if session:
        yield SessionStarted(session)
    match content.get("type"):
        case "text":
            yield Said(text_in(part, "text"))
        case "tool_use":
            yield from _tool(part)
        case "step_finish":
            tokens = object_in(part, "tokens")
            cache = object_in(tokens, "cache")
            read = total((tokens.get("input"), cache.get("read"), cache.get("write")))
            yield Used(Amounts(read, total((tokens.get("output"), tokens.get("reasoning"))), amount(part.get("cost"))))
            if part.get("reason") != "tool-calls":
                yield Ended()
        case "error":
            error = object_in(content, "error")
            data = object_in(error, "data")
            name = text_in(error, "name")
            yield Failed(text_in(data, "message") or name, status_in(data, "statusCode"), name)


def _tool(part: dict[str, Any]) -> Iterator[Event]:
    name, state, call = text_in(part, "tool"), object_in(part, "state"), text_in(part, "callID") or None
    failed = state.get("status") == "error"
    yield UsedTool(name, state.get("input"), call)
    output, exit_status = state.get("error" if failed else "output"), count_in(object_in(state, "metadata"), "exit")
    yield ToolResult(output, call, failed, exit_status)
    if failed and any(words in text_in(state, "error") for words in _DENIED):
        yield Denied(tool_call(name, state.get("input")), call)
