"""The helper process: it makes, saves, measures and removes workspaces, so that the daemon's event loop never waits.

It reads jobs from standard input and writes log messages and results to standard output (`pipe.py` has the format). It
exits when its input ends or the daemon dies. Standard library only, so that it starts quickly.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from daemon.model import NAME
from daemon.workspaces import jobs
from daemon.workspaces.clean import clean, examine
from daemon.workspaces.clone import prepare_workspace
from daemon.workspaces.disk_usage import entry_sizes, workspace_sizes
from daemon.workspaces.fetch import fetch_mirrors
from daemon.workspaces.git import GitError, exit_with_parent, terminate_all_and
from daemon.workspaces.layout import ENVIRONMENTS, INCOMING, QUARANTINE, RUNS, SCRATCH, tasks_of, workspace_path
from daemon.workspaces.lock import abandoned_folders
from daemon.workspaces.mirror import CloneError
from daemon.workspaces.openat import free_name, names_in, open_path
from daemon.workspaces.pipe import MessageError, decode_job, encode_error, encode_log, encode_result, encode_waiting
from daemon.workspaces.removal import empty_trash, remove_temporary
from daemon.workspaces.run_folders import remove_orphans
from daemon.workspaces.salvage.stored import newest_saved, saved_bytes
from daemon.workspaces.salvage.walk import UnreadableError
from daemon.workspaces.submodules import maintain

Log = Callable[[str], None]
_NICE = 10
"""For what can wait: beside busy agents, a tenth of a core. With 19 it is a seventieth, and a disk fills meanwhile."""


def _let_agents_go_first() -> None:
    """Lower the priority, once for all jobs of this process: each call of nice(2) would lower it further."""
    os.nice(max(0, _NICE - os.nice(0)))


def _tell_wait(what: str) -> None:
    _write(encode_waiting(what))


def _fetch_mirror(state_dir: Path, job: jobs.FetchMirror, log: Log) -> jobs.FetchedMirror:
    return fetch_mirrors(state_dir, job.source, job.timeout, log, _tell_wait)


def _maintain_mirrors(state_dir: Path, job: jobs.MaintainMirrors, log: Log) -> bool:
    _let_agents_go_first()
    return maintain(state_dir, job.source, job.timeout, log)


def _prepare_workspace(state_dir: Path, job: jobs.PrepareWorkspace, log: Log) -> jobs.PreparedWorkspace:
    os.umask(job.umask)
    return prepare_workspace(
        state_dir,
        job.source,
        job.author,
        job.run_id,
        job.timeout,
        log,
        fetches=job.fetches,
        folder=job.folder,
        on_wait=_tell_wait,
    )


def _clean_workspace(state_dir: Path, job: jobs.CleanWorkspace, log: Log) -> jobs.CleanedWorkspace:
    _let_agents_go_first()
    return clean(
        state_dir,
        job.environment,
        str(job.run_id),
        log,
        base=job.base,
        salvage_max=job.salvage_max,
        saves=job.saves,
        folder=job.folder,
    )


def _examine_workspace(state_dir: Path, job: jobs.ExamineWorkspace, _: Log) -> jobs.WorkspaceContents:
    _let_agents_go_first()
    return examine(state_dir, job.environment, str(job.run_id), base=job.base, folder=job.folder)


def _find_saved_work(state_dir: Path, job: jobs.FindSavedWork, _: Log) -> jobs.FoundWork:
    return jobs.FoundWork(newest_saved(state_dir, str(job.run_id)))


def _list_workspaces(state_dir: Path, _: jobs.ListWorkspaces, log: Log) -> jobs.WorkspaceNames:
    found: dict[str, tuple[str, ...] | None] = {}
    for environment in names_in(state_dir, ENVIRONMENTS):
        if NAME.fullmatch(environment):
            try:
                found[environment] = tuple(names_in(state_dir, *tasks_of(environment)))
            except OSError as error:
                folder = state_dir.joinpath(*tasks_of(environment))
                log(f"[cleanup] ERROR: Cannot read {folder}: {error.strerror}")
                found[environment] = None
    return jobs.WorkspaceNames(found)


def _quarantine_workspace(state_dir: Path, job: jobs.QuarantineWorkspace, _: Log) -> jobs.QuarantinedWorkspace:
    tasks = open_path(state_dir, *tasks_of(job.environment))
    quarantine = open_path(state_dir, ENVIRONMENTS, job.environment, QUARANTINE, create=True)
    try:
        name = free_name(quarantine, job.name, ".")
        os.rename(job.name, name, src_dir_fd=tasks, dst_dir_fd=quarantine)
    finally:
        os.close(quarantine)
        os.close(tasks)
    return jobs.QuarantinedWorkspace(state_dir / ENVIRONMENTS / job.environment / QUARANTINE / name)


def _move_workspace(state_dir: Path, job: jobs.MoveWorkspace, log: Log) -> jobs.MovedWorkspace:
    name = str(job.run_id)
    if name in names_in(state_dir, *tasks_of(job.environment)):
        moved = _quarantine_workspace(state_dir, jobs.QuarantineWorkspace(job.environment, job.folder), log)
        return jobs.MovedWorkspace(moved.path)
    tasks = open_path(state_dir, *tasks_of(job.environment))
    try:
        os.rename(job.folder, name, src_dir_fd=tasks, dst_dir_fd=tasks)
    finally:
        os.close(tasks)
    return jobs.MovedWorkspace(workspace_path(state_dir, job.environment, name))


def _measure_workspaces(state_dir: Path, job: jobs.MeasureWorkspaces, _: Log) -> jobs.DiskUsage:
    _let_agents_go_first()
    sizes = workspace_sizes(state_dir, job.environment, job.folders.values())
    return jobs.DiskUsage({run: sizes[name] for run, name in job.folders.items() if name in sizes})


def _measure_saved_work(state_dir: Path, job: jobs.MeasureSavedWork, _: Log) -> jobs.DiskUsage:
    _let_agents_go_first()
    found = {}
    for run in job.runs:
        with contextlib.suppress(UnreadableError, OSError):  # the next sweep tries again
            found[run] = saved_bytes(state_dir, str(run))
    return jobs.DiskUsage(found)


def _measure_run_folders(state_dir: Path, job: jobs.MeasureRunFolders, _: Log) -> jobs.DiskUsage:
    _let_agents_go_first()
    return _disk_usage(entry_sizes(state_dir, (RUNS,), map(str, job.runs)))


def _disk_usage(sizes: Mapping[str, int]) -> jobs.DiskUsage:
    return jobs.DiskUsage({int(name): size for name, size in sizes.items()})


def _delete_leftovers(state_dir: Path, _: jobs.DeleteLeftovers, log: Log) -> None:
    _let_agents_go_first()
    for folder in (INCOMING, SCRATCH):
        for name in abandoned_folders(state_dir, folder):
            remove_temporary(state_dir, (ENVIRONMENTS, folder), name)
    for top in (ENVIRONMENTS, RUNS):
        left = empty_trash(state_dir, top)
        if left.count:
            reasons = "; ".join(left.reasons)
            log(f"[cleanup] ERROR: Cannot delete {left.count} entries of the trash: {reasons}")


def _remove_orphans(state_dir: Path, job: jobs.RemoveOrphans, log: Log) -> jobs.RemovedFolders:
    _let_agents_go_first()
    return remove_orphans(state_dir, job.expired, log, dry_run=job.dry_run)


_HANDLERS: Mapping[type[jobs.Job], Callable[[Path, Any, Log], object]] = {
    jobs.FetchMirror: _fetch_mirror,
    jobs.MaintainMirrors: _maintain_mirrors,
    jobs.PrepareWorkspace: _prepare_workspace,
    jobs.CleanWorkspace: _clean_workspace,
    jobs.ExamineWorkspace: _examine_workspace,
    jobs.FindSavedWork: _find_saved_work,
    jobs.ListWorkspaces: _list_workspaces,
    jobs.QuarantineWorkspace: _quarantine_workspace,
    jobs.MoveWorkspace: _move_workspace,
    jobs.MeasureWorkspaces: _measure_workspaces,
    jobs.MeasureSavedWork: _measure_saved_work,
    jobs.MeasureRunFolders: _measure_run_folders,
    jobs.DeleteLeftovers: _delete_leftovers,
    jobs.RemoveOrphans: _remove_orphans,
}


def main() -> None:
    """Do jobs until the input ends. Arguments: the package's folder, the state directory, the pid of the daemon."""
    exit_with_parent(int(sys.argv[3]))
    signal.signal(signal.SIGTERM, _terminate)
    os.umask(0o077)
    state_dir = Path(sys.argv[2])
    for line in sys.stdin.buffer:
        _write(_reply(state_dir, line))


def _terminate(*_: object) -> None:
    """Exit at once, and end git with everything that it started."""
    terminate_all_and(lambda: os._exit(1))


def _reply(state_dir: Path, line: bytes) -> bytes:
    """Do the job that a line holds; return its result or its error as a line."""
    try:
        job = decode_job(line)
        return encode_result(_HANDLERS[type(job)](state_dir, job, lambda text: _write(encode_log(text))))
    except (CloneError, GitError, MessageError, UnreadableError) as error:
        return encode_error(str(error))
    except OSError as error:
        return encode_error(f"{error.strerror}: {error.filename!r}" if error.filename else str(error))
    except Exception as error:  # noqa: BLE001 - the daemon must get an answer
        return encode_error(f"unexpected error: {type(error).__name__}: {error}")


def _write(line: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # the daemon is gone, and so the input ends next
        sys.stdout.buffer.write(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
