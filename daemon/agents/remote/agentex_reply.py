"""The reply of a sync Agentex agent: assemble updates, which are deltas or whole messages, into the output."""

import json
from collections import defaultdict
from typing import Any, TypeGuard

from daemon.agents.remote.transcript import Transcript
from daemon.agents.remote.usage import usage_in

_LONGEST = 2000  # characters shown of content that is not text
_CONTENTS = {"text", "data", "reasoning", "tool_request", "tool_response"}


class _Message:
    """The text of a message, which may come in any number of parts: each costs no more than its own length."""

    __slots__ = ("_length", "_parts")  # a peer may send a hundred thousand messages

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0

    def add(self, part: str) -> None:
        """Append a part."""
        self._parts.append(part)
        self._length += len(part)

    @property
    def text(self) -> str:
        """All of it."""
        self._parts[:] = ["".join(self._parts)]
        return self._parts[0]

    def rest_of(self, whole: str) -> str | None:
        """Return what follows this text in the whole of it; None if it does not begin with this text."""
        if len(whole) < self._length:  # so that a short one costs nothing, however long this text is
            return None
        return whole[self._length :] if whole.startswith(self.text) else None


class Reply:
    """Turns updates into output: text unchanged, everything else as a line that describes it."""

    def __init__(self, transcript: Transcript) -> None:
        self.usage: dict[str, Any] = {}
        self.is_understood = False
        """Whether at least one update was of a kind that the protocol has; without any, the agent did not answer."""
        self._transcript = transcript
        self._messages: defaultdict[int | None, _Message] = defaultdict(_Message)
        self._complete: set[int | None] = set()
        self._index: int | None = None

    @property
    def last_message(self) -> str | None:
        """The text of the last message."""
        return self._messages[self._index].text.strip() or None

    def take(self, update: dict[str, Any]) -> None:
        """Handle one update (`start`, `delta`, `full`, `done`), or a message outside an update."""
        kind, content, delta = str(update.get("type")), update.get("content"), update.get("delta")
        index = update.get("index")
        index = index if isinstance(index, int) else None
        self.usage = usage_in(update, content, _data_of(content)) or self.usage
        if kind == "delta" and isinstance(delta, dict):
            self.is_understood = True
            if isinstance(delta.get("text_delta"), str):
                self._start_next(index)
                self._add(index, delta["text_delta"])
        elif kind in {"start", "full"} and _is_message(content):
            self.is_understood = True
            self._whole(index, content, is_full=kind == "full")
        elif kind in _CONTENTS and _is_message(update):
            self.is_understood = True
            self._whole(len(self._messages), update, is_full=True)

    def _whole(self, index: int | None, content: dict[str, Any], *, is_full: bool) -> None:
        """Show a message except for the part that was already shown."""
        if content.get("type", "text") == "text":
            self._start_next(index)
            text = content["content"]
            rest = self._messages[index].rest_of(text)
            if rest is not None:
                self._add(index, rest)
            elif is_full:  # the agent replaced what it had sent
                self._complete.add(index)
                self._start_next(index)
                self._add(index, text)
            if is_full:
                self._complete.add(index)
        elif is_full:
            self._transcript.new_line()
            self._transcript.note(_described(content), _LONGEST)

    def _start_next(self, index: int | None) -> None:
        """Start another message if the one with this index is complete."""
        if index in self._complete:
            self._complete.discard(index)
            self._messages[index] = _Message()
            self._transcript.new_line()

    def _add(self, index: int | None, text: str) -> None:
        if text and index != self._index:
            self._transcript.new_line()
            self._index = index
        self._messages[index].add(text)
        self._transcript.add(text)


def _is_message(content: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether this is the content of a message: an object, which has its text if it is one."""
    return isinstance(content, dict) and (
        content.get("type", "text") != "text" or isinstance(content.get("content"), str)
    )


def _described(content: dict[str, Any]) -> str:
    match content.get("type"):
        case "reasoning":
            words = content.get("summary") or content.get("content")
            return f"[thought] {' '.join(map(str, words)) if isinstance(words, list) else words}"
        case "tool_request":
            return f"[tool] {content.get('name')} {_json(content.get('arguments'))}"
        case "tool_response":
            return f"[tool] {content.get('name')} answered: {_json(content.get('content'))}"
        case "data":
            return _json(content.get("data"))
    return f"[{content.get('type')}]"


def _data_of(content: object) -> object:
    return content.get("data") if isinstance(content, dict) else None


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
