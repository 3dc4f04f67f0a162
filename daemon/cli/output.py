"""Print for people: aligned tables, facts and times in a schedule's timezone; plain text if not to a terminal."""

import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime
    from zoneinfo import ZoneInfo

_WIDEST = 100  # characters of a text in a table
_LEAST_ROOM = 20  # columns of the terminal, to fold a text in them
_STYLES = {
    "completed": "green",
    "launched": "green",
    "active": "green",
    "running": "cyan",
    "pending": "yellow",
    "buffered": "yellow",
    "paused": "yellow",
    "suspended": "yellow",
    "failed": "red",
    "interrupted": "red",
    "cancelled": "magenta",
    "continued_as_new": "magenta",
}


def say(line: str, *, error: bool = False) -> None:
    """Print one line for people, to standard output or standard error, with control characters escaped.

    A daemon, or who poses as one, may have put anything into it.
    """
    from daemon.text import escape

    print(escape(line), file=sys.stderr if error else sys.stdout)


def print_json(document: object) -> None:
    """Print one JSON document with all control characters escaped."""
    import json

    text = json.dumps(document, indent=2, ensure_ascii=sys.stdout.isatty())
    print(text.replace("\x7f", "\\u007f"))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows under their headings, cutting nothing off; print `empty` if there are none.

    On a terminal the last column is folded if there is room for it; otherwise the terminal wraps the lines.
    """
    from daemon.text import escape

    lines = [[escape(_text(value)) for value in row] for row in rows]
    if not lines:
        print(empty)
        return
    heading = [column.upper() for column in columns]
    widths = [max(len(line[n]) for line in [heading, *lines]) for n in range(len(columns))]
    if sys.stdout.isatty():
        _print_styled(heading, lines, widths)
        return
    for line in [heading, *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_styled(heading: list[str], lines: list[list[str]], widths: list[int]) -> None:
    from textwrap import wrap

    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    indent = sum(widths[:-1]) + 2 * len(widths[:-1])
    room = console.width - indent
    for line in [heading, *lines]:
        *cells, last = line
        text = Text()
        for cell, width in zip(cells, widths, strict=False):
            text.append(cell.ljust(width) + "  ", _STYLES.get(cell, ""))
        parts = wrap(last, room) if room >= _LEAST_ROOM and len(last) > room else [last]
        text.append(f"\n{' ' * indent}".join(parts), _STYLES.get(last, ""))
        if line is heading:
            text.stylize("bold")
        text.rstrip()
        console.print(text)


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values under each other, a list on several lines, without names that have no value."""
    from daemon.text import escape

    known = [
        (name, value if isinstance(value, list) else [value]) for name, value in facts if value not in (None, "", [])
    ]
    width = max(len(name) for name, _ in known)
    for name, values in known:
        for number, value in enumerate(values):
            print(f"{('' if number else name).ljust(width)}  {escape(_text(value))}")


def tell(view: dict[str, Any], text: str, *, json: bool) -> None:
    """Print what a command did, as a JSON document or as a sentence."""
    if json:
        print_json(view)
    else:
        say(text)


def local_time(instant: "datetime | str | None", zone: str = "UTC") -> str:
    """Return an instant for people: in a timezone, to the second; `-` for None; raise DamagedRowError.

    It is in UTC, with a note on standard error, if this host does not know the timezone.
    """
    from daemon.store.rows import row_of
    from daemon.units import parse_instant

    if instant is None:
        return "-"
    with row_of(f"the time {instant!r}"):
        moment = parse_instant(instant) if isinstance(instant, str) else instant
    return f"{moment.astimezone(_zone(zone)):%Y-%m-%d %H:%M:%S %Z}"


@cache
def _zone(name: str) -> "ZoneInfo":
    from daemon.rules.cadence import check_zone

    try:
        return check_zone(name)
    except ValueError:
        say(f"note: this host does not know the timezone {name!r}; its times are shown in UTC", error=True)
        return check_zone("UTC")


def shortened(text: str | None) -> str:
    """Return a text, cut to the width of a table column."""
    text = text or ""
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _text(value: Any) -> str:  # noqa: ANN401 - cells of any kind
    return "-" if value is None else str(value)
