"""`agentcron retention ...`: what is too old goes."""

from typing import Annotated, Any

import typer

from daemon.cli.output import Json, local_time, print_json, print_table

app = typer.Typer(
    help="Retention: old runs go with all that belongs to them.",
    epilog="Example: agentcron retention run --dry-run",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def noun() -> None:
    """Retention: old runs go with all that belongs to them."""


@app.command(epilog="Example: agentcron retention run --dry-run")
def run(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Delete what is older than retention.days: runs with all that belongs to them, fires, deleted schedules."""
    from daemon.cli.locate import find_daemon
    from daemon.cli.progress import ask_and_watch

    body, text = {"dry_run": dry_run}, "Looking for old runs" if dry_run else "Deleting old runs"
    view = ask_and_watch(find_daemon(context.obj), "/retention/run", body, "retention", text)
    if json:
        print_json(view)
    elif view["skipped"]:
        print("Skipped: retention.days is not set, so everything is kept.")
    elif dry_run:
        _print_forecast(view["would_delete"])
    else:
        _print_swept(view)


def _print_swept(view: dict[str, Any]) -> None:
    from daemon.units import format_size

    freed, seconds = format_size(view["bytes_freed"]), view["duration_ms"] / 1000
    print(
        f"Deleted {view['deleted']} run(s), {view['folders']} folder(s), {view['fires']} fire(s) and "
        f"{view['schedules']} deleted schedule(s); {freed} freed in {seconds:.1f} s."
    )
    if view["workspaces"]:
        print(f"Saved and removed {view['workspaces']} workspace(s); their runs go when they are old enough again.")


def _print_forecast(view: dict[str, Any]) -> None:
    from daemon.units import format_size

    print_table(
        ("agent", "schedule", "runs", "oldest", "newest", "size"),
        (_cells(group) for group in view["groups"]),
        empty="No run is old enough to go.",
    )
    print(
        f"{view['runs']} run(s), {view['folders']} folder(s) of {format_size(view['bytes'])} and {view['fires']} "
        "fire(s) would be deleted."
    )
    if view["run_ids"]:
        print(f"Runs: {_numbers(view)}.")
    if view["workspaces"]:
        print(f"{view['workspaces']} workspace(s) would be saved and removed, their runs staying for now.")


def _cells(group: dict[str, Any]) -> list[object]:
    from daemon.units import format_size

    times = (local_time(group[name]) for name in ("oldest", "newest"))
    return [group["agent"], group["schedule"], group["runs"], *times, format_size(group["bytes"])]


def _numbers(view: dict[str, Any]) -> str:
    """Return the numbers of the runs that would go, those that follow each other as one."""
    from daemon.rules.retention import ranges

    spans = [str(first) if first == last else f"{first}-{last}" for first, last in ranges(view["run_ids"])]
    return ", ".join(spans) + (" and more" if view["runs"] > len(view["run_ids"]) else "")
