"""Turn the output of a run in a known format into a transcript for people: words, commands, edits, what it cost.

Nothing in it can control a terminal: every text that comes from the agent is escaped. Bounded, however much the agent
prints.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

from daemon.agents.process.formats.events import (
    Amounts,
    Denied,
    Ended,
    Event,
    Failed,
    LimitHit,
    Retrying,
    Said,
    ToolResult,
    UsedTool,
    Warned,
)
from daemon.agents.process.formats.lines import Dropped, Lines, Piece, Unread
from daemon.agents.process.formats.reader import format_named
from daemon.agents.process.formats.report import Report, waiting
from daemon.agents.process.formats.values import LONGEST_TEXT
from daemon.cli.tool_calls import ToolCalls
from daemon.text import escape_lines
from daemon.units import format_size

_PIECE = 8192  # characters escaped at once: a list of more would take much memory
_LONGEST_NOTE = 2000  # characters


class Transcript:
    """Renders the output of one run as it arrives."""

    def __init__(self, result_format: str) -> None:
        """Render a format; raise LookupError if this version knows none of that name."""
        found = format_named(result_format)
        self._events_of = found.events_of
        self._lines = Lines(found)
        self._report = Report()
        self._tools = ToolCalls()
        self._page = _Page()
        self._failure: Failed | None = None

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Yield what the next bytes of the output say."""
        for piece in self._lines.feed(chunk):
            yield from self._render(piece)

    def finish(self) -> Iterator[str]:
        """Yield what is left at the end of the output, and what the run used."""
        for piece in self._lines.finish():
            yield from self._render(piece)
        summary = self._report.summary()
        used = _used(Amounts(**summary["usage"]), at_least=summary["at_least"])
        if used:
            yield from self._page.note(used)
        yield from self._page.end()

    def _render(self, piece: Piece) -> Iterator[str]:
        match piece:
            case bytes():
                yield from self._page.text(piece.decode(errors="backslashreplace"))
            case Unread(size):
                yield from self._page.note(f"a line of {format_size(size)} is not shown; --raw shows it")
            case Dropped(line):
                self._report.is_incomplete = True
                yield from self._page.text(line.decode())
            case _:
                yield from self._page.end_of_text()
                for event in self._events_of(piece):
                    yield from self._event(event)
                    self._report.take(event)

    def _event(self, event: Event) -> Iterator[str]:
        match event:
            case Said(text, continues):
                yield from self._say(text, continues=continues)
            case Ended(answer) if answer and not self._was_said(answer):
                yield from self._say(answer)
            case UsedTool():
                yield from self._page.lines(self._tools.called(event))
            case ToolResult():
                yield from self._page.lines(self._tools.returned(event))
            case Failed() if event != self._failure:
                self._failure = event
                yield from self._page.note(self._failed(event))
            case _:
                note = _note(event)
                if note:
                    yield from self._page.note(note)

    def _was_said(self, text: str) -> bool:
        return text.strip() == self._report.answer.strip()

    def _say(self, text: str, *, continues: bool = False) -> Iterator[str]:
        if not (continues or text.strip()):
            return
        yield from self._page.words(text if continues else text.strip("\n") + "\n", continues=continues)
        if len(text) >= LONGEST_TEXT:
            yield from self._page.note("the rest of this text is not shown; --raw shows it")

    def _failed(self, event: Failed) -> str:
        """Return what a failure says; if its words were the last ones, only what else is known of it."""
        words = "" if self._was_said(event.words) else event.words
        known = " ".join(str(one) for one in (event.status, event.name) if one and str(one) not in words)
        return f"failed: {words} ({known})" if words and known else f"failed: {words or known}"


class _Page:
    """The text so far: words stand apart from everything else by an empty line."""

    def __init__(self) -> None:
        self._kind = ""  # of what was written last
        self._is_open = False  # whether the last line is not ended

    def words(self, text: str, *, continues: bool) -> Iterator[str]:
        """Write what the agent says, which may go on where it stopped."""
        if not (continues and self._kind == "words"):
            yield from self._begin("words")
        yield from self._write(text)

    def text(self, text: str) -> Iterator[str]:
        """Write a part of the output as it is."""
        if not (self._is_open and self._kind == "text"):
            yield from self._begin("text")
        yield from self._write(text)

    def end_of_text(self) -> Iterator[str]:
        """End a line of the output that something else broke off."""
        if self._kind == "text":
            yield from self.end()

    def lines(self, lines: list[str]) -> Iterator[str]:
        """Write lines."""
        if lines:
            yield from self._begin("lines")
            yield from self._write("".join(f"{line}\n" for line in lines))

    def note(self, text: str) -> Iterator[str]:
        """Write a line that says what happened."""
        short = text if len(text) <= _LONGEST_NOTE else f"{text[:_LONGEST_NOTE]}..."
        yield from self.lines([f"[{' '.join(short.split())}]"])

    def end(self) -> Iterator[str]:
        """End the last line."""
        if self._is_open:
            self._is_open = False
            yield "\n"

    def _begin(self, kind: str) -> Iterator[str]:
        yield from self.end()
        if self._kind and "words" in {kind, self._kind}:
            yield "\n"
        self._kind = kind

    def _write(self, text: str) -> Iterator[str]:
        for at in range(0, len(text), _PIECE):
            yield escape_lines(text[at : at + _PIECE])
        if text:
            self._is_open = not text.endswith("\n")


def _note(event: Event) -> str | None:
    """Return what an event says in one line, None if it says nothing that is shown."""
    match event:
        case Retrying():
            return waiting(event)
        case LimitHit(ends_at, name):
            until = _instant(ends_at)
            return f"limit used up: {name or 'unnamed'}{f', until {until}' if until else ''}"
        case Denied(what):
            return f"denied: {what}"
        case Warned(text):
            return f"warning: {text}"
    return None


def _instant(seconds: object) -> str | None:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _used(amounts: Amounts, *, at_least: bool) -> str:
    """Return what was used, empty if nothing is known; a negative amount is none."""
    known = [
        f"{amount:,} {name} tokens"
        for amount, name in ((amounts.input_tokens, "input"), (amounts.output_tokens, "output"))
        if amount is not None and amount >= 0
    ]
    if amounts.cost_usd is not None and amounts.cost_usd >= 0:
        known.append(f"${amounts.cost_usd:,.4f}")
    return f"used {'at least ' if at_least else ''}{', '.join(known)}" if known else ""
