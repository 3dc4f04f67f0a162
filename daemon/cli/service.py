"""`agentcron run`, `check`, `init`, `status` and `reload`: the daemon and its config."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.output import local_time, print_json, print_table, say
from daemon.cli.parameters import Json

if TYPE_CHECKING:
    import sqlite3

    from daemon.config.schema import Config
    from daemon.errors import StoreError

_NEXT_SHOWN = 3


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: agentcron --config config.toml run")(run)
    app.command(epilog="Example: agentcron --config config.toml check")(check)
    app.command(epilog="Example: agentcron init ~/.config/agentcron")(init)
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
        bool, typer.Option("--diff", help="Also show which schedules a reload would create, change or retire.")
    ] = False,
    json: Json = False,
) -> None:
    """Validate the config and show the next due times.

    This shows each schedule with its timezone and its next three due times, and warns of probable mistakes.
    """
    from daemon.cli.locate import read_config
    from daemon.cli.privileges import become_owner, become_reader, enter_home
    from daemon.config.paths import state_dir

    config = read_config(context.obj)
    user = become_owner(state_dir(config))
    changes, blocked, unreadable = _compared_with_state(config, diff=diff)  # only its owner may read a state of root
    if user is None:
        user = become_reader(config)
    else:
        enter_home(config)
    _refuse_bad_tokens(config)
    schedules = _declared_schedules(config)
    warnings = [*_warnings_of(config, user), *blocked]
    if json:
        print_json({"schedules": schedules, "warnings": warnings, **({} if changes is None else {"changes": changes})})
    else:
        _print_check(config, schedules, warnings, changes)
    if unreadable is not None:
        raise unreadable


def _declared_schedules(config: "Config") -> list[dict[str, Any]]:
    """Return the schedules of the config with their next due times."""
    from daemon.schedules.declared import definition_of
    from daemon.store.schedules import cadence_from
    from daemon.units import format_instant, utc_now
    from daemon.views.schedules import upcoming

    found: list[dict[str, Any]] = []
    for agent, settings in config.agents.items():
        for name, schedule in settings.schedules.items():
            definition = definition_of(schedule, config)
            times = upcoming(cadence_from(definition), utc_now(), _NEXT_SHOWN)
            found.append(
                {
                    "schedule": f"{agent}/{name}",
                    "timezone": definition["timezone"],
                    "paused": schedule.paused,
                    "next_action_times": [format_instant(time) for time in times],
                }
            )
    return found


def _compared_with_state(
    config: "Config", *, diff: bool
) -> tuple[list[dict[str, Any]] | None, list[str], "StoreError | None"]:
    """Compare the config with the database, which may be unreadable: the config is valid all the same.

    Return, with `diff`, what a reload would change and warnings of what would block it, then why the database cannot
    be read. Raise ConfigError for names of schedules that are taken.
    """
    from daemon.cli.diff import blocked_by_reload, changes_by_reload, refuse_taken_names
    from daemon.errors import StoreError

    changes: list[dict[str, Any]] | None = None
    try:
        if not diff:
            refuse_taken_names(config)
            return None, [], None
        changes = changes_by_reload(config)
        return changes, blocked_by_reload(config), None
    except StoreError as error:
        return changes, [], error


def _print_check(
    config: "Config", schedules: list[dict[str, Any]], warnings: list[str], changes: list[dict[str, Any]] | None
) -> None:
    print_table(
        ("schedule", "timezone", "next three due times"),
        ((entry["schedule"], entry["timezone"], _times(entry)) for entry in schedules),
        empty="No schedules in the config.",
    )
    if changes is not None:
        _print_changes(changes)
    for warning in warnings:
        say(f"warning: {warning}", error=True)
    say(f"{config.file} is valid.")


def _warnings_of(config: "Config", user: str | None) -> list[str]:
    """Return what probably does not work as intended; `user` is who we became to find that out, None if nobody."""
    from daemon.doctor.settings import check_settings

    warnings = [f"{found.about}: {found.what}" for found in check_settings(config)]
    if user is not None and not os.access(config.file, os.R_OK):
        warnings.append(f"config: {user} has no permission to read {config.file}")
    return warnings


def _refuse_bad_tokens(config: "Config") -> None:
    """Raise ConfigError for a token file that the daemon would refuse; those that we may not read are warned of."""
    from daemon.config.secrets import read_token

    for token in config.control.tokens:
        if token.file is not None and os.access(config.resolve(token.file), os.R_OK):
            read_token(config, token)


def _print_changes(changes: list[dict[str, Any]]) -> None:
    print("\nA reload would change these schedules; changes of other settings apply to later runs:")
    print_table(
        ("schedule", "would be", "changes"),
        (
            (
                change["schedule"],
                change["action"],
                "; ".join(f"{key}: {before} -> {after}" for key, (before, after) in change["changes"].items()),
            )
            for change in changes
        ),
        empty="None.",
    )
    print()


def _times(entry: dict[str, Any]) -> str:
    if entry["paused"]:
        return "paused"
    times = [local_time(time, entry["timezone"]) for time in entry["next_action_times"]]
    return ", ".join(times) or "none"


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Write config.toml to this directory.")] = Path(),
    json: Json = False,
) -> None:
    """Write a commented starter config."""
    from daemon.cli.starter_config import starter_config
    from daemon.errors import RefusedError
    from daemon.store.ownership import refuse_links_of_others

    target = folder / "config.toml"
    if os.geteuid() == 0:
        refuse_links_of_others(target)
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    except FileExistsError as error:
        raise RefusedError(f"{error.filename} already exists; move it away, or name another directory") from None
    except OSError as error:
        raise RefusedError(f"cannot write {target}: {error.strerror}") from None
    with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123 - the mode was given with the descriptor
        stream.write(starter_config(target))
    if json:
        print_json({"file": str(target)})
    else:
        say(f"Wrote {target}. Edit it, then: agentcron --config {target} check")


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
    from daemon.cli.client import current_problems
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
        return dict(status_view(connection, folder, pid, now, zone, problems=problem, failing=failing, waits=waits))

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
