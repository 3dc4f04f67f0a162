"""The mirrors of the submodules of an environment's repository, at any depth, so that no clone waits for their remotes.

They hold nothing but what their remotes have. Standard library only: the helper process imports this.
"""

import contextlib
import hashlib
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from fcntl import LOCK_EX
from pathlib import Path
from urllib.parse import quote

from daemon.workspaces.git import GitError
from daemon.workspaces.gitmodules import Submodule, TooManySubmodulesError, named_submodules, names_submodules
from daemon.workspaces.jobs import Source
from daemon.workspaces.layout import MIRROR, MIRROR_LOCK, submodules_folder
from daemon.workspaces.local_repositories import check_url
from daemon.workspaces.mirror import CloneError, Mirror
from daemon.workspaces.mirror_files import text_of
from daemon.workspaces.mirror_locks import locked
from daemon.workspaces.mirror_maintenance import is_mirror_due
from daemon.workspaces.openat import names_in, open_path
from daemon.workspaces.remote import access_to_submodule, origin
from daemon.workspaces.removal import remove_temporary
from daemon.workspaces.scratch import scratch_repository

_MOST = 64  # submodules of one commit, at all depths
_DEEPEST = 5
_KEPT_UNUSED = 14 * 86400.0  # seconds
_URL = "url"  # beside a mirror: what it is a mirror of, for people and for `maintain`
_COMMITS = "refs/agentcron/commits"  # keeps commits that are on no branch of the remote from being pruned


class SubmoduleMirror(Mirror):
    """The mirror of the repository of one or more submodules."""

    def __init__(
        self, state_dir: Path, parent: Source, url: str, since: float, git_timeout: float, log: Callable[[str], None]
    ) -> None:
        """Take the mirror of what a URL leads to, for submodules below the repository of an environment.

        It is recent if it was fetched after `since`, when the mirror of that repository was (POSIX time).
        """
        access = access_to_submodule(url, parent.repository)
        folders = (*submodules_folder(parent.environment), _name_of(access.url))
        source = replace(parent, repository=url, ref=None)
        super().__init__(state_dir, source, git_timeout, log, folders=folders, access=access)
        self._state_dir = state_dir
        self._folders = folders
        self._since = since
        self._paths: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The name of the folder that holds the mirror."""
        return self._folders[-1]

    def add(self, wanted: Submodule) -> None:
        """Have the mirror provide the commit of a submodule."""
        self._paths.setdefault(wanted.commit, wanted.path)
        self.what = f"the submodule {wanted.path!r}"

    def make_folder(self) -> None:
        """Make the folder for the mirror; raise OSError."""
        os.close(open_path(self._state_dir, *self._folders, create=True))
        place = self.path.with_name(_URL)
        if text_of(place) != self.access.url:
            place.unlink(missing_ok=True)  # it is for us to write, whatever somebody put there
            place.write_text(self.access.url)

    def _is_recent(self) -> bool:
        fetched_at = self.fetched_at()
        return fetched_at is not None and fetched_at >= self._since

    def _has_wanted(self) -> bool:
        return not self._missing()

    def _can_be_used(self) -> bool:
        return not self._missing()

    def _missing(self) -> list[str]:
        """Return the wanted commits that the mirror does not have; raise GitError."""
        stdin = "".join(f"{commit}\n" for commit in self._paths).encode()
        lines = self._git.run("cat-file", "--batch-check", stdin=stdin).decode().splitlines() if stdin else []
        return [line.split()[0] for line in lines if line.endswith(" missing")]

    def _fetch(self) -> None:
        """Fetch; commits that are on no branch are fetched one by one. Raise GitError, or CloneError for those."""
        super()._fetch()
        for commit in self._missing():
            try:
                self._fetch_from_origin(refs=(f"+{commit}:{_COMMITS}/{commit}",))
            except GitError as error:
                place = f"the submodule {self._paths[commit]!r}"
                raise CloneError(f"{place}: its remote does not give its commit {commit}: {error}") from None

    def _take_away(self) -> None:
        """Delete the mirror: it keeps nothing for runs, whatever refs somebody has put there."""
        if self.path.is_symlink():
            self.path.unlink()
        remove_temporary(self._state_dir, self._folders, MIRROR)


class Submodules:
    """The mirrors of the submodules below the repository of an environment."""

    def __init__(self, state_dir: Path, main: Mirror, git_timeout: float, log: Callable[[str], None]) -> None:
        """Take the mirror of the repository."""
        self._state_dir = state_dir
        self._main = main
        self._git_timeout = git_timeout
        self._log = log
        self._since: float | None = None
        self._mirrors: dict[str, SubmoduleMirror] = {}

    def fetch(self, commit: str, on_wait: Callable[[str], None]) -> None:
        """Fetch the mirrors that were not fetched since that of the repository was, which is in use meanwhile.

        `on_wait` is called with `submodules` before the first is fetched. Mirrors that were not needed for long are
        removed. Raise CloneError, GitError or OSError.
        """
        self._since = self._main.fetched_at()
        try:
            self._find(self._main.path, commit, on_wait)
        except TooManySubmodulesError as error:
            self._log(f"WARNING: each run fetches all submodules while it holds a slot: {error}")
        self._remove_unused()

    @contextlib.contextmanager
    def in_use(self, repository: Path, commit: str, since: float | None) -> Iterator[dict[str, str] | None]:
        """Lock the mirrors for a commit of a clone for reading; yield their URLs by the submodules' own.

        Yield None if there are too many submodules to have mirrors. Those that were not fetched since an instant are
        fetched first; for None, only those that lack something. Raise CloneError, GitError or OSError.
        """
        self._since = since
        try:
            self._find(repository, commit)
        except TooManySubmodulesError:
            yield None
            return
        with contextlib.ExitStack() as stack:
            for mirror in self._mirrors.values():
                stack.enter_context(mirror.in_use(fetches=False))
            yield {url: f"file://{quote(str(mirror.path))}" for url, mirror in self._mirrors.items()}

    def take_away_damaged(self) -> None:
        """Take away the mirrors that are certainly damaged, if their remotes can be reached to fetch them again."""
        for mirror in self._mirrors.values():
            mirror.take_away_if_damaged()

    def _find(self, repository: Path, commit: str, on_wait: Callable[[str], None] = lambda _: None) -> None:
        """Find, level by level, the mirrors that the submodules of a commit need, and fetch them."""
        self._mirrors.clear()
        found = self._read(repository, commit, self._main.source.repository)
        if found:
            on_wait("submodules")
        seen: set[tuple[str, str]] = set()
        for depth in itertools.count(1):
            new = {(one.url, one.commit): one for one in found if (one.url, one.commit) not in seen}
            if not new:
                return
            seen |= new.keys()
            _check_bounds(len(seen), depth)
            level = [(self._mirror_for(one), one.commit) for one in new.values()]
            found = [below for mirror, commit in level for below in self._below(mirror, commit)]

    def _mirror_for(self, wanted: Submodule) -> SubmoduleMirror:
        """Return the mirror that is to provide a submodule; raise CloneError or OSError."""
        mirror = self._mirrors.get(wanted.url)
        if mirror is None:
            if not wanted.url.isprintable():
                raise CloneError(f"the submodule {wanted.path!r} has a URL with characters that cannot be printed")
            check_url(f"the submodule {wanted.path!r}", wanted.url, self._main.source.repository, self._state_dir)
            since = self._since or 0.0
            mirror = SubmoduleMirror(
                self._state_dir, self._main.source, wanted.url, since, self._git_timeout, self._log
            )
            mirror.make_folder()
            self._mirrors[wanted.url] = mirror
        mirror.add(wanted)
        return mirror

    def _below(self, mirror: SubmoduleMirror, commit: str) -> list[Submodule]:
        """Return the submodules that a commit of a mirror names, after a fetch if needed."""
        try:
            return self._fetched(mirror, commit)
        except (CloneError, GitError):
            if not mirror.take_away_if_damaged():
                raise
            return self._fetched(mirror, commit)

    def _fetched(self, mirror: SubmoduleMirror, commit: str) -> list[Submodule]:
        """Return the same, without mending the mirror.

        After one remote has not answered, no other is asked for what its mirror has: each could take as long.
        """
        is_stale = any(one.is_stale for one in (self._main, *self._mirrors.values()))
        with mirror.in_use(fetches=self._since is not None and not is_stale):
            return self._read(mirror.path, commit, mirror.source.repository)

    def _read(self, repository: Path, commit: str, url: str) -> list[Submodule]:
        """Return the submodules that a commit of a repository names."""
        if not names_submodules(repository, commit, self._git_timeout):
            return []
        with scratch_repository(self._state_dir, repository, commit, origin(url)) as scratch:
            return named_submodules(scratch, commit, self._git_timeout)

    def _remove_unused(self) -> None:
        """Remove the mirrors that no commit has needed for long."""
        folders = submodules_folder(self._main.source.environment)
        used = {mirror.name for mirror in self._mirrors.values()}
        for name in names_in(self._state_dir, *folders):
            lock = self._state_dir.joinpath(*folders, name, MIRROR_LOCK)
            if name not in used and _is_old(lock):
                with locked(lock, LOCK_EX):
                    remove_temporary(self._state_dir, folders, name)
                self._log(f"removed the mirror of a submodule, not needed for 14 days: {lock.parent}")


def _existing(
    state_dir: Path, source: Source, git_timeout: float, log: Callable[[str], None]
) -> Iterator[SubmoduleMirror]:
    """Yield the mirrors of submodules that an environment has, used or not."""
    folders = submodules_folder(source.environment)
    for name in names_in(state_dir, *folders):
        url = text_of(state_dir.joinpath(*folders, name, _URL))
        if url is not None and _name_of(url) == name:
            yield SubmoduleMirror(state_dir, source, url, 0.0, git_timeout, log)


def maintain(state_dir: Path, source: Source, git_timeout: float, log: Callable[[str], None]) -> bool:
    """Repack those mirrors of an environment for which that is due; return whether any was.

    Those whose config is not ours are left to the next fetch. One that cannot be repacked does not affect the others;
    raise GitError then.
    """
    mirrors = [Mirror(state_dir, source, git_timeout, log), *_existing(state_dir, source, git_timeout, log)]
    problems, repacked = [], False
    for mirror in mirrors:
        try:
            repacked |= is_mirror_due(mirror.path) and mirror.maintain()
        except GitError as error:
            problems.append(str(error))
    if problems:
        raise GitError("; ".join(problems))
    return repacked


def _name_of(url: str) -> str:
    """Return the name of the folder for the mirror of a URL without credentials."""
    return hashlib.sha256(os.fsencode(url)).hexdigest()[:32]


def _check_bounds(count: int, depth: int) -> None:
    if count > _MOST:
        raise TooManySubmodulesError(f"there are more than {_MOST}")
    if depth > _DEEPEST:
        raise TooManySubmodulesError(f"they are nested more than {_DEEPEST} levels deep")


def _is_old(lock: Path) -> bool:
    """Return whether a mirror was not changed for long: each change writes to its lock, which is a regular file."""
    try:
        found = lock.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime > _KEPT_UNUSED
