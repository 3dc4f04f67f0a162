"""`agentcron retention ...`: delete old runs."""

from typing import Annotated, Any

import typer

from daemon.cli.help import CommandGroup
from daemon.cli.output import local_time, print_json, print_table, say
from daemon.cli.parameters import Json

app = CommandGroup(help="Delete old runs.", epilog="Example: agentcron retention run --dry-run")


@app.callback()
def noun() -> None:
    """Delete old runs."""


@app.command(epilog="Example: agentcron retention run --dry-run")
def run(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted, and delete nothing.")] = False,
    trust_clock: Annotated[
        bool, typer.Option("--trust-clock", help="Delete even if the clock jumped, since you know that it is right.")
    ] = False,
    json: Json = False,
) -> None:
    """Delete runs older than retention.days now.

    A run is deleted with its events, output and artifacts. Fires and deleted schedules of that age are deleted too.
    """
    from daemon.cli.locate import find_daemon
    from daemon.cli.progress import request_with_progress

    body = {"dry_run": dry_run} | ({"trust_clock": True} if trust_clock else {})  # unknown to earlier daemons
    text = "Finding old runs" if dry_run else "Deleting old runs"
    view = request_with_progress(find_daemon(context.obj), "/retention/run", body, "retention", text)
    doubt = view.get("clock_doubt")  # not sent by daemons of earlier versions
    if doubt and not trust_clock:
        say(f"Warning: history may seem older than it is: {doubt}. A sweep refuses without --trust-clock.", error=True)
    if json:
        print_json(view)
    elif view["skipped"]:
        print("Skipped: retention.days is not set, so all runs are kept.")
    elif dry_run:
        _print_preview(view["would_delete"])
    else:
        _print_deleted(view)


def _print_deleted(view: dict[str, Any]) -> None:
    from daemon.text import plural
    from daemon.units import format_size

    freed, seconds = format_size(view["bytes_freed"]), view["duration_ms"] / 1000
    say(
        f"Deleted {plural(view['deleted'], 'run')}, {plural(view['folders'], 'folder')}, "
        f"{plural(view['fires'], 'fire')} and {plural(view['schedules'], 'deleted schedule')}; "
        f"freed {freed} in {seconds:.1f} s."
    )
    if view["workspaces"]:
        say(
            f"Removed {plural(view['workspaces'], 'workspace')} after saving unsaved work; "
            "their runs are deleted once they are old enough again."
        )


def _print_preview(view: dict[str, Any]) -> None:
    from daemon.text import plural
    from daemon.units import format_size

    print_table(
        ("agent", "schedule", "runs", "oldest", "newest", "size"),
        (_cells(group) for group in view["groups"]),
        empty="No run is old enough to be deleted.",
    )
    say(
        f"Would delete {plural(view['runs'], 'run')}, {plural(view['folders'], 'folder')} "
        f"({format_size(view['bytes'])}) and {plural(view['fires'], 'fire')}."
    )
    if view["run_ids"]:
        say(f"Runs: {_numbers(view)}.")
    if view["workspaces"]:
        say(
            f"Would remove {plural(view['workspaces'], 'workspace')} after saving unsaved work; "
            "their runs are kept for now."
        )


def _cells(group: dict[str, Any]) -> list[object]:
    from daemon.units import format_size

    times = (local_time(group[name]) for name in ("oldest", "newest"))
    return [group["agent"], group["schedule"], group["runs"], *times, format_size(group["bytes"])]


def _numbers(view: dict[str, Any]) -> str:
    """Return the numbers of the runs that would be deleted, consecutive ones as a range."""
    from daemon.rules.retention import ranges

    spans = [str(first) if first == last else f"{first}-{last}" for first, last in ranges(view["run_ids"])]
    return ", ".join(spans) + (" and more" if view["runs"] > len(view["run_ids"]) else "")
