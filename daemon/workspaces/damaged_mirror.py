"""What becomes of a damaged mirror: deleted, or set aside until the next one has taken over what it keeps for runs.

Standard library only: the helper process imports this.
"""

import os
from collections.abc import Callable
from pathlib import Path

from daemon.workspaces.git import GitError, is_lack
from daemon.workspaces.kept_commits import keeps_commits, take_over
from daemon.workspaces.layout import DAMAGED_MIRROR, MIRROR, QUARANTINE
from daemon.workspaces.mirror_files import check_entries
from daemon.workspaces.openat import free_name, open_path
from daemon.workspaces.removal import remove_temporary
from daemon.workspaces.salvage.walk import UnreadableError

_MOST_NAMED = 20
_NOT_TAKEN_OVER = "cannot read all commits that the damaged mirror kept for runs"


class DamagedMirror:
    """The place beside a mirror for one that was damaged."""

    def __init__(self, state_dir: Path, folders: tuple[str, ...], log: Callable[[str], None]) -> None:
        """Work in the folder that holds the mirror, given as names below the state directory."""
        self._state_dir = state_dir
        self._folders = folders
        self._log = log
        self._mirror = state_dir.joinpath(*folders, MIRROR)
        self._aside = self._mirror.with_name(DAMAGED_MIRROR)

    def take_away(self) -> None:
        """Delete a mirror, or set it aside if it keeps commits for runs, so that the next one can take them over.

        Of a link only the link is deleted, not what it leads to.
        """
        if self._mirror.is_symlink():
            self._mirror.unlink()
        try:
            keeps = keeps_commits(self._mirror)
        except OSError:  # perhaps it does
            keeps = True
        if keeps and os.path.lexists(self._aside):
            self._quarantine("another mirror is damaged before all commits of this one were taken over")
        if keeps:
            self._mirror.rename(self._aside)
        else:
            remove_temporary(self._state_dir, self._folders, MIRROR)

    def take_over(self) -> None:
        """Take over what a mirror that was set aside keeps for runs; delete it if that was all, or quarantine it.

        It stays for the next fetch if that cannot be told at the moment.
        """
        if not os.path.lexists(self._aside):
            return
        try:
            check_entries(self._aside)
            lost = take_over(self._mirror, self._aside)
            problem = f"these are incomplete: {', '.join(lost[:_MOST_NAMED])}" if lost else None
        except (GitError, UnreadableError, OSError) as error:
            problem = str(error)
            if isinstance(error, GitError) or is_lack(problem):
                self._log(f"WARNING: {_NOT_TAKEN_OVER}; the next fetch retries it: {problem}")
                return
        if problem is None:
            remove_temporary(self._state_dir, self._folders, DAMAGED_MIRROR)
        else:
            self._quarantine(f"{_NOT_TAKEN_OVER}: {problem}")

    def _quarantine(self, why: str) -> None:
        """Move a mirror that was set aside to where nobody deletes it, and log why."""
        names = (*self._folders, QUARANTINE)
        folder = open_path(self._state_dir, *names, create=True)
        try:
            name = free_name(folder, DAMAGED_MIRROR, ".")
            os.rename(self._aside, name, dst_dir_fd=folder)
        finally:
            os.close(folder)
        self._log(f"WARNING: {why}; it is now {self._state_dir.joinpath(*names, name)}")
