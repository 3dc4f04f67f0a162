"""The only code that deletes folders: it moves a direct child of a known folder to the trash, and deletes it there.

It never follows a link and never crosses a mount. What cannot be deleted is reported, stays in the trash, and is tried
again later. Standard library only: the helper process imports this.
"""

import errno
import os
import re
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from daemon.workspaces.openat import (
    BadNameError,
    check_name,
    grant_owner_access,
    open_forcibly,
    open_path,
)

TRASH = ".trash"
_DEEPEST = 100  # folders open at once; deeper ones are first moved up into the trash
_ATTEMPTS = 5  # to empty a folder in which new entries appear
_MOST_REASONS = 20


class _EnoughError(Exception):
    """As much was deleted as was wanted; the rest stays in the trash."""


class RefusedRemovalError(Exception):
    """This must not be removed; the text says why."""


@dataclass
class Leftovers:
    """How many entries could not be deleted, and why: the reasons of the first ones."""

    count: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, name: str, error: OSError) -> None:
        """Add an entry that could not be deleted."""
        self.count += 1
        if len(self.reasons) < _MOST_REASONS:
            self.reasons.append(f"{name!r}: {error.strerror}")


def discard(state_dir: Path, folders: tuple[str, ...], name: str) -> str | None:
    """Move a direct child of a folder below the state directory to the trash; return its name there.

    `folders` are the names from the state directory down to the child's parent; the trash is in the first of them.
    Return None if the child does not exist. Raise RefusedRemovalError if it is not a folder, or if a link or a mount
    point leads to it, and OSError if it cannot be moved.
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
        return _move(state_dir, folders[0], parent, name)
    finally:
        os.close(parent)


def _refusal(error: OSError) -> str:
    if error.errno in {errno.ELOOP, errno.ENOTDIR}:
        return f"{error.filename!r} is a link or not a folder"
    if error.errno == errno.EXDEV:
        return f"{error.filename!r} is a mount point"
    return f"{error.filename!r}: {error.strerror}"


def _move(state_dir: Path, top: str, parent: int, name: str) -> str | None:
    try:
        if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
            raise RefusedRemovalError(f"{name!r} is a link or not a folder")
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
        _with_write_access(child, lambda: os.rename(name, trashed, src_dir_fd=parent, dst_dir_fd=trash))
        moved = os.lstat(trashed, dir_fd=trash)
        if not os.path.samestat(os.fstat(child), moved):
            if stat.S_ISDIR(moved.st_mode):
                os.rename(trashed, name, src_dir_fd=trash, dst_dir_fd=parent)
            raise RefusedRemovalError(f"{name!r} was replaced while it was being removed")
    finally:
        os.close(trash)
        os.close(child)
    return trashed


def empty_trash(state_dir: Path, top: str, only: str | None = None, most: int | None = None) -> Leftovers:
    """Delete the entries of a trash folder, or only one of them; return what could not be deleted.

    `only` is the name of an entry there, or the one that what is deleted had before. After `most` files and folders,
    what is left stays there without being reported; None: no such bound.
    """
    left = Leftovers()
    try:
        trash = open_path(state_dir, top, TRASH)
    except FileNotFoundError:
        return left
    try:
        for name in os.listdir(trash):
            if only is None or re.fullmatch(rf"{re.escape(only[:200])}(\.[0-9a-f]{{16}})*", name):
                _Deletion(trash, left, most).delete(name)
    except _EnoughError:
        return left
    finally:
        os.close(trash)
    return left


def remove_temporary(state_dir: Path, folders: tuple[str, ...], name: str, most: int | None = None) -> None:
    """Remove a folder of our own that holds nobody's work.

    A later cleanup deletes what cannot be deleted now, and what is beyond `most` files and folders.
    """
    try:
        if _removed_empty(state_dir, folders, name):
            return
        trashed = discard(state_dir, folders, name)
    except (RefusedRemovalError, OSError):
        return
    if trashed is not None:
        empty_trash(state_dir, folders[0], trashed, most)


def _removed_empty(state_dir: Path, folders: tuple[str, ...], name: str) -> bool:
    """Remove a folder at once if it is empty, as most temporary ones are; return whether it was. Raise OSError."""
    parent = open_path(state_dir, *folders)
    try:
        os.rmdir(check_name(name), dir_fd=parent)  # removes neither links nor what is not empty
    except OSError:
        return False
    finally:
        os.close(parent)
    return True


class _Deletion:
    """The deletion of one tree in the trash, with a bounded number of open folders however deep it is."""

    def __init__(self, trash: int, left: Leftovers, most: int | None) -> None:
        self.trash = trash
        self.left = left
        self.most = most
        self.entry = ""
        self.moved_up: list[str] = []

    def delete(self, name: str) -> None:
        """Delete an entry of the trash with everything below it."""
        self.entry = name
        self._delete_in(self.trash, name, 0)
        while self.moved_up:
            self._delete_in(self.trash, self.moved_up.pop(), 0)

    def _delete_in(self, folder: int, name: str, depth: int) -> None:
        """Delete an entry of a folder, and add what cannot be deleted to the leftovers; raise _EnoughError."""
        self._count()
        try:
            if not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                _with_write_access(folder, lambda: os.unlink(name, dir_fd=folder))
            elif depth >= _DEEPEST:
                self._move_up(folder, name)
            else:
                self._delete_folder(folder, name, depth)
        except FileNotFoundError:
            return
        except OSError as error:
            self.left.add(name, error)

    def _move_up(self, folder: int, name: str) -> None:
        moved = f"{self.entry[:200]}.{secrets.token_hex(8)}"
        try:
            os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=self.trash)
        except PermissionError:  # moving a folder changes its `..`, so the folder itself must be writable
            os.close(open_forcibly(folder, name))
            _with_write_access(folder, lambda: os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=self.trash))
        self.moved_up.append(moved)

    def _delete_folder(self, folder: int, name: str, depth: int) -> None:
        inner = open_forcibly(folder, name)
        try:
            for _ in range(_ATTEMPTS):
                before = self.left.count
                self._delete_entries(inner, depth)
                try:
                    _with_write_access(folder, lambda: os.rmdir(name, dir_fd=folder))
                except OSError as error:
                    if error.errno != errno.ENOTEMPTY:
                        raise
                    if self.left.count > before:  # reported already
                        return
                else:
                    return
            raise OSError(errno.ENOTEMPTY, "new entries keep appearing in it", name)
        finally:
            os.close(inner)

    def _delete_entries(self, folder: int, depth: int) -> None:
        """Delete the entries of an open folder."""
        with os.scandir(folder) as entries:
            some = entries if self.most is None else islice(entries, self.most + 1)
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in some]
        for name, is_folder in found:
            if is_folder:
                self._delete_in(folder, name, depth + 1)
            else:
                try:
                    os.unlink(name, dir_fd=folder)
                except OSError:
                    self._delete_in(folder, name, depth + 1)
                else:
                    self._count()

    def _count(self) -> None:
        if self.most is not None:
            if self.most == 0:
                raise _EnoughError
            self.most -= 1


def _with_write_access(folder: int, change: Callable[[], None]) -> None:
    """Change an open folder, after giving ourselves write access if we lack it."""
    try:
        change()
    except PermissionError:
        grant_owner_access(folder)
        change()
