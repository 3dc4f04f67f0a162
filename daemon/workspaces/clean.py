"""Clean up one workspace: lock it, save its unsaved work, and move it to the trash to be deleted.

Standard library only: the helper process imports this.
"""

from collections.abc import Callable
from pathlib import Path

from daemon.workspaces.jobs import CleanedWorkspace, SavedWork, WorkspaceContents
from daemon.workspaces.layout import ENVIRONMENTS, tasks_of, workspace_path
from daemon.workspaces.lock import InUseError, locked_workspace
from daemon.workspaces.removal import RefusedRemovalError, discard, empty_trash
from daemon.workspaces.salvage.save import SalvageError, TooMuchWorkError, save
from daemon.workspaces.salvage.unsaved import count_unsaved
from daemon.workspaces.salvage.walk import measure, walk

SALVAGE_MAX = 200 * 1024**2
GIT_TIMEOUT = 600.0  # seconds for one git command


def no_log(_: str) -> None:
    """Drop a log message."""


def clean(
    state_dir: Path,
    environment: str,
    run_id: str,
    log: Callable[[str], None],
    *,
    base: str | None = None,
    salvage_max: int | None = SALVAGE_MAX,
    saves: bool = True,
    folder: str | None = None,
) -> CleanedWorkspace:
    """Save the work of a run's workspace and remove it; a missing workspace counts as gone.

    `base` is the commit that it started from. A workspace with more than `salvage_max` bytes of unsaved work stays;
    None means no limit. Without `saves` its work is lost. `folder` is the name of its folder unless that is the run's
    number.
    """
    name = folder or run_id
    path = workspace_path(state_dir, environment, name)
    saved = None
    try:
        with locked_workspace(state_dir, tasks_of(environment), name):
            log(f"[cleanup] Removing task workspace: {path}")
            if saves:
                saved = save(
                    state_dir, environment, run_id, path, base=base, salvage_max=salvage_max, git_timeout=GIT_TIMEOUT
                )
            trashed = discard(state_dir, tasks_of(environment), name)
    except FileNotFoundError:
        return _deleted(state_dir, name, None, log)  # an earlier cleanup may have left files in the trash
    except (InUseError, RefusedRemovalError, TooMuchWorkError) as error:
        return _not_removed(log, f"[cleanup] Refusing to remove {path}: {error}", str(error), saved)
    except SalvageError as error:
        message = f"[cleanup] ERROR: Failed to remove task workspace: cannot save the work in {path}: {error}"
        return _not_removed(log, message, f"its work cannot be saved: {error}", saved)
    except (OSError, UnicodeError) as error:  # whatever an agent did to its files must not stop other cleanups
        reason = getattr(error, "strerror", None) or str(error)
        return _not_removed(log, f"[cleanup] Refusing to remove {path}: {reason}", reason, saved)
    return _delete(state_dir, path, trashed, saved, log)


def _not_removed(log: Callable[[str], None], message: str, reason: str, saved: SavedWork | None) -> CleanedWorkspace:
    log(message)
    return CleanedWorkspace(gone=False, reason=_printable(reason), saved=saved)


def _printable(text: str) -> str:
    """Escape the bytes of file names that are not UTF-8, so that a text can be stored and printed anywhere."""
    return text.encode(errors="backslashreplace").decode()


def _delete(
    state_dir: Path, path: Path, trashed: str | None, saved: SavedWork | None, log: Callable[[str], None]
) -> CleanedWorkspace:
    """Delete a workspace from the trash, and log what was saved of it."""
    if saved is None:
        log(f"[cleanup] Saved nothing of {path}, as requested")
    elif saved.folder is not None:
        log(f"[cleanup] Saved {saved.commits} commits and {saved.files} changed files of {path} in {saved.folder}")
    done = _deleted(state_dir, path.name if trashed is None else trashed, saved, log)
    if done.gone:
        log("[cleanup] Workspace cleaned up")
    return done


def _deleted(state_dir: Path, name: str, saved: SavedWork | None, log: Callable[[str], None]) -> CleanedWorkspace:
    """Delete what the trash holds of a workspace."""
    left = empty_trash(state_dir, ENVIRONMENTS, name)
    if left.count:
        reason = f"{left.count} entries cannot be deleted and stay in the trash: {'; '.join(left.reasons)}"
        log(f"[cleanup] ERROR: Failed to remove task workspace: {reason}")
        return CleanedWorkspace(gone=False, reason=_printable(reason), in_trash=True, saved=saved)
    return CleanedWorkspace(gone=True, saved=saved)


def examine(
    state_dir: Path, environment: str, run_id: str, *, base: str | None = None, folder: str | None = None
) -> WorkspaceContents:
    """Return what is in the workspace of a run, which started from the commit `base`; raise UnreadableError.

    `folder` is the name of its folder unless that is the run's number.
    """
    files, repositories = 0, []
    names = (*tasks_of(environment), folder or run_id)
    for found in walk(state_dir, *names):
        if ".git" in {*found.below, *found.files}:
            repositories.append(str(found.path))
        if ".git" in found.below:
            found.below.remove(".git")
        files += len(found.files)
    path = state_dir.joinpath(*names)
    unsaved = count_unsaved(state_dir, environment, run_id, path, base=base, git_timeout=GIT_TIMEOUT)
    return WorkspaceContents(files, measure(state_dir, *names).bytes, tuple(map(_printable, repositories)), unsaved)
