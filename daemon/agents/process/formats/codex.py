"""`codex exec --json`: a line for each event of its thread, the last one `turn.completed` or `turn.failed`."""

import re
from collections.abc import Iterator
from typing import Any

from .events import Amounts, Denied, Ended, Event, Failed, Retrying, Said, SessionStarted, ToolResult, UsedTool, Warned
from .values import count_in, json_in, object_in, objects_in, text_in, tool_call, total

KINDS = frozenset(
    (
        "thread.started",
        "turn.started",
        "turn.completed",
        "turn.failed",
        "item.started",
        "item.updated",
        "item.completed",
        "error",
    )
)
"""The types of its lines."""
_RECONNECTING = re.compile(r"Reconnecting\.\.\. (\d{1,3})/(\d{1,3})(?: \((.{0,500}?)\))?\Z", re.DOTALL)
_NO_TOOLS = frozenset({"reasoning", "todo_list"})
_MOST_CHANGES = 50  # files of one edit


def events_of(content: dict[str, Any]) -> Iterator[Event]:
    """Yield what one line of the output says."""
    match content.get("type"):
        case "thread.started":
            yield SessionStarted(text_in(content, "thread_id"))
        case "item.started" if object_in(content, "item").get("type") == "command_execution":
            yield _command(object_in(content, "item"))
        case "item.completed":
            yield from _item(object_in(content, "item"))
        case "turn.completed":
            usage = object_in(content, "usage")
            used = Amounts(total([usage.get("input_tokens")]), total([usage.get("output_tokens")]))
            yield Ended(total=used if usage else None)
        case "error":
            yield _error(text_in(content, "message"))
        case "turn.failed":
            yield _error(text_in(object_in(content, "error"), "message"))


def _item(item: dict[str, Any]) -> Iterator[Event]:
    """Yield what a completed item says; one of type `error` is a warning, not a failure."""
    kind = text_in(item, "type")
    if kind == "agent_message":
        yield Said(text_in(item, "text"))
    elif kind == "error":
        yield Warned(text_in(item, "message"))
    elif kind not in _NO_TOOLS:
        yield from _tool(kind, item)
        if item.get("status") == "declined":
            name, given = ("shell", item.get("command")) if kind == "command_execution" else (kind, item.get("tool"))
            yield Denied(tool_call(name, given), text_in(item, "id") or None)


def _tool(kind: str, item: dict[str, Any]) -> Iterator[Event]:
    match kind:
        case "command_execution":
            yield _command(item)
            failed, status = item.get("status") == "failed", count_in(item, "exit_code")
            yield ToolResult(item.get("aggregated_output"), text_in(item, "id") or None, failed, status)
        case "file_change":
            for change in objects_in(item, "changes")[:_MOST_CHANGES] or [{}]:
                yield UsedTool("edit", {"path": text_in(change, "path") or "a file"})
        case "mcp_tool_call":
            yield UsedTool(f"{text_in(item, 'server')}.{text_in(item, 'tool')}", item.get("arguments"))
        case _:
            yield UsedTool(kind, {"query": item.get("query")})


def _command(item: dict[str, Any]) -> UsedTool:
    return UsedTool("shell", {"command": item.get("command")}, text_in(item, "id") or None)


def _error(words: str) -> Event:
    found = _RECONNECTING.match(words)
    if found is None:
        return _failure(words)
    return Retrying(found[3] or "connection lost", int(found[1]), int(found[2]))


def _failure(words: str) -> Failed:
    """Return a failure; its words may be the provider's answer, which is JSON again."""
    inner = json_in(words)
    error = object_in(inner, "error") or inner
    status = inner.get("status")
    return Failed(
        text_in(error, "message") or text_in(error, "detail") or words,
        status if type(status) is int else None,
        text_in(error, "code") or text_in(error, "type"),
    )
