"""Arguments and options that several commands share."""

from typing import Annotated

import typer

from daemon.model import IDEMPOTENCY_KEY

_LAST_RUN = 2**63 - 1


def _run_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) <= _LAST_RUN):
        raise typer.BadParameter(f"{text!r} is not a run number; `agentcron runs list` shows them")
    return int(text)


RunNumber = Annotated[int, typer.Argument(metavar="RUN", parser=_run_number, help="The number of the run.")]
OptionalRunNumber = Annotated[
    int | None, typer.Argument(metavar="RUN", parser=_run_number, help="The number of the run.")
]
ScheduleAddress = Annotated[str, typer.Argument(metavar="AGENT/NAME", help="The schedule.")]
AgentName = Annotated[str | None, typer.Option("--agent", metavar="AGENT", help="Show only this agent.")]
From = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Show only due times from this one on (RFC 3339).")
]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Show only due times up to this one (RFC 3339).")]
Cursor = Annotated[
    str | None, typer.Option("--cursor", metavar="CURSOR", help="Continue after the page with this `next_cursor`.")
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="Show at most this many.")]
Key = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", help="Repeating the command with this key returns the same run."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the run, and exit with its outcome.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]


def key_header(key: str | None) -> dict[str, str]:
    """Return the header that makes a repeated request return the same run; raise BadParameter for a malformed key."""
    if key is None:
        return {}
    if not IDEMPOTENCY_KEY.fullmatch(key):
        raise typer.BadParameter("a key has 1 to 255 ASCII characters and no spaces", param_hint="--key")
    return {"Idempotency-Key": key}


def instant_text(option: str, text: str | None) -> str | None:
    """Return an instant that an option gives as UTC text, None without one; raise BadParameter if it is not one."""
    from daemon.units import format_instant, parse_instant

    try:
        return None if text is None else format_instant(parse_instant(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is {error}", param_hint=option) from None
