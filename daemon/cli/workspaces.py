"""`agentcron workspaces ...`: where runs work, what stays of it, and why."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.output import Json, print_json, print_table, tell

if TYPE_CHECKING:
    from daemon.cli.client import Client

app = typer.Typer(
    help="Workspaces: the private clones that runs worked in.",
    epilog="Example: agentcron workspaces list",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Number = Annotated[int, typer.Argument(metavar="RUN", min=1, max=2**63 - 1, help="The run's number.")]
_BAR = 20  # characters


@app.command("list", epilog="Example: agentcron workspaces list --json")
def list_command(context: typer.Context, json: Json = False) -> None:
    """List the workspaces that are there: size, age, and why each is kept."""
    from daemon.cli.locate import find_daemon
    from daemon.cli.offline import document
    from daemon.units import utc_now
    from daemon.views.workspaces import workspaces_view

    config = find_daemon(context.obj)
    view = document(config, lambda connection: workspaces_view(connection, config, utc_now()), "/workspaces")
    if json:
        print_json(view)
        return
    print_table(
        ("run", "environment", "agent", "schedule", "status", "size", "age", "why it is there"),
        ([*_cells(workspace), workspace["reason"]] for workspace in view["workspaces"]),
        empty="No workspaces.",
    )
    if view["environments"]:
        print()
        print_table(
            ("environment", "workspaces", "used", "quota", ""),
            ([one["environment"], one["workspaces"], *_room(one)] for one in view["environments"]),
            empty="",
        )


def _cells(workspace: dict[str, Any]) -> list[object]:
    names = ("run_id", "environment", "agent", "schedule", "status")
    return [*(workspace[name] for name in names), _size(workspace["bytes"]), _age(workspace["age_seconds"])]


def _size(size: int | None) -> str:
    from daemon.units import format_size

    return "not measured" if size is None else format_size(size)


def _age(seconds: int | None) -> str:
    from datetime import timedelta

    from daemon.units import format_duration

    return "-" if seconds is None else format_duration(timedelta(seconds=seconds))


def _room(environment: dict[str, Any]) -> list[str]:
    used, quota = environment["bytes"], environment["quota"]
    if not quota:
        return [_size(used), "none", ""]
    filled = min(_BAR, round(_BAR * used / quota))
    return [_size(used), _size(quota), f"{'█' * filled}{'░' * (_BAR - filled)} {used / quota:.0%}"]


@app.command(epilog="Example: agentcron workspaces clean --older-than 2h --dry-run")
def clean(
    context: typer.Context,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="DURATION", help="Instead of max_age.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Remove what the policy lets go, its unsaved work saved first."""
    from daemon.cli.locate import find_daemon
    from daemon.cli.progress import ask_and_watch
    from daemon.cli.schedule_changes import seconds_of
    from daemon.text import escape

    body: dict[str, Any] = {"dry_run": dry_run}
    if older_than is not None:
        body["older_than_seconds"] = seconds_of("older_than", older_than)
    view = ask_and_watch(find_daemon(context.obj), "/workspaces/clean", body, "cleanup", "Cleaning workspaces")
    if json:
        print_json(view)
        return
    runs = ", ".join(map(str, view["removed"]))
    word = "would be removed" if dry_run else "removed"
    print(f"{len(view['removed'])} workspace(s) {word}" + (f": {runs}" if runs else "") + ".")
    for failed in view["failed"]:
        print(f"Run {failed['run_id']} keeps its workspace: {escape(failed['reason'])}")
    if view["failed"]:
        raise typer.Exit(1)


@app.command(epilog="Example: agentcron workspaces discard 42")
def discard(context: typer.Context, run: Number, json: Json = False) -> None:
    """Remove the workspace of an ended run, its unsaved work saved first."""
    view = _client(context).ask("POST", f"/workspaces/{run}/discard")
    tell(view, f"The workspace of run {run} is gone; `agentcron runs show {run}` says what was saved of it.", json=json)


@app.command(epilog="Example: agentcron workspaces keep 42")
def keep(context: typer.Context, run: Number, json: Json = False) -> None:
    """Have a workspace stay until it is unkept."""
    view = _client(context).ask("POST", f"/workspaces/{run}/keep")
    tell(view, f"The workspace of run {run} stays: {view['path']}", json=json)


@app.command(epilog="Example: agentcron workspaces unkeep 42")
def unkeep(context: typer.Context, run: Number, json: Json = False) -> None:
    """Let a workspace go again when the policy says so."""
    view = _client(context).ask("POST", f"/workspaces/{run}/unkeep")
    tell(view, f"The workspace of run {run} is one like others: {view['reason']}.", json=json)


def _client(context: typer.Context) -> "Client":
    from daemon.cli.client import Client
    from daemon.cli.locate import find_daemon

    return Client(find_daemon(context.obj), 3600.0)
