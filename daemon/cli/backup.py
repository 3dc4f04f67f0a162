"""`agentcron backup` and `restore`: save the database to one file, and restore it."""

import contextlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.output import print_json, say
from daemon.cli.parameters import Json

if TYPE_CHECKING:
    from daemon.recovery.restore import Restored
    from daemon.store.backup import BackupFile, Contents


def register(app: typer.Typer) -> None:
    """Add both commands."""
    app.command(epilog="Example: agentcron backup /backup/agentcron.db")(backup)
    app.command(epilog="Example: agentcron restore /backup/agentcron.db")(restore)


def backup(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Write the backup to this file, replacing an earlier backup.")
    ],
    json: Json = False,
) -> None:
    """Back up the database to one file.

    This works while the daemon runs. Every page of the backup is verified.
    """
    from daemon.cli.locate import find_daemon
    from daemon.cli.offline import has_database
    from daemon.cli.privileges import acts_for_root
    from daemon.cli.progress import Bar
    from daemon.config.paths import state_dir
    from daemon.errors import NotFoundError
    from daemon.store.backup import back_up, check_target
    from daemon.text import plural
    from daemon.units import format_size, utc_now

    config = find_daemon(context.obj)
    folder = state_dir(config)
    if not has_database(config):
        raise NotFoundError(f"nothing to back up: no database in {folder} yet")
    if acts_for_root():
        contents, size = _back_up_for_root(folder, file)
    else:
        target = check_target(folder, file)
        with Bar("Backing up") as bar:
            contents = back_up(folder, target, utc_now(), bar.show)
        size = target.stat().st_size
    if json:
        facts: dict[str, Any] = {key: value for key, value in asdict(contents).items() if key != "hook_key"}
        print_json({"file": str(file.absolute()), "bytes": size, **facts})
        return
    counts = f"{plural(contents.runs, 'run')}, {plural(contents.schedules, 'schedule')}"
    say(f"Wrote {file}: {counts}, {format_size(size)}, verified.")
    say(f"Outputs and artifacts are not included: back up {folder / 'runs'} separately.")


def _back_up_for_root(folder: Path, file: Path) -> "tuple[Contents, int]":
    """Back up as the daemon's user into a file that root opens; return what the backup holds, and its size."""
    from daemon.cli.privileges import as_root, give_up_root
    from daemon.cli.progress import Bar
    from daemon.cli.publisher import publisher
    from daemon.store.backup import back_up_into, check_target
    from daemon.units import utc_now

    with contextlib.ExitStack() as stack:
        with as_root():
            place = stack.enter_context(publisher(file))
            target = check_target(folder, place.target)
        give_up_root(folder)
        with Bar("Backing up") as bar:
            contents = back_up_into(place.descriptor, folder, target, utc_now(), bar.show)
        place.publish()
        return contents, os.fstat(place.descriptor).st_size


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file written by `agentcron backup`.")],
    json: Json = False,
) -> None:
    """Restore the database from a backup.

    Stop the daemon first. The current database is kept beside the restored one.
    """
    from daemon.cli.locate import read_config
    from daemon.cli.privileges import become_owner
    from daemon.cli.progress import Bar
    from daemon.config.live import LiveConfig
    from daemon.config.paths import state_dir
    from daemon.notify.outbox import Outbox
    from daemon.recovery.restore import Steps
    from daemon.recovery.restore import restore as restore_database
    from daemon.units import utc_now

    config = read_config(context.obj)
    source = _open_backup(file)
    become_owner(state_dir(config))
    outbox = Outbox(LiveConfig(config))
    with Bar("Restoring") as bar:
        restored = restore_database(state_dir(config), source, utc_now(), outbox, Steps(bar.begin, bar.show))
    contents = restored.contents
    if json:
        print_json(
            {
                "file": str(file.absolute()),
                "made_at": contents.made_at,
                "runs": contents.runs,
                "schedules": contents.schedules,
                "numbers_from": restored.numbers_from,
                "unknown_runs": restored.unknown,
                "dropped_notifications": restored.dropped,
                "undecidable_schedules": sorted(restored.undecidable),
                "replaced": str(restored.replaced) if restored.replaced else None,
                "replaced_folders": str(restored.replaced_folders) if restored.replaced_folders else None,
            }
        )
    else:
        _tell_of_restore(restored)


def _open_backup(file: Path) -> "BackupFile":
    """Open a backup where its path leads now; for root, through no link of another user."""
    from daemon.errors import StoreError
    from daemon.store.backup import BackupFile
    from daemon.store.ownership import open_parent

    try:
        folder, name = open_parent(file)
    except OSError as error:
        raise StoreError(
            f"{file} cannot be read: {error.strerror}; name a file that `agentcron backup` wrote"
        ) from None
    try:
        return BackupFile(file, Path(f"/proc/self/fd/{folder}/{name}"))
    finally:
        os.close(folder)


def _tell_of_restore(restored: "Restored") -> None:
    """Say what a restore brought back, what it did not, and where the earlier state is."""
    from daemon.fires.blocked import no_cadence_fix, no_cadence_reason
    from daemon.text import plural

    contents = restored.contents
    counts = f"{plural(contents.runs, 'run')} and {plural(contents.schedules, 'schedule')}"
    say(f"Restored {counts} as of {contents.made_at or 'the time of the copy'}.")
    say(f"The next run is number {restored.numbers_from}. Due times before now count as missed and are not caught up.")
    if restored.dropped:
        said = plural(restored.dropped, "notification")
        say(f"Dropped {said} that had not been sent when the backup was made; they are old.")
    if restored.unknown:
        first, last, runs = restored.unknown[0], restored.unknown[-1], plural(len(restored.unknown), "run")
        say(f"Not in the backup: {runs}, numbers {first} to {last}; the folders in runs/ are kept.")
    for schedule, zone in restored.undecidable.items():
        say(f"{schedule} starts nothing: {no_cadence_reason(zone)}; {no_cadence_fix(schedule)}.")
    if restored.replaced is not None:
        say(f"The previous database is now {restored.replaced}; delete it when you no longer need it.")
    if restored.replaced_folders is not None:
        say(f"Folders of other runs with the same numbers were moved to {restored.replaced_folders}.")
