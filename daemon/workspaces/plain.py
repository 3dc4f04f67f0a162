"""What git keeps in plain files, read from a repository that is not to be trusted: no link is followed, no git is run.

Standard library only: the helper process imports this.
"""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from daemon.workspaces.descent import open_below, open_root

OID = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LARGEST_FILE = 64 * 1024**2  # bytes of refs, reflogs or an index that are read


class UnreadableError(Exception):
    """A repository cannot be read; the text says why."""


def git_folder(place: Path, workspace: Path) -> Path | None:
    """Return the git folder of a repository, if it lies in the workspace and no link leads to it."""
    entry = place / ".git"
    try:
        found = entry.lstat()
    except OSError:
        return None
    target = entry
    if stat.S_ISREG(found.st_mode):
        text = (read_plain(entry) or b"").strip()
        if not text.startswith(b"gitdir: "):
            return None
        target = Path(os.path.normpath(place / os.fsdecode(text[8:])))
    if not target.is_relative_to(workspace) or not _is_plain(workspace, target):
        return None
    return target


def _is_plain(workspace: Path, target: Path) -> bool:
    """Tell whether a folder is reached without a link, and has a folder of objects of its own."""
    try:
        folder = open_root(workspace)
        for part in [*target.relative_to(workspace).parts, "objects"]:
            below = open_below(folder, part)
            os.close(folder)
            folder = below
    except OSError:
        return False
    os.close(folder)
    return True


def read_plain(path: Path) -> bytes | None:
    """Return a plain file of the workspace, None if there is none; raise UnreadableError for one that is too large."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        data = stream.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise UnreadableError(f"{path} is larger than {_LARGEST_FILE} bytes")
    return data


def packed_refs(source: Path) -> Iterator[tuple[str, str]]:
    for line in (read_plain(source / "packed-refs") or b"").splitlines():
        oid, _, name = line.partition(b" ")
        if OID.fullmatch(oid) and name.startswith(b"refs/"):
            yield os.fsdecode(name), oid.decode()


def loose_refs(source: Path) -> Iterator[tuple[str, str]]:
    for path in _plain_files(source / "refs"):
        data = (read_plain(path) or b"").strip()
        if OID.fullmatch(data):
            yield str(path.relative_to(source)), data.decode()


def reflogs(source: Path) -> Iterator[Path]:
    yield from _plain_files(source / "logs")


def logged(path: Path) -> Iterator[str]:
    """Give the ids that a reflog names, unless it is that of a fetched branch."""
    if "remotes" in path.parts:
        return
    for line in (read_plain(path) or b"").splitlines():
        yield from (oid.decode() for oid in line.split(b" ", 2)[:2] if OID.fullmatch(oid) and oid.strip(b"0"))


def pseudo_refs(source: Path) -> Iterator[str]:
    """Give the ids in files like MERGE_HEAD, and in the HEADs of further working trees; what was fetched is no work."""
    names = [path for path in source.glob("*_HEAD") if path.name != "FETCH_HEAD"]
    for path in [*names, *source.glob("worktrees/*/HEAD")]:
        for line in (read_plain(path) or b"").splitlines():
            if OID.fullmatch(line.strip()):
                yield line.strip().decode()


def _plain_files(folder: Path) -> Iterator[Path]:
    """Give the files below a folder without following a link."""
    if folder.is_symlink():
        return
    for place, _, names in os.walk(folder, followlinks=False):
        yield from (Path(place) / name for name in names)
