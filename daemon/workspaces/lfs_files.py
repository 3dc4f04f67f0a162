"""Files in Git LFS: their objects are fetched into a mirror, and copied from there to the clones.

Standard library only: the helper process imports this.
"""

import os
import re
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

from daemon.workspaces.git import Git, GitError, config_value, run_program
from daemon.workspaces.gitmodules import FILE, configured
from daemon.workspaces.local_repositories import check_url
from daemon.workspaces.mirror import CloneError, Mirror
from daemon.workspaces.salvage.lfs import content_id
from daemon.workspaces.scratch import scratch_repository

_FILTER = "filter=lfs"
_CONFIG = ".lfsconfig"
_SERVERS = r"^lfs\.url$|^remote\..*\.lfsurl$"
_STORE = "lfs"  # in a mirror, as in a git folder
_OBJECT = re.compile(r"(?m)^([0-9a-f]{64}) [*-] ")
_KEPT_UNUSED = 14 * 86400.0  # seconds
_AT_ONCE = 500  # arguments of a command
_SHOWS_PROGRESS = {"GIT_LFS_FORCE_PROGRESS": "1"}
"""Without a terminal git-lfs shows none otherwise, and would pass for one that hangs."""


def fetch_objects(
    state_dir: Path, mirror: Mirror, commit: str, git_timeout: float, on_wait: Callable[[str], None]
) -> None:
    """Fetch the objects that a commit of a mirror names, and remove others that were not needed for long.

    The mirror is in use meanwhile. `on_wait` is called with `lfs` before the remote is asked, which is not done if
    everything is there. Raise CloneError, GitError or OSError; that git-lfs is missing is left for the clone to report.
    """
    bare = Git(git_timeout, mirror.path, GIT_DIR=str(mirror.path))
    if not uses_lfs(bare, commit):
        return
    _check_servers(bare, mirror, commit, state_dir)
    if not bare.succeeds("lfs", "version"):
        return
    store = mirror.path / _STORE
    config = f"{mirror.access.config}[lfs]\n\tstorage = {config_value(str(store))}\n"
    with scratch_repository(state_dir, mirror.path, commit, config) as scratch:  # git-lfs writes to the config
        git = Git(git_timeout, scratch, isolated=False, **mirror.access.environment)
        wanted = _objects_of(git, commit)
        if not all(_is_file(store / _place(oid)) for oid in wanted):
            on_wait("lfs")
            try:
                remote = git.ended_when_silent(mirror.source.fetch_timeout)
                remote.run("lfs", "fetch", "origin", commit, stdin=b"", **_SHOWS_PROGRESS)
            except GitError as error:
                raise CloneError(f"cannot fetch the files in Git LFS: {error}") from None
    _remove_unused(store, wanted)


def check_out_files(
    state_dir: Path, git: Git, mirror: Mirror, commit: str, git_timeout: float, on_wait: Callable[[str], None]
) -> None:
    """Check out the files in Git LFS of a clone at a commit, from objects in the mirror, or else from their remote.

    `on_wait` is called with `lfs` before the remote is asked. Raise GitError, CloneError or OSError.
    """
    if not uses_lfs(git, commit):
        return
    _check_servers(git, mirror, commit, state_dir)
    if not git.succeeds("lfs", "version"):
        raise CloneError("the repository keeps files in Git LFS, and git-lfs is not installed")
    git.run("lfs", "install", "--local", "--skip-repo")
    if _copy_objects(git, mirror.path / _STORE, _objects_of(git, commit), git_timeout):
        # with nothing missing, git-lfs connects to a server that is reached by ssh all the same
        git.run("-c", f"lfs.url=file://{quote(str(mirror.path))}", "lfs", "checkout")
    else:
        on_wait("lfs")
        git.ended_when_silent(mirror.source.fetch_timeout).run("lfs", "pull", "origin", stdin=b"", **_SHOWS_PROGRESS)


def uses_lfs(git: Git, commit: str) -> bool:
    """Return whether a commit has files in Git LFS."""
    files = (".gitattributes", "**/.gitattributes")
    return git.succeeds("grep", "--quiet", "--fixed-strings", _FILTER, commit, "--", *files)


def _check_servers(git: Git, mirror: Mirror, commit: str, state_dir: Path) -> None:
    """Raise CloneError if a commit names a folder of this host that is not for it as its server (git-lfs-config(5))."""
    for entry in git.names("ls-tree", "-z", commit, "--", _CONFIG):
        if not entry.startswith(FILE):
            raise CloneError(f"{_CONFIG} is not a regular file")
        for url in configured(git, "--blob", f"{commit}:{_CONFIG}", "--get-regexp", _SERVERS).values():
            check_url(f"the server of Git LFS in {_CONFIG}", url, mirror.source.repository, state_dir)


def _objects_of(git: Git, commit: str) -> set[str]:
    """Return the ids of the objects that a commit names."""
    return set(_OBJECT.findall(git.text("lfs", "ls-files", "--long", commit)))


def _place(oid: str) -> str:
    """Return where an object is in a store."""
    return f"objects/{oid[:2]}/{oid[2:4]}/{oid}"


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _copy_objects(git: Git, store: Path, wanted: Iterable[str], timeout: float) -> bool:
    """Copy objects to a clone, with shared blocks where the file system has them; return whether all were there.

    Never as hard links: an agent that changed one of those would change it for all. One that is not what its name says
    is removed on both sides, so that it is fetched again.
    """
    names = [_place(oid) for oid in sorted(wanted)]
    there = [name for name in names if _is_file(store / name)]
    target = git.folder / ".git" / _STORE
    target.mkdir(exist_ok=True)
    for first in range(0, len(there), _AT_ONCE):
        command = ["cp", "--parents", "--reflink=auto", "-t", str(target), *there[first : first + _AT_ONCE]]
        if run_program(command, store, timeout).returncode != 0:
            return False
    broken = [name for name in there if content_id(os.fspath(target / name)) != Path(name).name]
    for name in broken:
        (target / name).unlink()
        (store / name).unlink(missing_ok=True)
    return len(there) == len(names) and not broken


def _remove_unused(store: Path, wanted: set[str]) -> None:
    """Remove objects, and what git-lfs left in other files, that are neither wanted nor new."""
    for folder, _, names in os.walk(store):
        for name in names:
            path = Path(folder, name)
            if name not in wanted and time.time() - path.lstat().st_ctime > _KEPT_UNUSED:
                path.unlink()
