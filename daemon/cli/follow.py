"""Follow a run through the daemon until it ends, as `--wait` does."""

from collections import deque
from functools import partial
from typing import Any

import typer

from daemon.cli.client import Client
from daemon.cli.output import print_json, say
from daemon.cli.run_output import show_for_people
from daemon.errors import DaemonUnreachableError


def follow(client: Client, run: int, *, json: bool) -> None:
    """Show what a run and its further attempts do until they end; exit with 1 unless the last completed."""
    following: int | None = run
    while following is not None:
        try:
            details = partial(client.get, f"/runs/{following}")
            waiting_for = details().get("waiting_for")  # not sent by daemons of earlier versions
            say(f"Following run {following}{f', which waits: {waiting_for}' if waiting_for else ''}", error=True)
            output = client.stream(f"/runs/{following}/output?follow=true")
            if json:
                deque(output, maxlen=0)
            else:
                show_for_people(output, details)
            ended = details()
        except DaemonUnreachableError:
            raise DaemonUnreachableError(
                f"the daemon stopped; run {following} continues, follow it with `agentcron runs logs {following} -f`"
            ) from None
        following = ended["next_run_id"] if ended["status"] == "continued_as_new" else None
        if following is not None or not json:
            say(_end_of(ended), error=True)
    if json:
        print_json(ended)
    if ended["status"] != "completed":
        raise typer.Exit(1)


def _end_of(run: dict[str, Any]) -> str:
    """Return a sentence about how a run ended."""
    how = "failed, and is tried again" if run["status"] == "continued_as_new" else run["status"]
    return f"Run {run['id']} {how}{': ' + run['error'] if run['error'] else ''}"
