"""What git keeps in plain files, read from a repository that is not to be trusted: no link is followed, no git is run.

Standard library only: the helper process imports this.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.workspaces.openat import open_path

OID = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LARGEST_FILE = 64 * 1024**2  # bytes of refs, reflogs or an index that are read
_READ_BY_GIT = {".git", ".gitignore", ".gitattributes", ".gitmodules"}
_NO_REF_NAME = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{")
_URL = re.compile(rb'(?im)^\s*url\s*=\s*"?(.*?)"?\s*$')
_AFAR = re.compile(rb"[^/]+:")  # scheme://..., or host:path as ssh has it (git-fetch(1), GIT URLS)


class UnreadableError(Exception):
    """A repository cannot be read; the text says why."""


@dataclass(frozen=True)
class GitFolders:
    """Where a working tree has its own HEAD and index, and where its repository has objects and refs."""

    own: Path
    common: Path


def git_folders(place: Path, workspace: Path) -> GitFolders | None:
    """Return the git folders of a working tree, None if it has none.

    Raise UnreadableError if they do not lie in the workspace, or a link leads to them.
    """
    entry = place / ".git"
    try:
        found = entry.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadableError(f"{entry}: {error.strerror}") from None
    own = entry
    if stat.S_ISREG(found.st_mode):
        text = (read_plain(entry) or b"").strip()
        if not text.startswith(b"gitdir: "):
            raise UnreadableError(f"{entry} names no git folder")
        own = Path(os.path.normpath(place / os.fsdecode(text[8:])))
    common = (read_plain(own / "commondir") or b".").strip() if _is_plain(workspace, own) else b"."
    folders = GitFolders(own, Path(os.path.normpath(own / os.fsdecode(common))))
    if not _is_plain(workspace, folders.own) or not _is_plain(workspace, folders.common / "objects"):
        raise UnreadableError(f"{own} is no git folder of the workspace's own, or a link leads to it")
    return folders


def _is_plain(workspace: Path, target: Path) -> bool:
    """Tell whether a folder is reached from the workspace without a link."""
    if not target.is_relative_to(workspace):
        return False
    try:
        os.close(open_path(workspace, *target.relative_to(workspace).parts))
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV}:
            return False
        raise UnreadableError(f"{target}: {error.strerror}") from None
    return True


def read_plain(path: Path) -> bytes | None:
    """Return a plain file of the workspace, None if there is none; raise UnreadableError if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror}") from None
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnreadableError(f"{path} is no plain file")
        data = stream.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise UnreadableError(f"{path} is larger than {_LARGEST_FILE} bytes")
    return data


def refs_of(common: Path) -> dict[str, str]:
    """Return the refs of a repository and the ids they have; those that name another ref are left out."""
    found = {}
    for line in (read_plain(common / "packed-refs") or b"").splitlines():
        oid, _, name = line.partition(b" ")
        if OID.fullmatch(oid) and name.startswith(b"refs/"):
            found[os.fsdecode(name)] = oid.decode()
    for path in _plain_files(common / "refs"):
        data = (read_plain(path) or b"").strip()
        if OID.fullmatch(data):
            found[str(path.relative_to(common))] = data.decode()
    return found


def is_ref_name(name: str) -> bool:
    """Tell whether git takes a name for a ref (git-check-ref-format(1))."""
    parts = name.split("/")
    return not _NO_REF_NAME.search(name) and not any(
        not part or part.startswith(".") or part.endswith((".lock", ".")) for part in parts
    )


def comes_from_afar(common: Path) -> bool:
    """Tell whether a repository has remotes, and none of them is a folder of this host, which may be gone any time."""
    urls = _URL.findall(read_plain(common / "config") or b"")
    return bool(urls) and all(_AFAR.match(url) and not url.lower().startswith(b"file:") for url in urls)


def logged(common: Path) -> Iterator[str]:
    """Give the ids that the reflogs of a repository and its working trees name, less those of fetched branches."""
    for path in _plain_files(common / "logs"):
        if path.relative_to(common).parts[:3] != ("logs", "refs", "remotes"):
            yield from _ids_in(path)
    for tree in sorted(common.glob("worktrees/*")):
        for path in _plain_files(tree / "logs"):
            yield from _ids_in(path)


def _ids_in(reflog: Path) -> Iterator[str]:
    for line in (read_plain(reflog) or b"").splitlines():
        yield from (oid.decode() for oid in line.split(b" ", 2)[:2] if OID.fullmatch(oid) and oid.strip(b"0"))


def pseudo_refs(common: Path) -> Iterator[str]:
    """Give the ids in files like MERGE_HEAD, and in the HEADs of further working trees; what was fetched is no work."""
    trees = [common, *sorted(common.glob("worktrees/*"))]
    names = [path for tree in trees for path in tree.glob("*_HEAD") if path.name != "FETCH_HEAD"]
    for path in [*names, *(tree / "HEAD" for tree in trees)]:
        for line in (read_plain(path) or b"").splitlines():
            if OID.fullmatch(line.strip()):
                yield line.strip().decode()


def repositories_below(place: Path) -> Iterator[Path]:
    """Give the working trees below one, as paths relative to it, those within others left to the others.

    Raise UnreadableError for a folder that cannot be read, and for patterns or attributes that git would hang on.
    """
    for folder, below, files in os.walk(place, onerror=_unreadable):
        here = Path(folder)
        for name in _READ_BY_GIT & set(files):
            if not stat.S_ISREG(mode := (here / name).lstat().st_mode) and not stat.S_ISLNK(mode):
                raise UnreadableError(f"{here / name} is no plain file")
        if here != place and (".git" in below or ".git" in files):
            below.clear()
            yield here.relative_to(place)
            continue
        if ".git" in below:
            below.remove(".git")


def forsaken_modules(common: Path) -> Iterator[Path]:
    """Give the repositories of submodules, whether they are checked out or not."""
    for folder, below, files in os.walk(common / "modules", onerror=_unreadable):
        if "objects" in below and "HEAD" in files:
            below[:] = [name for name in below if name == "modules"]
            yield Path(folder)


def _plain_files(folder: Path) -> Iterator[Path]:
    """Give the files below a folder without following a link; raise UnreadableError for one that cannot be read."""
    if folder.is_symlink():
        raise UnreadableError(f"{folder} is a link")
    for place, below, names in os.walk(folder, onerror=_unreadable):
        if any((Path(place) / name).is_symlink() for name in below):
            raise UnreadableError(f"a folder in {place} is a link")
        yield from (Path(place) / name for name in names)


def _unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise UnreadableError(f"{error.filename}: {error.strerror}") from None
