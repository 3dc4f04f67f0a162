"""The end of one workspace: nobody uses it, its work is saved, and then it goes through the door.

Standard library only: the helper process imports this.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from daemon.workspaces.layout import TOP, tasks_of, workspace_path
from daemon.workspaces.lock import InUseError, unused
from daemon.workspaces.removal import RefusedRemovalError, discard, empty_trash
from daemon.workspaces.salvage.save import SalvageError, Saved, save

SALVAGE_MAX = 200 * 1024**2
TIMEOUT = 600.0  # seconds that one git command may take


def silent(_: str) -> None:
    """Say nothing of what is done."""


@dataclass(frozen=True)
class Cleaned:
    """What became of a workspace that was to be removed."""

    gone: bool
    """Whether nothing of it is left."""
    reason: str | None = None
    """Why it is not gone."""
    in_trash: bool = False
    """Whether what is left of it lies in the trash, where it is tried again."""
    saved: Saved | None = None

    def view(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def clean(
    state_dir: Path,
    environment: str,
    run_id: str,
    say: Callable[[str], None],
    *,
    base: str | None = None,
    salvage_max: int | None = SALVAGE_MAX,
) -> Cleaned:
    """Save the work of a workspace and remove it; one that is missing is gone.

    `base` is the commit that it began at; with more than `salvage_max` bytes of unsaved work it stays, unless that is
    None.
    """
    path = workspace_path(state_dir, environment, run_id)
    try:
        with unused(state_dir, tasks_of(environment), run_id):
            say(f"[cleanup] Removing task workspace: {path}")
            saved = save(state_dir, environment, run_id, path, base=base, most=salvage_max, timeout=TIMEOUT)
            trashed = discard(state_dir, tasks_of(environment), run_id)
    except FileNotFoundError:
        return Cleaned(gone=True)
    except (InUseError, RefusedRemovalError) as error:
        return _kept(say, f"[cleanup] Refusing to remove {path}: {error}", str(error))
    except SalvageError as error:
        return _kept(
            say, f"[cleanup] ERROR: Failed to remove task workspace: {error}", f"its work cannot be saved: {error}"
        )
    except (OSError, UnicodeError) as error:  # whatever an agent did to its files must not stop other cleanups
        reason = getattr(error, "strerror", None) or str(error)
        return _kept(say, f"[cleanup] Refusing to remove {path}: {reason}", reason)
    return _finish(state_dir, path, trashed, saved, say)


def _kept(say: Callable[[str], None], message: str, reason: str) -> Cleaned:
    say(message)
    return Cleaned(gone=False, reason=readable(reason))


def readable(text: str) -> str:
    """Return a text that names of any bytes were put into as one that can be written everywhere."""
    return text.encode(errors="backslashreplace").decode()


def _finish(state_dir: Path, path: Path, trashed: str | None, saved: Saved, say: Callable[[str], None]) -> Cleaned:
    if saved.folder is not None:
        say(f"[cleanup] Saved {saved.commits} commits and {saved.files} changed files of {path} in {saved.folder}")
    left = empty_trash(state_dir, TOP, trashed) if trashed is not None else None
    if left is not None and left.count:
        reason = f"{left.count} entries cannot be deleted, the trash keeps them: {'; '.join(left.reasons)}"
        say(f"[cleanup] ERROR: Failed to remove task workspace: {reason}")
        return Cleaned(gone=False, reason=readable(reason), in_trash=True, saved=saved)
    say("[cleanup] Workspace cleaned up")
    return Cleaned(gone=True, saved=saved)
