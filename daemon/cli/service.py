"""`agentcron run`, `check`, `status` and `reload`: the daemon and its config."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.output import print_json, say
from daemon.cli.parameters import Json

if TYPE_CHECKING:
    import sqlite3


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: agentcron --config config.toml run")(run)
    app.command(epilog="Example: agentcron --config config.toml check")(check)
    app.command(epilog="Example: agentcron status --json")(status)
    app.command(epilog="Example: agentcron reload")(reload)


def run(
    context: typer.Context,
    accept_data_loss: Annotated[
        bool,
        typer.Option("--accept-data-loss", help="Start although the database was lost, emptied or replaced."),
    ] = False,
) -> None:
    """Run the daemon in the foreground.

    Ctrl-C stops it and cancels the runs that it started.
    """
    from daemon.cli.daemon_process import run_daemon

    run_daemon(context.obj, accept_data_loss=accept_data_loss)


def check(
    context: typer.Context,
    diff: Annotated[
        bool,
        typer.Option("--diff", help="Also show which schedules and settings a reload would create, change or retire."),
    ] = False,
    json: Json = False,
) -> None:
    """Validate the config and show the next due times.

    This shows each schedule with its timezone and its next three due times, and warns of probable mistakes.
    """
    from daemon.cli.check import check_config

    check_config(context.obj, diff=diff, json=json)


def reload(context: typer.Context, json: Json = False) -> None:
    """Have the daemon read the config file again.

    A file with errors changes nothing.
    """
    from daemon.cli.client import Client, daemon_at
    from daemon.cli.locate import find_daemon, uses_config
    from daemon.errors import RefusedError
    from daemon.schedules.declared import changed_words

    config = find_daemon(context.obj, warn=False)  # the daemon reports the errors itself
    daemon = daemon_at(config)
    if daemon is not None and not uses_config(daemon, config.file):
        fix = f"name that file with --config, or restart the daemon with {config.file}"
        raise RefusedError(f"the daemon, pid {daemon['pid']}, uses {daemon['config_file']}; {fix}")
    view = Client(config).ask("POST", "/reload")
    if json:
        print_json(view)
        return
    settings, total = view.get("settings", []), view.get("settings_total", 0)  # not sent by daemons of earlier versions
    for setting in settings:
        say(f"{setting} was changed.")
    if total > len(settings):
        say(f"... and {total - len(settings)} more settings.")
    for change in view["changes"]:
        say(f"{change['schedule']} was {change['action']}.")
    for warning in view["warnings"]:
        say(f"warning: {warning}", error=True)
    say(f"Reloaded, {changed_words(total, len(view['changes']))}.")


def status(context: typer.Context, json: Json = False) -> None:
    """Show running and failed runs, next due times and cost.

    Exit status 3 if no daemon runs; what the database knows is shown all the same.
    """
    from daemon.cli.current_problems import current_problems
    from daemon.cli.locate import find_daemon
    from daemon.cli.offline import document
    from daemon.cli.status import print_status
    from daemon.config.paths import state_dir
    from daemon.errors import DaemonUnreachableError, NotFoundError, StoreError
    from daemon.store.lock import running_daemon
    from daemon.units import utc_now
    from daemon.views.status import status_view

    config = find_daemon(context.obj)
    folder, zone = state_dir(config), config.daemon.timezone
    unreachable = DaemonUnreachableError(f"no daemon runs on {folder}; start it with `agentcron run`")

    def query(connection: "sqlite3.Connection") -> dict[str, Any]:
        pid = running_daemon(folder)
        problem, failing, waits = current_problems(config) if pid is not None else (None, [], [])
        now = utc_now()
        return dict(status_view(connection, folder, pid, now, config, problems=problem, failing=failing, waits=waits))

    try:
        view = document(config, query, "/status")
    except NotFoundError:
        pid = running_daemon(folder)
        if pid is not None:
            problem = f"a daemon runs, pid {pid}, but its database is missing; run `agentcron doctor` for details"
            raise StoreError(problem) from None
        raise unreachable from None
    if json:
        print_json(view)
    else:
        print_status(view, zone)
    if not view["daemon"]["running"]:
        raise unreachable
    if not view["daemon"]["answers"]:
        raise DaemonUnreachableError(f"the daemon, pid {view['daemon']['pid']}, does not respond; check its log")
