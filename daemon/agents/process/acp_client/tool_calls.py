"""What was shown of each tool call, so that an output that an agent repeats as it grows is shown once.

Of the text only its length and hash are remembered, and only of the newest calls: an agent may make any number of them.
"""

from dataclasses import dataclass
from typing import Any

from ..supervisor.mask import Secrets

_MOST_CALLS = 1000
_LONGEST_ID = 200
_LONGEST_TITLE = 300
_LONGEST_WORD = 40  # of a kind or a status
_MOST_SHOWN = 16_000
"""Characters of the output of one call that are shown."""
_CUT = "\n[the rest of this output is not shown]\n"


@dataclass(slots=True)
class ToolCall:
    """One call, as it was shown last."""

    number: str
    title: str
    """Masked, and its beginning only."""
    kind: str = ""
    status: str = ""
    length: int = 0
    """Characters of its output."""
    digest: int = 0
    """The hash of its output."""
    left: int = _MOST_SHOWN
    """How many characters of its output may still be shown."""


class ToolCalls:
    """The newest tool calls of a session."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._calls: dict[str, ToolCall] = {}

    def find(self, update: dict[str, Any]) -> ToolCall:
        """Return the call that an update, or a permission request, is about, as it is known until now."""
        number = str(update.get("toolCallId") or "something")[:_LONGEST_ID]
        return self._calls.get(number) or ToolCall(number, self._secrets.brief(number, _LONGEST_TITLE))

    def take(self, call: ToolCall, update: dict[str, Any]) -> bool:
        """Take over title, kind and status of an update; return whether any of them is new."""
        title = update.get("title")
        before = (call.title, call.kind, call.status)
        if isinstance(title, str) and title:
            call.title = self._secrets.brief(title, _LONGEST_TITLE)
        call.kind = word_of(update, "kind") or call.kind
        call.status = word_of(update, "status") or call.status
        is_new = call.number not in self._calls
        if is_new and len(self._calls) >= _MOST_CALLS:
            del self._calls[next(iter(self._calls))]
        self._calls[call.number] = call
        return (call.title, call.kind, call.status) != before or (is_new and update.get("sessionUpdate") == "tool_call")

    def added(self, call: ToolCall, text: str) -> str:
        """Return what is to be shown of the output of a call: what was added to it, or all if it is another one."""
        has_grown = len(text) >= call.length and hash(text[: call.length]) == call.digest
        added = text[call.length :] if has_grown else text
        call.length, call.digest = len(text), hash(text)
        if len(added) <= call.left:
            call.left -= len(added)
            return added
        shown, call.left = self._secrets.brief(added, call.left) + _CUT if call.left else "", 0
        return shown


def word_of(update: dict[str, Any], key: str) -> str:
    """Return the kind or the status in an update, empty without one."""
    value = update.get(key)
    return value[:_LONGEST_WORD] if isinstance(value, str) else ""
