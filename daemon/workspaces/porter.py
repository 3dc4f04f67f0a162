"""The helper process: it makes, saves, measures and removes workspaces, away from the daemon's loop.

Jobs come as lines of JSON on standard input, what it has to say and the results go as lines of JSON to standard output.
It ends with its input, and with the daemon. Standard library only, so that it starts quickly.
"""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from daemon.workspaces.cleaning import SALVAGE_MAX, clean
from daemon.workspaces.clone import prepare_workspace
from daemon.workspaces.descent import open_path
from daemon.workspaces.git import die_with_parent
from daemon.workspaces.mirror import PreparationError, Source
from daemon.workspaces.places import INCOMING, QUARANTINE, RUNS, SCRATCH, TASKS, TOP, tasks_of
from daemon.workspaces.removal import RefusedRemovalError, discard, empty_trash, remove_scrap
from daemon.workspaces.sizes import room_of

Say = Callable[[str], None]
Result = dict[str, Any]
_NICE = 19


def _prepare(state_dir: Path, job: dict[str, Any], say: Say) -> Result:
    os.umask(job["umask"])
    source = Source(**job["source"])
    run_id: int = job["run_id"]
    before = clean(state_dir, source.environment, str(run_id), _silent)  # of a try that never came to its agent
    if not before.gone:
        raise PreparationError(f"what an earlier try left cannot be removed: {before.reason}")
    path, base = prepare_workspace(state_dir, source, run_id, job["timeout"], say)
    return {"path": str(path), "base": base}


def _silent(_: str) -> None:
    """Say nothing."""


def _clean(state_dir: Path, job: dict[str, Any], say: Say) -> Result:
    os.nice(_NICE)
    most = job.get("salvage_max", SALVAGE_MAX)
    return clean(state_dir, job["environment"], job["run_id"], say, base=job.get("base"), salvage_max=most).view()


def _measure(state_dir: Path, job: dict[str, Any], _: Say) -> Result:
    os.nice(_NICE)
    environment: str = job["environment"]
    return {run: room_of(state_dir, (*tasks_of(environment), run)) for run in job["runs"]}


def _survey(state_dir: Path, _: dict[str, Any], __: Say) -> Result:
    """Return what lies below the tasks folders, by environment."""
    found = {}
    for environment in _listed(state_dir, TOP):
        if not environment.startswith("."):
            found[environment] = _listed(state_dir, TOP, environment, TASKS)
    return found


def _listed(state_dir: Path, *folders: str) -> list[str]:
    try:
        folder = open_path(state_dir, *folders)
    except OSError:
        return []
    try:
        return sorted(os.listdir(folder))
    finally:
        os.close(folder)


def _quarantine(state_dir: Path, job: dict[str, Any], _: Say) -> Result:
    """Move what belongs to no run out of the tasks folder; nothing of it is deleted."""
    environment, name = job["environment"], job["name"]
    tasks = open_path(state_dir, *tasks_of(environment))
    quarantine = open_path(state_dir, TOP, environment, QUARANTINE, create=True)
    try:
        taken = set(os.listdir(quarantine))
        number = 1
        while (place := name if number == 1 else f"{name}.{number}") in taken:
            number += 1
        os.rename(name, place, src_dir_fd=tasks, dst_dir_fd=quarantine)
    finally:
        os.close(quarantine)
        os.close(tasks)
    return {"path": str(state_dir / TOP / environment / QUARANTINE / place)}


def _sweep_up(state_dir: Path, job: dict[str, Any], say: Say) -> Result:
    """Delete what lies in the trash and, at a start, what cut-off work left behind."""
    os.nice(_NICE)
    for folder in (INCOMING, SCRATCH) if job["at_start"] else ():
        for name in _listed(state_dir, TOP, folder):
            remove_scrap(state_dir, (TOP, folder), name)
    for top in (TOP, RUNS):
        left = empty_trash(state_dir, top)
        if left.count:
            say(f"[cleanup] ERROR: {left.count} entries of the trash cannot be deleted: {'; '.join(left.reasons)}")
    return {}


def _remove_run_folder(state_dir: Path, job: dict[str, Any], say: Say) -> Result:
    os.nice(_NICE)
    name: str = job["run_id"]
    try:
        trashed = discard(state_dir, (RUNS,), name)
    except RefusedRemovalError as error:
        say(f"[cleanup] Refusing to remove {state_dir / RUNS / name}: {error}")
        return {"gone": False, "reason": str(error)}
    left = empty_trash(state_dir, RUNS, trashed) if trashed is not None else None
    return {"gone": left is None or not left.count, "reason": "; ".join(left.reasons) if left else None}


_JOBS: dict[str, Callable[[Path, dict[str, Any], Say], Result]] = {
    "prepare": _prepare,
    "clean": _clean,
    "measure": _measure,
    "survey": _survey,
    "quarantine": _quarantine,
    "sweep_up": _sweep_up,
    "remove_run_folder": _remove_run_folder,
}


def main() -> None:
    """Do jobs until there are no more."""
    die_with_parent()
    os.umask(0o077)
    for line in sys.stdin:
        job = json.loads(line)
        _tell(_done(job))


def _done(job: dict[str, Any]) -> dict[str, Any]:
    try:
        result = _JOBS[job["do"]](Path(job["state_dir"]), job, lambda text: _tell({"say": text}))
    except PreparationError as error:
        return {"failed": str(error)}
    except OSError as error:
        return {"failed": f"{error.strerror}: {error.filename}", "full": error.errno in {errno.ENOSPC, errno.EDQUOT}}
    except Exception as error:  # noqa: BLE001 - whoever asked must hear of it
        return {"failed": f"unexpected error: {type(error).__name__}: {error}"}
    return {"done": result}


def _tell(message: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more; the end comes with the input's
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
