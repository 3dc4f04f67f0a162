"""Follow a run through the daemon until it ends, as `--wait` does."""

from collections import deque
from functools import partial

import typer

from daemon.cli.client import Client
from daemon.cli.output import print_json, say
from daemon.cli.run_output import show_for_people
from daemon.errors import DaemonUnreachableError


def follow(client: Client, run: int, *, json: bool) -> None:
    """Show what a run and its further attempts do until they end; exit with 1 unless the last completed."""
    following: int | None = run
    while following is not None:
        say(f"Following run {following}", error=True)
        try:
            output = client.stream(f"/runs/{following}/output?follow=true")
            details = partial(client.get, f"/runs/{following}")
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
    if json:
        print_json(ended)
    else:
        reason = f": {ended['error']}" if ended["error"] else ""
        say(f"Run {ended['id']} {ended['status']}{reason}", error=True)
    if ended["status"] != "completed":
        raise typer.Exit(1)
