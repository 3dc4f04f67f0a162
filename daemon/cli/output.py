"""Print for people: aligned tables, facts and times in a schedule's timezone; plain text if not to a terminal."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

_WIDEST = 100
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


def print_json(document: object) -> None:
    """Print one JSON document with all control characters escaped."""
    import json

    text = json.dumps(document, indent=2, ensure_ascii=sys.stdout.isatty())
    print(text.replace("\x7f", "\\u007f"))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows under their headings; print `empty` if there are none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from daemon.text import escape

    lines = [[escape(_text(value)) for value in row] for row in rows]
    if not lines:
        print(empty)
        return
    if not sys.stdout.isatty():
        _print_plain(columns, lines)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns, 1):
        last = number == len(columns)
        table.add_column(column.upper(), no_wrap=not last, overflow="fold" if last else "ellipsis")
    for line in lines:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in line))
    Console(highlight=False).print(table)


def _print_plain(columns: Sequence[str], lines: list[list[str]]) -> None:
    """Print aligned columns without colours, cutting nothing off."""
    table = [[column.upper() for column in columns], *lines]
    widths = [max(len(line[n]) for line in table) for n in range(len(columns))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values under each other, without those that have no value."""
    from daemon.text import escape

    known = [(name, escape(_text(value))) for name, value in facts if value not in {None, ""}]
    width = max(len(name) for name, _ in known)
    for name, value in known:
        print(f"{name.ljust(width)}  {value}")


def tell(view: dict[str, Any], text: str, *, json: bool) -> None:
    """Print what a command did, as a JSON document or as a sentence."""
    if json:
        print_json(view)
    else:
        print(text)


def local_time(instant: "datetime | str | None", zone: str = "UTC") -> str:
    """Return an instant for people: in a timezone, to the second; `-` for None."""
    from zoneinfo import ZoneInfo

    from daemon.units import parse_instant

    if instant is None:
        return "-"
    moment = parse_instant(instant) if isinstance(instant, str) else instant
    return f"{moment.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S %Z}"


def shortened(text: str | None) -> str:
    """Return a text, cut to the width of a table column."""
    text = text or ""
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _text(value: Any) -> str:  # noqa: ANN401 - cells of any kind
    return "-" if value is None else str(value)
