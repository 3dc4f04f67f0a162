"""The helper process: it makes, saves, measures and removes workspaces, away from the daemon's loop.

Jobs come as lines of JSON on standard input, what it has to say and the results go as lines of JSON to standard output.
It ends with its input, and with the daemon. Standard library only, so that it starts quickly.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.model import NAME
from daemon.workspaces.clean import SALVAGE_MAX, clean, silent
from daemon.workspaces.clone import prepare_workspace
from daemon.workspaces.disk_usage import rooms_in, rooms_of
from daemon.workspaces.git import die_with, end_all
from daemon.workspaces.layout import INCOMING, QUARANTINE, RUNS, SCRATCH, TOP, tasks_of
from daemon.workspaces.lock import unused_in
from daemon.workspaces.mirror import CloneError, Source
from daemon.workspaces.openat import free_name, names_in, open_path
from daemon.workspaces.removal import empty_trash, remove_scrap
from daemon.workspaces.run_folders import remove_orphans

Say = Callable[[str], None]
Result = dict[str, Any]
_NICE = 19


def _prepare(state_dir: Path, job: dict[str, Any], say: Say) -> Result:
    os.umask(job["umask"])
    source = Source(**job["source"])
    run_id: int = job["run_id"]
    before = clean(state_dir, source.environment, str(run_id), silent)  # of a try that never came to its agent
    if not before.gone and not before.in_trash:
        raise CloneError(f"what an earlier try left cannot be removed: {before.reason}")
    path, base = prepare_workspace(state_dir, source, run_id, job["timeout"], say)
    return {"path": str(path), "base": base}


def _clean(state_dir: Path, job: dict[str, Any], say: Say) -> Result:
    os.nice(_NICE)
    most = job.get("salvage_max", SALVAGE_MAX)
    return clean(state_dir, job["environment"], job["run_id"], say, base=job.get("base"), salvage_max=most).view()


def _measure(state_dir: Path, job: dict[str, Any], _: Say) -> Result:
    os.nice(_NICE)
    return rooms_of(state_dir, job["environment"], job["runs"])


def _survey(state_dir: Path, _: dict[str, Any], say: Say) -> Result:
    """Return what lies below the tasks folders of what may be environments, None where that cannot be told."""
    found: Result = {}
    for name in names_in(state_dir, TOP):
        if NAME.fullmatch(name):
            try:
                found[name] = names_in(state_dir, *tasks_of(name))
            except OSError as error:
                say(f"[cleanup] ERROR: {state_dir.joinpath(*tasks_of(name))} cannot be looked into: {error.strerror}")
                found[name] = None
    return found


def _quarantine(state_dir: Path, job: dict[str, Any], _: Say) -> Result:
    """Move what belongs to no run out of the tasks folder; nothing of it is deleted."""
    environment, name = job["environment"], job["name"]
    tasks = open_path(state_dir, *tasks_of(environment))
    quarantine = open_path(state_dir, TOP, environment, QUARANTINE, create=True)
    try:
        place = free_name(quarantine, name, ".")
        os.rename(name, place, src_dir_fd=tasks, dst_dir_fd=quarantine)
    finally:
        os.close(quarantine)
        os.close(tasks)
    return {"path": str(state_dir / TOP / environment / QUARANTINE / place)}


def _sweep_up(state_dir: Path, _: dict[str, Any], say: Say) -> Result:
    """Delete what lies in the trash, and what cut-off work left behind."""
    os.nice(_NICE)
    for folder in (INCOMING, SCRATCH):
        for name in unused_in(state_dir, folder):
            remove_scrap(state_dir, (TOP, folder), name)
    for top in (TOP, RUNS):
        left = empty_trash(state_dir, top)
        if left.count:
            say(f"[cleanup] ERROR: {left.count} entries of the trash cannot be deleted: {'; '.join(left.reasons)}")
    return {}


def _measure_runs(state_dir: Path, job: dict[str, Any], _: Say) -> Result:
    os.nice(_NICE)
    return rooms_in(state_dir, (RUNS,), job["runs"])


def _remove_orphans(state_dir: Path, job: dict[str, Any], say: Say) -> Result:
    os.nice(_NICE)
    return remove_orphans(state_dir, job["expired"], say, dry_run=job["dry_run"]).view()


_JOBS: dict[str, Callable[[Path, dict[str, Any], Say], Result]] = {
    "prepare": _prepare,
    "clean": _clean,
    "measure": _measure,
    "survey": _survey,
    "quarantine": _quarantine,
    "sweep_up": _sweep_up,
    "measure_runs": _measure_runs,
    "remove_orphans": _remove_orphans,
}


def main() -> None:
    """Do jobs until there are no more, for the process whose pid is the second argument."""
    die_with(int(sys.argv[2]))
    signal.signal(signal.SIGTERM, _end)
    os.umask(0o077)
    for line in sys.stdin:
        job = json.loads(line)
        _tell(_done(job))


def _end(*_: object) -> None:
    """End at once, git and all that it started included."""
    end_all()
    os._exit(1)


def _done(job: dict[str, Any]) -> dict[str, Any]:
    try:
        result = _JOBS[job["do"]](Path(job["state_dir"]), job, lambda text: _tell({"say": text}))
    except CloneError as error:
        return {"failed": str(error)}
    except OSError as error:
        return {"failed": f"{error.strerror}: {error.filename!r}" if error.filename else str(error)}
    except Exception as error:  # noqa: BLE001 - whoever asked must hear of it
        return {"failed": f"unexpected error: {type(error).__name__}: {error}"}
    return {"done": result}


def _tell(message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more; the end comes with the input's
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
