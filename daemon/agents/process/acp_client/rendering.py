"""Render the agent's updates for people: its text as it arrives, and a line for everything else."""

import sys
from typing import Any

from ..supervisor.mask import Secrets

LONGEST_NOTE = 2000
"""Characters of one note."""
LONGEST_MESSAGE = 4000
"""Characters of the message or the failure in the result."""
_MOST_TITLES = 2000
_MOST_KEPT = 64 * LONGEST_MESSAGE  # characters of a message, so that a secret is masked before the message is cut
_MARKS = {"completed": "x", "in_progress": "~"}


class Rendering:
    """Writes updates to the standard output."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._kind = ""
        self._at_line_start = True
        self._titles: dict[str, str] = {}
        self._message: list[str] = []
        self._message_length = 0

    @property
    def last_message(self) -> str | None:
        """The agent's last message: the text since anything else was shown."""
        return self._secrets.brief("".join(self._message).strip(), LONGEST_MESSAGE) or None

    def update(self, update: dict[str, Any]) -> None:
        """Show an update of the session; ignore those with nothing to show."""
        kind = update.get("sessionUpdate")
        if kind == "agent_message_chunk":
            self._say("", text_of(update.get("content")))
        elif kind == "agent_thought_chunk":
            self._say("[thought] ", text_of(update.get("content")))
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
        self._kind = ""
        self._begin_message()
        self._write(text.rstrip("\n") + "\n")

    def _begin_message(self) -> None:
        self._message.clear()
        self._message_length = 0

    def end_line(self) -> None:
        """End the current line, if there is one."""
        if not self._at_line_start:
            self._write("\n")

    def _say(self, prefix: str, text: str) -> None:
        """Write text as it arrives; text that is not a message starts with its kind."""
        if not text:
            return
        if prefix:
            self._begin_message()
        if self._kind != (prefix or "message"):
            self.end_line()
            self._write(prefix)
            self._kind = prefix or "message"
        if not prefix and self._message_length < _MOST_KEPT:
            self._message.append(text)
            self._message_length += len(text)
        self._write(text)

    def _write(self, text: str) -> None:
        if text:
            sys.stdout.buffer.write(text.encode(errors="replace"))
            sys.stdout.buffer.flush()
            self._at_line_start = text.endswith("\n")

    def _tool(self, update: dict[str, Any]) -> None:
        number = str(update.get("toolCallId"))
        title = text_of(update.get("title")) or self._titles.get(number, number)
        if len(self._titles) < _MOST_TITLES:
            self._titles[number] = title
        details = [text_of(update.get(key)) for key in ("kind", "status")]
        summary = ", ".join(detail for detail in details if detail)
        shown = [_shown(content) for content in _list(update.get("content"))]
        if summary or update.get("sessionUpdate") == "tool_call" or any(shown):
            self.note("\n".join([f"[tool] {title}" + (f" ({summary})" if summary else ""), *filter(None, shown)]))

    def _plan(self, entries: object) -> None:
        lines = [
            f"  [{_MARKS.get(str(entry.get('status')), ' ')}] {text_of(entry.get('content'))}"
            for entry in _list(entries)
            if isinstance(entry, dict)
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


def _shown(content: object) -> str:
    if not isinstance(content, dict):
        return ""
    if content.get("type") == "diff":
        return f"  [changes {content.get('path')}]"
    text = text_of(content.get("content"))
    return "\n".join(f"  {line}" for line in text.removesuffix("\n").split("\n"))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
