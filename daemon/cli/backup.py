"""`agentcron backup` and `restore`: the database in one file, and back."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.output import Json, print_json


def register(app: typer.Typer) -> None:
    """Add both commands, which have no noun."""
    app.command(epilog="Example: agentcron backup /backup/agentcron.db")(backup)
    app.command(epilog="Example: agentcron restore /backup/agentcron.db")(restore)


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; an earlier backup is replaced.")],
    json: Json = False,
) -> None:
    """Write the database into one file, verified, also while the daemon runs."""
    from daemon.cli.locate import find_daemon
    from daemon.cli.offline import has_database
    from daemon.cli.progress import Bar
    from daemon.config.paths import state_dir
    from daemon.errors import NotFoundError
    from daemon.store.backup import back_up
    from daemon.units import format_size, utc_now

    config = find_daemon(context.obj)
    folder = state_dir(config)
    if not has_database(config):
        raise NotFoundError(f"there is no database in {folder} yet; nothing to back up")
    with Bar("Backing up") as bar:
        contents = back_up(folder, file, utc_now(), bar.show)
    size = file.stat().st_size
    if json:
        facts: dict[str, Any] = {key: value for key, value in asdict(contents).items() if key != "hook_key"}
        print_json({"file": str(file.absolute()), "bytes": size, **facts})
        return
    print(f"Wrote {file}: {contents.runs} runs, {contents.schedules} schedules, {format_size(size)}, verified.")
    print("It holds no output and no artifacts; those are files in the folder runs of the state directory.")


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `agentcron backup` wrote.")],
    json: Json = False,
) -> None:
    """Put a backup in the place of the database, while no daemon runs; what was there is kept beside it."""
    from daemon.cli.locate import read_config
    from daemon.cli.privileges import become_owner
    from daemon.config.live import LiveConfig
    from daemon.config.paths import state_dir
    from daemon.notify.outbox import Outbox
    from daemon.recovery.restore import restore as put_back
    from daemon.store.backup import BackupFile
    from daemon.units import utc_now

    config = read_config(context.obj)
    source = BackupFile(file)
    become_owner(state_dir(config))
    restored = put_back(state_dir(config), source, utc_now(), Outbox(LiveConfig(config)))
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
                "replaced": str(restored.replaced) if restored.replaced else None,
                "replaced_folders": str(restored.replaced_folders) if restored.replaced_folders else None,
            }
        )
        return
    print(f"Restored {contents.runs} runs and {contents.schedules} schedules, as of {contents.made_at or 'the copy'}.")
    print(
        f"The next run gets number {restored.numbers_from}. Due times up to now count as missed and are not caught up."
    )
    if restored.unknown:
        first, last = restored.unknown[0], restored.unknown[-1]
        print(f"{len(restored.unknown)} runs between {first} and {last} are not in it; their folders stay in runs/.")
    if restored.replaced is not None:
        print(f"What was there is now {restored.replaced}; remove it when you need it no more.")
    if restored.replaced_folders is not None:
        print(f"Folders of other runs with numbers of the backup's are now in {restored.replaced_folders}.")
