"""`agentcron workspaces ...`: list, clean up and keep the git clones of runs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.help import CommandGroup
from daemon.cli.output import print_json, print_table, say, tell
from daemon.cli.parameters import Json, RunNumber

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.cli.client import Client

app = CommandGroup(
    help="List, clean up and keep the private git clones of runs.", epilog="Example: agentcron workspaces list"
)
_BAR_WIDTH = 20  # characters
_MOST_NAMED = 10  # repositories
_TIMEOUT = 3600.0  # seconds; a large workspace takes long to save and remove


@app.command("list", epilog="Example: agentcron workspaces list --json")
def list_command(context: typer.Context, json: Json = False) -> None:
    """List workspaces with size, age and why each is kept."""
    from daemon.cli.locate import find_daemon
    from daemon.cli.offline import listing
    from daemon.units import utc_now
    from daemon.views.workspaces import workspaces_view

    config = find_daemon(context.obj)
    view = listing(
        config, lambda connection: workspaces_view(connection, config, utc_now()), "/workspaces", "workspaces"
    )
    if json:
        print_json(view)
        return
    print_table(
        ("run", "environment", "agent", "schedule", "status", "size", "age", "kept because"),
        ([*_cells(workspace), workspace["reason"]] for workspace in view["workspaces"]),
        empty="No workspaces.",
    )
    if view["environments"]:
        print()
        print_table(
            ("environment", "workspaces", "used", "saved work", "quota", ""),
            ([one["environment"], one["workspaces"], *_usage(one)] for one in view["environments"]),
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


def _usage(environment: dict[str, Any]) -> list[str]:
    saved = environment.get("saved_bytes", 0)  # not sent by daemons of earlier versions
    unmeasured, used = environment.get("unmeasured", 0), _size(environment["bytes"])  # likewise
    used = f"{used}, {unmeasured} not measured" if unmeasured else used
    sizes, quota = [used, _size(saved)], environment["quota"]
    if not quota:
        return [*sizes, "none", ""]
    part = (environment["bytes"] + saved) / quota
    filled = min(_BAR_WIDTH, round(_BAR_WIDTH * part))
    return [*sizes, _size(quota), f"{'█' * filled}{'░' * (_BAR_WIDTH - filled)} {part:.0%}"]


@app.command(epilog="Example: agentcron workspaces clean --older-than 2h --dry-run")
def clean(
    context: typer.Context,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="DURATION", help="Use this age instead of max_age.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    json: Json = False,
) -> None:
    """Remove workspaces that are old enough.

    Work that exists only in a workspace is saved with the artifacts of its run first.
    """
    from daemon.cli.locate import find_daemon
    from daemon.cli.progress import request_with_progress
    from daemon.cli.request_body import seconds_of
    from daemon.text import plural

    body: dict[str, Any] = {"dry_run": dry_run}
    if older_than is not None:
        body["older_than_seconds"] = seconds_of("older_than", older_than)
    view = request_with_progress(find_daemon(context.obj), "/workspaces/clean", body, "cleanup", "Cleaning workspaces")
    if json:
        print_json(view)
        return
    removed = view["removed"]
    runs = f", of run{'' if len(removed) == 1 else 's'} {', '.join(map(str, removed))}" if removed else ""
    unless = ", unless there is more unsaved work than salvage_max" if dry_run and removed else ""
    say(f"{'Would remove' if dry_run else 'Removed'} {plural(len(removed), 'workspace')}{runs}{unless}.")
    for failed in view["failed"]:
        say(f"Kept the workspace of run {failed['run_id']}: {failed['reason']}")
    if view["failed"]:
        raise typer.Exit(1)


@app.command(epilog="Example: agentcron workspaces discard 42")
def discard(
    context: typer.Context,
    run: RunNumber,
    without_saving: Annotated[
        bool, typer.Option("--without-saving", help="Lose what exists only in the workspace, after a question.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before work is lost.")] = False,
    json: Json = False,
) -> None:
    """Remove the workspace of a run that has ended.

    Work that exists only in the workspace is saved with the artifacts of the run first.
    """
    client = _client(context)
    if without_saving and not yes:
        view = client.ask("POST", f"/workspaces/{run}/discard", {"without_saving": True, "dry_run": True})
        if view["removed"]:
            _tell_of_discard(run, view, json=json)
            return
        for line in _loss(run, view["lost"]):
            say(line, error=True)
        typer.confirm("Remove it without saving anything?", abort=True, err=True)
    body = {"without_saving": True} if without_saving else None
    _tell_of_discard(run, client.ask("POST", f"/workspaces/{run}/discard", body), json=json)


def _tell_of_discard(run: int, view: dict[str, Any], *, json: bool) -> None:
    """Say what became of the work in a workspace; a daemon of an earlier version saves it whatever it is asked."""
    work = "its work is lost" if "lost" in view else f"`agentcron runs show {run}` shows the saved work"
    tell(view, f"Removed the workspace of run {run}; {work}.", json=json)


@app.command(epilog="Example: agentcron workspaces keep 42")
def keep(context: typer.Context, run: RunNumber, json: Json = False) -> None:
    """Keep a workspace until `unkeep`, whatever the policy."""
    view = _client(context).ask("POST", f"/workspaces/{run}/keep")
    tell(view, f"Keeping the workspace of run {run}: {view['path']}", json=json)


@app.command(epilog="Example: agentcron workspaces unkeep 42")
def unkeep(context: typer.Context, run: RunNumber, json: Json = False) -> None:
    """Let cleanup remove a workspace again."""
    view = _client(context).ask("POST", f"/workspaces/{run}/unkeep")
    tell(view, f"No longer keeping the workspace of run {run}: {view['reason']}.", json=json)


def _loss(run: int, lost: dict[str, Any]) -> "Iterator[str]":
    """Yield what is lost with a workspace, for the person who is about to lose it."""
    from daemon.text import plural
    from daemon.views.workspaces import loss_words

    repositories = lost["repositories"]
    yield f"The workspace of run {run} is {lost['path']}: {plural(lost['files'], 'file')}, {_size(lost['bytes'])}."
    if "commits" in lost:  # not counted by daemons of earlier versions
        counted, *uncounted = loss_words(lost)
        yield f"Lost for ever: {counted}."
        for one in uncounted:
            yield f"Cannot be counted, and may be lost for ever: {one}"
    else:
        yield "Everything in it that exists nowhere else is lost for ever: commits, changed and new files, stashes."
    if repositories:
        more = ", ..." if len(repositories) > _MOST_NAMED else ""
        named = ", ".join(repositories[:_MOST_NAMED]) + more
        yield f"It holds git repositories in {plural(len(repositories), 'folder')}: {named}"


def _client(context: typer.Context) -> "Client":
    from daemon.cli.client import Client
    from daemon.cli.locate import find_daemon

    return Client(find_daemon(context.obj), _TIMEOUT)
