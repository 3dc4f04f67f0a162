"""Read refs, reflogs and other files of an untrusted git repository, without following a link or running git.

Standard library only: the helper process imports this.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.workspaces.openat import open_below, open_path
from daemon.workspaces.salvage.walk import Folder, UnreadableError, walk
from daemon.workspaces.urls import is_remote

OID = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LARGEST_FILE = 64 * 1024**2  # bytes of one file of refs, a reflog, an index, or of patterns or attributes
_READ_BY_GIT = {".git", ".gitignore", ".gitattributes", ".gitmodules"}
_BAD_REF_NAME = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{")
_URL = re.compile(rb'(?im)^\s*url\s*=\s*"?(.*?)"?\s*$')
_OBJECT_FOLDER = re.compile(r"[0-9a-f]{2}|pack")
_OBJECT_DEPTH = 3  # levels of folders: objects/pack/multi-pack-index.d is the deepest that git reads
_MOST_STORES = 100  # of one repository; git itself follows alternates only five levels deep


@dataclass(frozen=True)
class GitFolders:
    """The git folder of one working tree (HEAD, index) and that of its repository (objects, refs)."""

    own: Path
    common: Path


def git_folders(working_tree: Path, workspace: Path) -> GitFolders | None:
    """Return the git folders of a working tree, None if it has none.

    Raise UnreadableError if they are outside the workspace, or if a link leads to them.
    """
    entry = working_tree / ".git"
    try:
        found = entry.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnreadableError(f"{entry}: {error.strerror}") from None
    own = entry
    if stat.S_ISREG(found.st_mode):
        text = (read_file(entry) or b"").strip()
        if not text.startswith(b"gitdir: "):
            raise UnreadableError(f"{entry} does not name a git folder")
        own = Path(os.path.normpath(working_tree / os.fsdecode(text[8:])))
    common = (read_file(own / "commondir") or b".").strip() if _is_inside(workspace, own) else b"."
    folders = GitFolders(own, Path(os.path.normpath(own / os.fsdecode(common))))
    if not _is_inside(workspace, folders.own) or not _is_inside(workspace, folders.common / "objects"):
        raise UnreadableError(f"{own} is not a git folder inside the workspace, or a link leads to it")
    return folders


def named_git_folder(working_tree: Path, workspace: Path) -> Path | None:
    """Return the git folder that the file `.git` of a working tree names, if it is inside the workspace."""
    try:
        text = (read_file(working_tree / ".git") or b"").strip()
        folder = Path(os.path.normpath(working_tree / os.fsdecode(text.removeprefix(b"gitdir: "))))
        is_named = text.startswith(b"gitdir: ") and _is_inside(workspace, folder) and folder != workspace
    except UnreadableError:
        return None
    return folder if is_named and not folder.is_relative_to(working_tree) else None


def object_stores(common: Path, workspace: Path, trusted: Path | None) -> list[Path]:
    """Return the folders of objects of a repository: its own, and those that it borrows from inside the workspace.

    Raise UnreadableError if it borrows from elsewhere (`objects/info/alternates`), or if a link or another file system
    is in a folder of objects: git would follow it, and would read and save what belongs to somebody else. `trusted` is
    a folder of objects outside that it may name, since it is read anyway.
    """
    found: list[Path] = []
    unread = [common / "objects"]
    while unread:
        store = unread.pop()
        if store in found or store == trusted:
            continue
        if len(found) == _MOST_STORES:
            raise UnreadableError(f"{common} borrows objects from more than {_MOST_STORES} folders")
        _check_store(store, workspace)
        found.append(store)
        unread += [target for target in _alternates(store) if _is_lendable(store, target, workspace, trusted)]
    return found


def _alternates(store: Path) -> Iterator[Path]:
    """Yield the folders that a folder of objects borrows from (gitrepository-layout(5))."""
    for line in (read_file(store / "info" / "alternates") or b"").splitlines():
        if line and not line.startswith(b"#"):
            yield Path(os.path.normpath(store / os.fsdecode(_unquoted(line))))


def _unquoted(line: bytes) -> bytes:
    """Return a path as git reads it from a list of alternates, where it may be quoted as a string of C."""
    if not (line.startswith(b'"') and line.endswith(b'"')):
        return line
    return re.sub(rb"\\([0-7]{3}|.)", _unescaped, line[1:-1])


def _unescaped(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if len(code) > 1:
        return bytes([int(code, 8) & 0xFF])
    return {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}.get(code, code)


def _is_lendable(store: Path, target: Path, workspace: Path, trusted: Path | None) -> bool:
    """Return whether a folder of objects that is borrowed from exists; raise UnreadableError if it may not be read."""
    if target == trusted or _is_inside(workspace, target):
        return True
    if not os.path.lexists(target):  # what it held is lost, with or without us
        return False
    raise UnreadableError(
        f"{store}/info/alternates names {target}, which is not a folder inside the workspace and is not read; "
        "to keep the work, run `git repack -a -d` in the repository and remove that file"
    )


def _check_store(store: Path, workspace: Path) -> None:
    """Raise UnreadableError if a link or a mount is anywhere in a folder of objects."""
    try:
        folder = open_path(workspace, *store.relative_to(workspace).parts)
    except OSError as error:
        raise UnreadableError(f"{store}: {error.strerror}") from None
    try:
        _check_folder(folder, store, depth=_OBJECT_DEPTH)
    except OSError as error:
        raise UnreadableError(f"{store}: {error.strerror}: {error.filename}") from None
    finally:
        os.close(folder)


def _check_folder(folder: int, place: Path, depth: int) -> None:
    """Raise UnreadableError or OSError if a link or a mount is in an open folder, or in those below it."""
    for name in _checked_entries(folder, place) if depth else ():
        below = open_below(folder, name)
        try:
            _check_folder(below, place / name, depth - 1)
        finally:
            os.close(below)


def _checked_entries(folder: int, place: Path) -> list[str]:
    """Return the folders in an open folder; raise UnreadableError if it contains a link."""
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_symlink():
            raise UnreadableError(f"{place / entry.name} is a link")
    return [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]


def quoted(path: Path) -> bytes:
    """Return a path quoted for `objects/info/alternates`, whatever bytes are in it (gitrepository-layout(5))."""
    escaped = (b"\\%03o" % byte if byte < 32 or byte in b'"\\' else bytes([byte]) for byte in os.fsencode(path))  # noqa: PLR2004
    return b'"' + b"".join(escaped) + b'"'


def folders_of_objects(store: Path) -> list[str]:
    """Return the names of the folders below a folder of objects in which git keeps objects."""
    return [name for name in sorted(os.listdir(store)) if _OBJECT_FOLDER.fullmatch(name)]


def linked_trees(common: Path) -> list[Path]:
    """Return the git folders of a repository's linked working trees; raise UnreadableError if one is a link."""
    folder = common / "worktrees"
    trees = sorted(folder.glob("*"))
    for path in (folder, *trees):
        if path.is_symlink():
            raise UnreadableError(f"{path} is a link")
    return trees


def _is_inside(workspace: Path, target: Path) -> bool:
    """Return whether a folder is inside the workspace, with no link on the way."""
    if not target.is_relative_to(workspace):
        return False
    try:
        os.close(open_path(workspace, *target.relative_to(workspace).parts))
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV}:
            return False
        raise UnreadableError(f"{target}: {error.strerror}") from None
    except ValueError:  # no name holds a NUL character
        return False
    return True


def read_file(path: Path) -> bytes | None:
    """Return the content of a regular file, None if it does not exist; raise UnreadableError if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableError(f"{path} is not a regular file")
    with open(descriptor, "rb") as stream:
        data = stream.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise UnreadableError(f"{path} is larger than {_LARGEST_FILE} bytes")
    return data


def refs_of(common: Path) -> dict[str, str]:
    """Return the refs of a repository with their object ids, without symbolic refs."""
    found = {}
    for line in (read_file(common / "packed-refs") or b"").splitlines():
        oid, _, name = line.partition(b" ")
        if OID.fullmatch(oid) and name.startswith(b"refs/"):
            found[os.fsdecode(name)] = oid.decode()
    for path in _files_below(common, "refs"):
        data = (read_file(path) or b"").strip()
        if OID.fullmatch(data):
            found[str(path.relative_to(common))] = data.decode()
    return found


def is_ref_name(name: str) -> bool:
    """Return whether git accepts a name of a ref (git-check-ref-format(1))."""
    parts = name.split("/")
    return not _BAD_REF_NAME.search(name) and not any(
        not part or part.startswith(".") or part.endswith((".lock", ".")) for part in parts
    )


def is_branch_name(name: str) -> bool:
    """Return whether `git checkout -B` accepts a name, and a terminal shows it as it is."""
    return name.isprintable() and not name.startswith("-") and name != "HEAD" and is_ref_name(f"refs/heads/{name}")


def has_only_network_remotes(common: Path) -> bool:
    """Return whether a repository has remotes and none is a folder of this host, which may disappear at any time."""
    urls = _URL.findall(read_file(common / "config") or b"")
    return bool(urls) and all(is_remote(os.fsdecode(url)) and not url.lower().startswith(b"file:") for url in urls)


def reflog_ids(common: Path) -> Iterator[str]:
    """Yield the ids in the reflogs of a repository and its working trees, except those of fetched branches."""
    for path in _files_below(common, "logs"):
        if path.relative_to(common).parts[:3] != ("logs", "refs", "remotes"):
            yield from _ids_in(path)
    for tree in linked_trees(common):
        for path in _files_below(tree, "logs"):
            yield from _ids_in(path)


def _ids_in(reflog: Path) -> Iterator[str]:
    for line in (read_file(reflog) or b"").splitlines():
        yield from (oid.decode() for oid in line.split(b" ", 2)[:2] if OID.fullmatch(oid) and oid.strip(b"0"))


def pseudo_ref_ids(common: Path) -> Iterator[str]:
    """Yield the ids in files like MERGE_HEAD, and in the HEADs of linked working trees; FETCH_HEAD is not work."""
    trees = [common, *linked_trees(common)]
    names = [path for tree in trees for path in tree.glob("*_HEAD") if path.name != "FETCH_HEAD"]
    for path in [*names, *(tree / "HEAD" for tree in trees)]:
        for line in (read_file(path) or b"").splitlines():
            if OID.fullmatch(line.strip()):
                yield line.strip().decode()


def repositories_below(working_tree: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the repositories nested directly in a working tree, as paths relative to it, and whether each is bare.

    Raise UnreadableError for a folder that cannot be read, and for a file of patterns or attributes on which git would
    hang, as it does on a named pipe, or which it would read into memory however large it is.
    """
    for folder in walk(working_tree):
        for name in _READ_BY_GIT.intersection(folder.files):
            found = os.lstat(name, dir_fd=folder.descriptor)
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISLNK(found.st_mode):
                raise UnreadableError(f"{working_tree / folder.path / name} is not a regular file")
            if found.st_size > _LARGEST_FILE:
                raise UnreadableError(f"{working_tree / folder.path / name} is larger than {_LARGEST_FILE} bytes")
        if folder.parts and (".git" in folder.below or ".git" in folder.files):
            folder.below.clear()
            yield folder.path, False
        elif folder.parts and "HEAD" in folder.files and {"objects", "refs"} <= set(folder.below):
            yield folder.path, True
        elif ".git" in folder.below:
            folder.below.remove(".git")


def submodule_repositories(common: Path) -> Iterator[Path]:
    """Yield the repositories of submodules, whether the submodules are checked out or not.

    Raise UnreadableError if a link leads to them.
    """
    for folder in _walk_if_present(common, "modules"):
        if "HEAD" in folder.files and "objects" in {*folder.below, *folder.files}:  # perhaps as a link
            folder.below[:] = [name for name in folder.below if name == "modules"]
            yield common / "modules" / folder.path


def _files_below(root: Path, name: str) -> Iterator[Path]:
    """Yield the files below a folder of a folder without following a link; raise UnreadableError if that is impossible.

    Links are among them.
    """
    for folder in _walk_if_present(root, name):
        yield from (root / name / folder.path / file for file in folder.files)


def _walk_if_present(root: Path, name: str) -> Iterator[Folder]:
    return walk(root, name) if os.path.lexists(root / name) else iter(())
