"""Arguments and options that several commands share."""

from typing import Annotated

import typer

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
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="Show at most this many.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]
