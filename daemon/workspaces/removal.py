"""The one door to deletion: a direct child of a known folder is moved into the trash, and deleted from there.

Nothing is reached through a link or across a mount. What cannot be deleted stays in the trash, is told, and is tried
again later. Standard library only: the helper process imports this.
"""

import errno
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from daemon.workspaces.openat import (
    BadNameError,
    allow_changes,
    check_name,
    open_forcibly,
    open_path,
)

TRASH = ".trash"
_DEEPEST = 100  # folders that are open at once; what lies deeper is moved up first
_TRIES = 5  # for a folder in which something appears while it is emptied
_MOST_REASONS = 20


class RefusedRemovalError(Exception):
    """What is to be removed is not what may be removed; the text says why."""


@dataclass
class Leftovers:
    """What could not be deleted, and why; only the first of many."""

    count: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, name: str, error: OSError) -> None:
        """Note one."""
        self.count += 1
        if len(self.reasons) < _MOST_REASONS:
            self.reasons.append(f"{name!r}: {error.strerror}")


def discard(state_dir: Path, folders: tuple[str, ...], name: str) -> str | None:
    """Move a direct child of a folder below the state directory into the trash; return its name there.

    `folders` lead from the state directory to the child's folder; the trash lies in the first of them. Return None if
    there is no such child. Raise RefusedRemovalError if it is no folder that was reached without following a link,
    OSError if it cannot be moved.
    """
    try:
        check_name(name)
        parent = open_path(state_dir, *folders)
    except BadNameError:
        raise RefusedRemovalError(f"{name!r} is not the name of a folder") from None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RefusedRemovalError(_refusal(error)) from None
    try:
        return _moved(state_dir, folders[0], parent, name)
    finally:
        os.close(parent)


def _refusal(error: OSError) -> str:
    if error.errno in {errno.ELOOP, errno.ENOTDIR}:
        return f"{error.filename!r} is a link or no folder"
    if error.errno == errno.EXDEV:
        return f"{error.filename!r} is a mount point"
    return f"{error.filename!r}: {error.strerror}"


def _moved(state_dir: Path, top: str, parent: int, name: str) -> str | None:
    try:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            raise RefusedRemovalError(f"{name!r} is a link or no folder")
    except FileNotFoundError:
        return None
    try:
        child = open_forcibly(parent, name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RefusedRemovalError(_refusal(error)) from None
    trash = open_path(state_dir, top, TRASH, create=True)
    try:
        trashed = f"{name[:200]}.{secrets.token_hex(8)}"
        _in_writable(child, lambda: os.rename(name, trashed, src_dir_fd=parent, dst_dir_fd=trash))
        moved = os.lstat(trashed, dir_fd=trash)
        if not os.path.samestat(os.fstat(child), moved):
            if stat.S_ISDIR(moved.st_mode):
                os.rename(trashed, name, src_dir_fd=trash, dst_dir_fd=parent)
            raise RefusedRemovalError(f"{name!r} was replaced while it was being removed")
    finally:
        os.close(trash)
        os.close(child)
    return trashed


def empty_trash(state_dir: Path, top: str, only: str | None = None) -> Leftovers:
    """Delete what lies in a trash folder, or one entry of it; return what could not be deleted."""
    left = Leftovers()
    try:
        trash = open_path(state_dir, top, TRASH)
    except FileNotFoundError:
        return left
    try:
        for name in os.listdir(trash) if only is None else [only]:
            _Deletion(trash, left).delete(name)
    finally:
        os.close(trash)
    return left


def remove_scrap(state_dir: Path, folders: tuple[str, ...], name: str) -> None:
    """Remove a folder of our own making that holds nobody's work; what cannot be deleted is left to later."""
    try:
        trashed = discard(state_dir, folders, name)
    except (RefusedRemovalError, OSError):
        return
    if trashed is not None:
        empty_trash(state_dir, folders[0], trashed)


class _Deletion:
    """The end of one tree in the trash; folders too deep to hold open are moved up into the trash first."""

    def __init__(self, trash: int, left: Leftovers) -> None:
        self.trash = trash
        self.left = left
        self.moved_up: list[str] = []

    def delete(self, name: str) -> None:
        """Delete an entry of the trash and all below it."""
        self._delete_in(self.trash, name, 0)
        while self.moved_up:
            self._delete_in(self.trash, self.moved_up.pop(), 0)

    def _delete_in(self, folder: int, name: str, depth: int) -> None:
        """Delete an entry of a folder; what cannot be deleted is noted."""
        try:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                _in_writable(folder, lambda: os.unlink(name, dir_fd=folder))
            elif depth >= _DEEPEST:
                self._move_up(folder, name)
            else:
                self._delete_folder(folder, name, depth)
        except FileNotFoundError:
            return
        except OSError as error:
            self.left.add(name, error)

    def _move_up(self, folder: int, name: str) -> None:
        moved = f"deep.{secrets.token_hex(8)}"
        try:
            os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=self.trash)
        except PermissionError:  # moving a folder changes its `..`
            os.close(open_forcibly(folder, name))
            _in_writable(folder, lambda: os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=self.trash))
        self.moved_up.append(moved)

    def _delete_folder(self, folder: int, name: str, depth: int) -> None:
        within = open_forcibly(folder, name)
        try:
            for _ in range(_TRIES):
                before = self.left.count
                self._delete_all(within, depth)
                try:
                    _in_writable(folder, lambda: os.rmdir(name, dir_fd=folder))
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
                    if self.left.count > before:  # told already
                        return
                else:
                    return
            raise OSError(errno.ENOTEMPTY, "something goes on appearing in it", name)
        finally:
            os.close(within)

    def _delete_all(self, folder: int, depth: int) -> None:
        """Delete what a folder holds, the files of it first and in one go."""
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_folder in found:
            if is_folder:
                self._delete_in(folder, name, depth + 1)
            else:
                try:
                    os.unlink(name, dir_fd=folder)
                except OSError:
                    self._delete_in(folder, name, depth + 1)


def _in_writable(folder: int, change: Callable[[], None]) -> None:
    """Change an open folder, giving ourselves the right to first where we lack it."""
    try:
        change()
    except PermissionError:
        allow_changes(folder)
        change()
