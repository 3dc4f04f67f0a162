"""Render the agent's updates for people: its text as it arrives, and a line for everything else."""

import re
import sys
from typing import Any

from ..supervisor.mask import Secrets
from ..supervisor.untrusted_json import objects_in
from .tool_calls import ToolCall, ToolCalls, word_of

LONGEST_NOTE = 2000
"""Characters of one note."""
LONGEST_MESSAGE = 4000
"""Characters of the message or the failure in the result."""
_MOST_KEPT = 64 * LONGEST_MESSAGE  # characters of a message, so that a secret is masked before the message is cut
_MARKS = {"completed": "x", "in_progress": "~"}
_LINE_START = re.compile(r"\n(?=.)")


class Rendering:
    """Writes updates to the standard output."""

    def __init__(self, secrets: Secrets, calls: ToolCalls) -> None:
        self._secrets = secrets
        self._calls = calls
        self._writing = ""  # what the last text belongs to, so that more of it goes on in the same line
        self._at_line_start = True
        self._message: list[str] = []
        self._message_length = 0
        self._message_id = 0  # a hash: agents choose their ids

    @property
    def last_message(self) -> str | None:
        """The agent's last message: the text since another message began, or anything else was shown."""
        return self._secrets.brief("".join(self._message).strip(), LONGEST_MESSAGE) or None

    def update(self, update: dict[str, Any]) -> None:
        """Show an update of the session; ignore those with nothing to show."""
        kind = update.get("sessionUpdate")
        if kind == "agent_message_chunk":
            self._say(text_of(update.get("content")), update.get("messageId"))
        elif kind == "agent_thought_chunk":
            self._think(text_of(update.get("content")))
        elif isinstance(kind, str) and kind in {"tool_call", "tool_call_update"}:
            self._tool(update)
        elif kind == "plan":
            self._plan(update.get("entries"))

    def note(self, text: str) -> None:
        """Write a separate line."""
        if not text.strip() or text == "[agent] ":
            return
        text = self._secrets.brief(text, LONGEST_NOTE)
        self.end_line()
        self._writing = ""
        self._begin_message()
        self._write(text.rstrip("\n") + "\n")

    def error_output(self, printed: bytes) -> None:
        """Write what the agent printed on its standard error, from the start of a line; a message may go on later."""
        if printed:
            self._turn_to("standard error")
            self._write_bytes(printed)

    def end_line(self) -> None:
        """End the current line, if there is one."""
        if not self._at_line_start:
            self._write("\n")

    def _say(self, text: str, message_id: object) -> None:
        """Write a part of a message as it arrives; another id begins another message."""
        if not text:
            return
        number = hash(message_id) if isinstance(message_id, str) else 0
        if number != self._message_id:
            self._message_id = number
            self._writing = ""
            self._begin_message()
        self._turn_to("message")
        if self._message_length < _MOST_KEPT:
            self._message.append(text)
            self._message_length += len(text)
        self._write(text)

    def _think(self, text: str) -> None:
        if text:
            self._begin_message()
            self._turn_to("thought", "[thought] ")
            self._write(text)

    def _begin_message(self) -> None:
        self._message.clear()
        self._message_length = 0

    def _turn_to(self, what: str, prefix: str = "") -> None:
        """Begin a line unless the last text belongs to the same thing."""
        if self._writing != what:
            self.end_line()
            self._write(prefix)
            self._writing = what

    def _write(self, text: str) -> None:
        self._write_bytes(text.encode(errors="replace"))

    def _write_bytes(self, data: bytes) -> None:
        if data:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            self._at_line_start = data.endswith(b"\n")

    def _tool(self, update: dict[str, Any]) -> None:
        """Write a line if the state of a call is another one, and what was added to its output."""
        call = self._calls.find(update)
        is_changed = self._calls.take(call, update)
        text = "\n".join(filter(None, map(_output_in, objects_in(update.get("content")))))
        added = self._calls.added(call, text) if text else ""
        if is_changed or (added and self._writing != _mark(call)):
            details = ", ".join(filter(None, (word_of(update, key) for key in ("kind", "status"))))
            title = text_of(update.get("title")) or call.title
            self.note(f"[tool] {title}" + (f" ({details})" if details else ""))
        if added:
            self._writing = _mark(call)
            indent = "  " if self._at_line_start and not added.startswith("\n") else ""
            self._write(indent + _LINE_START.sub("\n  ", added))

    def _plan(self, entries: object) -> None:
        lines = [
            f"  [{_MARKS.get(str(entry.get('status')), ' ')}] {text_of(entry.get('content'))}"
            for entry in objects_in(entries)
        ]
        self.note("\n".join(["[plan]", *lines]))


def text_of(content: object) -> str:
    """Return the text of a content block, or a description of a block without text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, dict):
        return ""
    if isinstance(content.get("text"), str):
        return str(content["text"])
    resource = content.get("resource")
    if isinstance(resource, dict) and isinstance(resource.get("text"), str):
        return str(resource["text"])
    return f"[{content.get('type')} {content.get('uri') or content.get('mimeType') or ''}]"


def _mark(call: ToolCall) -> str:
    return f"tool {call.number}"


def _output_in(content: dict[str, Any]) -> str:
    """Return the text of a part of a tool call's content."""
    return f"[changes {content.get('path')}]" if content.get("type") == "diff" else text_of(content.get("content"))
