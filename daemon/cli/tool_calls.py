"""What an agent did with its tools, as lines of a transcript: `$ command` and the beginning of its output, edits."""

from typing import Any

from daemon.agents.process.formats.events import ToolResult, UsedTool
from daemon.agents.process.formats.values import objects_in, readable, text_in, tool_call
from daemon.text import escape

_COMMANDS = frozenset(("Bash", "bash", "shell", "run_shell_command"))
_EDITS = {
    "Edit": "edit",
    "MultiEdit": "edit",
    "NotebookEdit": "edit",
    "Write": "write",
    "edit": "edit",
    "patch": "edit",
    "replace": "edit",
    "write": "write",
    "write_file": "write",
}
_PATHS = ("file_path", "filePath", "path", "notebook_path")
_MOST_LINES = 10
_LONGEST_LINE = 400  # characters
_EXAMINED = 16 * 1024  # characters at the beginning of a text
_MOST_CALLS = 200  # whose results can still come
_MOST_PARTS = 20  # of a result
_LONGEST_ID = 200
_LONGEST_LABEL = 80


class ToolCalls:
    """The calls of tools of one run, and what their results belong to."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[str, bool]] = {}  # what was shown of a call, and whether its result is
        self._last: str | None = None  # the call that was shown last

    def called(self, tool: UsedTool) -> list[str]:
        """Return the lines that show a call; none if it was shown before."""
        call = tool.call[:_LONGEST_ID] if tool.call else None
        if call is not None and call in self._calls:
            return []
        given: dict[str, Any] = tool.given if isinstance(tool.given, dict) else {}
        command = given.get("command") if tool.name in _COMMANDS else None
        is_command = isinstance(command, str)
        lines = _command(command) if isinstance(command, str) else [_line(_shown(tool.name, given))]
        self._last = call
        if call is not None:
            self._calls[call] = (lines[0][:_LONGEST_LABEL], is_command)
            if len(self._calls) > _MOST_CALLS:
                del self._calls[next(iter(self._calls))]
        return lines

    def returned(self, result: ToolResult) -> list[str]:
        """Return the lines that show a result: that of a command, or of what failed."""
        call = result.call[:_LONGEST_ID] if result.call else None
        label, is_command = self._calls.get(call or "", ("", False))
        failed = result.failed or bool(result.exit_status)
        if not (is_command or failed):
            return []
        lines = [f"  {line}".rstrip() for line in _result(result.output)]
        if result.exit_status:
            lines.append(f"  exit status {result.exit_status}")
        elif failed:
            lines.append("  failed")
        is_apart = bool(label) and call != self._last
        self._last = call
        return [f"{label} (result)", *lines] if is_apart and lines else lines


def _command(command: str) -> list[str]:
    first, *others = _beginning(command) or [""]
    return [f"$ {first}", *(f"> {line}" for line in others)]


def _shown(name: str, given: dict[str, Any]) -> str:
    paths = [text_in(given, key) for key in _PATHS if text_in(given, key)]
    return f"{_EDITS[name]} {paths[0]}" if name in _EDITS and paths else tool_call(name, given)


def _result(output: object) -> list[str]:
    """Return the first lines of a result: a text, or the texts of its parts."""
    if isinstance(output, list):
        parts = objects_in({"parts": output[:_MOST_PARTS]}, "parts")
        output = "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return _beginning(output) if isinstance(output, str) else []


def _beginning(text: str) -> list[str]:
    """Return the first lines of a text as it was parsed, and how many more there are."""
    start = readable(text[:_EXAMINED]).strip("\r\n").replace("\r\n", "\n").replace("\r", "\n")
    lines = start.split("\n") if start else []
    more = max(0, len(lines) - _MOST_LINES) + text.count("\n", _EXAMINED, len(text) - 1)
    shown = [_line(line) for line in lines[:_MOST_LINES]]
    return [*shown, f"... {more} more line{'' if more == 1 else 's'}"] if more else shown


def _line(text: str) -> str:
    short = text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]}..."
    return escape(" ".join(short.split("\t")))
