"""The objects of Git LFS in a workspace: contents of large files, of which git itself holds pointers only.

git-lfs need not be installed: an object is a plain file, named by the SHA-256 of its content, and so is a pointer.
Standard library only: the helper process imports this.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.workspaces.openat import grant_access_by_name, open_path
from daemon.workspaces.salvage.repository import read_file
from daemon.workspaces.salvage.walk import UnreadableError, walk

LARGEST_POINTER = 1024  # bytes (git-lfs(1), the file format of pointers)
_NAME = re.compile(r"[0-9a-f]{64}")
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-.*\n)*oid sha256:([0-9a-f]{64})\nsize ")
_STORAGE = re.compile(rb'(?ims)^\s*\[lfs\][^\[]*?^\s*storage\s*=\s*"?(.*?)"?\s*$')
_CHUNK = 1024**2  # bytes read at once
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class LfsObject:
    """An object in a workspace."""

    oid: str
    folder: Path
    """Where it is, relative to the workspace."""
    size: int
    is_linked: bool
    """Whether anything else refers to it, too: then it is copied, which takes room."""

    def pointer_id(self, *, sha256: bool) -> str:
        """Return the object id that git gives to the pointer."""
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.oid}\nsize {self.size}\n".encode()
        blob = b"blob %d\0%s" % (len(text), text)
        return (hashlib.sha256 if sha256 else hashlib.sha1)(blob).hexdigest()


def lfs_objects(common: Path, workspace: Path) -> list[LfsObject]:
    """Return the objects that a repository keeps in the workspace; raise UnreadableError.

    Objects elsewhere are none of ours: they stay where they are.
    """
    stores = {common / "lfs" / "objects"}
    configured = _STORAGE.search(read_file(common / "config") or b"")
    if configured:
        stores.add(Path(os.path.normpath(common / os.fsdecode(configured[1]))) / "objects")
    return sorted(_objects_in(stores, workspace), key=lambda one: one.oid)


def _objects_in(stores: Iterable[Path], workspace: Path) -> Iterator[LfsObject]:
    for store in stores:
        if not store.is_relative_to(workspace) or not os.path.lexists(store):
            continue
        names = store.relative_to(workspace).parts
        for folder in walk(workspace, *names):
            for name in filter(_NAME.fullmatch, folder.files):
                found = os.lstat(name, dir_fd=folder.descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise UnreadableError(f"{store / folder.path / name} is not a regular file")
                yield LfsObject(name, Path(*names) / folder.path, found.st_size, found.st_nlink > 1)


def pointer_in(data: bytes) -> str | None:
    """Return the object that a pointer names, None if a text is not a pointer."""
    match = _POINTER.match(data)
    return match[1].decode() if match else None


def content_id(path: bytes | str, folder: int | None = None) -> str | None:
    """Return the id that the content of a file has as an object, its SHA-256; None if it is not a regular file.

    `path` may be relative to an open folder. Raise UnreadableError if the file cannot be read.
    """
    try:
        descriptor = os.open(path, _FILE, dir_fd=folder)
        with open(descriptor, "rb", buffering=0) as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableError(f"{os.fsdecode(path)}: {error.strerror}") from None


def store_objects(found: Iterable[LfsObject], workspace: Path, folder: Path) -> None:
    """Store objects in a folder as git-lfs does; raise OSError.

    An object that nothing else refers to takes no room: it gets a second name, and loses its first one with the
    workspace. One that its owner cannot read is opened up, since its second name is to be read.
    """
    for one in found:
        place = folder / "objects" / one.oid[:2] / one.oid[2:4]
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        source = open_path(workspace, *one.folder.parts)
        try:
            known = os.lstat(one.oid, dir_fd=source)
            if not known.st_mode & stat.S_IRUSR:
                grant_access_by_name(source, one.oid)
            if known.st_nlink == 1:
                os.link(one.oid, place / one.oid, src_dir_fd=source, follow_symlinks=False)
            else:
                _copy(source, one.oid, place / one.oid)
        except FileExistsError:  # in two stores
            continue
        finally:
            os.close(source)


def _copy(folder: int, name: str, target: Path) -> None:
    descriptor = os.open(name, _FILE, dir_fd=folder)
    with open(descriptor, "rb", buffering=0) as stream, target.open("xb") as copy:
        while data := stream.read(_CHUNK):
            copy.write(data)
