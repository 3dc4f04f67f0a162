"""`agentcron run`, `check`, `init` and `status`: the daemon, its config, and how it is doing."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.output import Json, local_time, print_json, print_table

if TYPE_CHECKING:
    import sqlite3

_NEXT_SHOWN = 3


def register(app: typer.Typer) -> None:
    """Add the commands that have no noun."""
    app.command(epilog="Example: agentcron --config config.toml run")(run)
    app.command(epilog="Example: agentcron --config config.toml check")(check)
    app.command(epilog="Example: agentcron init ~/.config/agentcron")(init)
    app.command(epilog="Example: agentcron status --json")(status)
    app.command(epilog="Example: agentcron reload")(reload)


def run(
    context: typer.Context,
    accept_data_loss: Annotated[
        bool,
        typer.Option("--accept-data-loss", help="Go on with a database that was lost, emptied or replaced."),
    ] = False,
) -> None:
    """Run the daemon in the foreground; Ctrl-C stops it and what it runs."""
    import asyncio
    import faulthandler

    import structlog

    from daemon.cli.gc_tuning import go_on
    from daemon.cli.locate import read_config
    from daemon.errors import AgentcronError, ConfigError
    from daemon.lifecycle.service import serve
    from daemon.log import configure_log

    go_on()
    config = read_config(context.obj)
    path = config.resolve(config.log.file) if config.log.file is not None else None
    try:
        log = configure_log(config.log.level, config.log.format, path)
    except OSError as error:
        raise ConfigError([f"{config.file}: log.file: cannot open {path}: {error.strerror}"]) from None
    faulthandler.enable()  # a watchdog's SIGABRT shows where the daemon hung
    try:
        asyncio.run(serve(config, log, accept_data_loss=accept_data_loss))
    except AgentcronError:
        raise
    except Exception as error:  # noqa: BLE001 - told in the log, one event a line, instead of a traceback
        tell = structlog.get_logger()
        damage = _damage_in(error)
        if damage is not None:
            tell.error("[daemon] Stopping, so that nothing gets worse", reason=str(damage))
        else:
            tell.exception("[daemon] Fatal error; what runs goes on, and the next start finds it again")
        sys.stdout.flush()
        os._exit(1)  # threads that wait for the loop that is gone must not keep a dead daemon alive


def _damage_in(error: BaseException) -> BaseException | None:
    """Return what says that the database is damaged, if that is among the reasons of an error."""
    from daemon.errors import StoreDamagedError

    if isinstance(error, BaseExceptionGroup):
        return next((found for one in error.exceptions if (found := _damage_in(one)) is not None), None)
    return error if isinstance(error, StoreDamagedError) else None


def check(
    context: typer.Context,
    diff: Annotated[
        bool, typer.Option("--diff", help="Show besides which schedules a reload would create, change or retire.")
    ] = False,
    json: Json = False,
) -> None:
    """Validate the config and show each schedule with its zone and next three due times."""
    from daemon.cli.diff import changes_by_reload
    from daemon.cli.locate import read_config
    from daemon.doctor.settings import check_settings
    from daemon.errors import StoreError
    from daemon.schedules.declared import definition_of
    from daemon.store.schedules import cadence_from
    from daemon.text import escape
    from daemon.units import format_instant, utc_now
    from daemon.views.documents import upcoming

    config = read_config(context.obj)
    found = []
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
    warnings = [f"{found.about}: {found.what}" for found in check_settings(config)]
    changes, hindrance = None, None
    try:
        changes = changes_by_reload(config) if diff else None
    except StoreError as error:  # the config is good all the same
        hindrance = error
    if json:
        print_json({"schedules": found, "warnings": warnings, **({} if changes is None else {"changes": changes})})
        if hindrance is not None:
            raise hindrance
        return
    print_table(
        ("schedule", "zone", "next three due times"),
        ((entry["schedule"], entry["timezone"], _times(entry)) for entry in found),
        empty="No schedules.",
    )
    if changes is not None:
        _print_changes(changes)
    for warning in warnings:
        print(f"warning: {escape(warning)}", file=sys.stderr)
    print(f"{config.file} is good.")
    if hindrance is not None:
        raise hindrance


def _print_changes(changes: list[dict[str, Any]]) -> None:
    print("\nOf the schedules a reload would change (other settings count for runs that start after it):")
    print_table(
        ("schedule", "would be", "what"),
        (
            (
                change["schedule"],
                change["action"],
                "; ".join(f"{key}: {before} -> {after}" for key, (before, after) in change["changes"].items()),
            )
            for change in changes
        ),
        empty="No schedule.",
    )
    print()


def _times(entry: dict[str, Any]) -> str:
    if entry["paused"]:
        return "paused"
    times = [local_time(time, entry["timezone"]) for time in entry["next_action_times"]]
    return ", ".join(times) or "never again"


def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to write config.toml.")] = Path(),
    json: Json = False,
) -> None:
    """Write a commented starter config."""
    from daemon.cli.starter_config import starter_config
    from daemon.errors import RefusedError

    target = folder / "config.toml"
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    except FileExistsError as error:
        raise RefusedError(f"{error.filename} is there already; move it away, or name another folder") from None
    except OSError as error:
        raise RefusedError(f"cannot write {target}: {error.strerror}") from None
    with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123 - the mode was given with the descriptor
        stream.write(starter_config(target))
    if json:
        print_json({"file": str(target)})
    else:
        print(f"Wrote {target}. Edit it, then: agentcron --config {target} check")


def reload(context: typer.Context, json: Json = False) -> None:
    """Have the daemon read the config file again; a bad one changes nothing."""
    from daemon.cli.client import Client, daemon_at
    from daemon.cli.locate import find_daemon, uses_config
    from daemon.errors import RefusedError

    config = find_daemon(context.obj, warn=False)  # the daemon finds the mistakes, too, and tells of them in its log
    daemon = daemon_at(config)
    if daemon is not None and not uses_config(daemon, config.file):
        mend = f"name that one with --config, or restart the daemon with {config.file}"
        raise RefusedError(f"the daemon, pid {daemon['pid']}, runs by {daemon['config_file']}; {mend}")
    view = Client(config).ask("POST", "/reload")
    if json:
        print_json(view)
        return
    for change in view["changes"]:
        print(f"{change['schedule']} was {change['action']}.")
    for warning in view["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"Reloaded; {len(view['changes'])} schedules changed.")


def status(context: typer.Context, json: Json = False) -> None:
    """Show how the daemon is doing: what ran, what failed and why, what is next, what waits, and what it cost."""
    from daemon.cli.client import what_is_amiss
    from daemon.cli.locate import find_daemon
    from daemon.cli.offline import document
    from daemon.cli.status import print_overview
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
        amiss = what_is_amiss(config) if pid is not None else None
        return status_view(connection, folder, pid, utc_now(), zone, amiss=amiss)

    try:
        view = document(config, query, "/status")
    except NotFoundError as missing:
        pid = running_daemon(folder)
        if pid is not None:
            raise StoreError(f"a daemon runs, pid {pid}, but its database is gone: {missing}") from None
        raise unreachable from None
    if json:
        print_json(view)
    else:
        print_overview(view, zone)
    if not view["daemon"]["running"]:
        raise unreachable
    if not view["daemon"]["answers"]:
        raise DaemonUnreachableError(f"the daemon, pid {view['daemon']['pid']}, does not answer; its log may say why")
