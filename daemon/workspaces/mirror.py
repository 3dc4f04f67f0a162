"""The mirror of an environment's repository: a bare copy from which workspaces are made.

Its lock is taken alone to change it and together to read it. Standard library only: the helper process imports this.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from daemon.workspaces.git import Git, GitError, config_value
from daemon.workspaces.layout import MIRROR, TOP
from daemon.workspaces.removal import remove_scrap

_STALE = 300.0  # seconds after which a lock that git left behind is nobody's
_STALE_OF_OURS = 5.0  # seconds: git dies with its helper, but perhaps not at once
_CHANGING = b"changing\n"  # what the mirror's own lock file holds meanwhile
_PAUSE = 0.5  # seconds between two looks at a younger one
_FETCHED = "agentcron-fetched"  # its mtime says when the remote was last asked, its content for which ref
_REFSPECS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_ASK = (
    '!f() { [ "$1" != get ] || [ -z "$AGENTCRON_GIT_USER" ] || '
    'printf "username=%s\\npassword=%s\\n" "$AGENTCRON_GIT_USER" "$AGENTCRON_GIT_PASSWORD"; }; f'
)
"""A credential helper that says what the environment holds (gitcredentials(7))."""
_HEAD = re.compile(rb"ref: refs/|[0-9a-f]{40}")


class CloneError(Exception):
    """A workspace cannot be made; the text says why."""


@dataclass(frozen=True)
class Source:
    """What an environment's workspaces are made from."""

    environment: str
    repository: str
    """A URL, or an absolute path."""
    ref: str | None
    """A branch, a tag or a commit; None for the remote's HEAD."""
    fetch_every: float
    """Seconds within which the remote is asked once."""
    require_fetch: bool


class Mirror:
    """A mirror under its lock."""

    def __init__(self, state_dir: Path, source: Source, timeout: float, say: Callable[[str], None]) -> None:
        self._state_dir = state_dir
        self.path = state_dir / TOP / source.environment / MIRROR
        self.source = source
        self._say = say
        self._lock = self.path.with_name(f"{MIRROR}.lock")
        self._url, who = _parted(source.repository)
        self._git = Git(timeout, self.path.parent, alone=False, **{"GIT_DIR": str(self.path), **who})

    @contextlib.contextmanager
    def fresh(self) -> Iterator[None]:
        """Have the mirror as fresh as the source wants it, and hold it while it is read; raise PreparationError."""
        with self._locked(fcntl.LOCK_SH) as lock:
            if not self._is_fresh():
                fcntl.flock(lock, fcntl.LOCK_EX)
                with self._changing(lock) as was_cut_off:
                    self._freshen(was_cut_off=was_cut_off)
                fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    @contextlib.contextmanager
    def _locked(self, kind: int = fcntl.LOCK_EX) -> Iterator[int]:
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, kind)
            yield lock
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def _changing(self, lock: int) -> Iterator[bool]:
        """Mark the mirror as being changed; give whether the one who did so last was cut off."""
        was_cut_off = os.pread(lock, len(_CHANGING), 0) == _CHANGING
        os.pwrite(lock, _CHANGING, 0)
        try:
            yield was_cut_off
        finally:
            os.ftruncate(lock, 0)

    def forget_if_damaged(self) -> bool:
        """Give up a mirror that is damaged for certain, if the remote is there to make another from; tell if so."""
        with self._locked():
            try:
                self._git.run("fsck", "--connectivity-only", "--no-dangling", "--no-progress")
            except GitError as error:
                if error.code is not None and self._git.succeeds("ls-remote", "origin", "HEAD"):
                    self._say(f"WARNING: the mirror is damaged and made anew: {error}")
                    self._forget()
                    return True
        return False

    def _forget(self) -> None:
        remove_scrap(self._state_dir, (TOP, self.source.environment), MIRROR)

    def commit(self) -> str:
        """Return the commit that the source's ref names; raise PreparationError if there is none."""
        ref = self.source.ref
        if ref is None:
            head = self._named("HEAD")
            if head is None:
                raise CloneError("the repository has no commit on its HEAD yet; set ref, or make one")
            return head
        for name in (f"refs/heads/{ref}", f"refs/tags/{ref}", ref):
            found = self._named(name)
            if found is not None:
                return found
        raise CloneError(f"ref {ref!r} is no branch, tag or commit of the repository")

    def _named(self, name: str) -> str | None:
        try:
            return self._git.text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except GitError:
            return None

    def _freshen(self, *, was_cut_off: bool) -> None:
        if not self._is_there():
            self._create()
        self._mind_locks(are_ours=was_cut_off)
        if self._is_fresh():  # somebody else fetched it meanwhile
            return
        stamp = self.path / _FETCHED
        if not self._is_of_source():
            stamp.unlink(missing_ok=True)  # what it holds is of another repository
            self._write_config()
        try:
            self._fetch()
        except GitError as error:
            if not stamp.exists() or self.source.require_fetch or error.full:
                raise CloneError(f"the repository cannot be fetched: {error}") from None
            self._say(f"WARNING: the repository cannot be fetched, the mirror is used as it is: {error}")
            os.utime(stamp)  # it is asked again no sooner than one that answers
        else:
            stamp.write_text(self._wanted)

    def _is_fresh(self) -> bool:
        stamp = self.path / _FETCHED
        try:
            heard, wanted = stamp.stat().st_mtime, stamp.read_text(errors="replace")
        except FileNotFoundError:
            return False
        is_young = 0 <= time.time() - heard < self.source.fetch_every
        return is_young and wanted == self._wanted and self._is_of_source()

    @property
    def _wanted(self) -> str:
        """What the stamp holds of a fetch for the source's ref."""
        return f"{self.source.ref or ''}\n"

    def _is_there(self) -> bool:
        """Tell whether there is a mirror; a power loss may have left half of one, which git does not take for one."""
        try:
            head = (self.path / "HEAD").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return _HEAD.match(head) is not None and all((self.path / name).is_dir() for name in ("objects", "refs"))

    def _is_of_source(self) -> bool:
        return self._git.text("config", "--get", "--default", "", "remote.origin.url") == self._url

    def _create(self) -> None:
        """Make an empty mirror; one that was cut off in the making is made again."""
        self._forget()
        self._git.run("init", "--quiet", "--bare", "--initial-branch=main", "--template=", str(self.path))

    def _write_config(self) -> None:
        """Name the remote in a file, and nowhere who asks it: git puts the URL into arguments that all can see."""
        url, helper = config_value(self._url), config_value(_ASK)
        refspecs = "".join(f'\tfetch = "{refspec}"\n' for refspec in _REFSPECS)
        core = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
        text = f'{core}[credential]\n\thelper = {helper}\n[remote "origin"]\n\turl = {url}\n{refspecs}'
        temporary = self.path / "config.new"
        temporary.write_text(text)
        temporary.replace(self.path / "config")

    def _fetch(self) -> None:
        self._git.run("fetch", "--quiet", "--prune", "--no-write-fetch-head", "--no-tags", "origin")
        ref = self.source.ref
        if ref is None:
            self._follow_head()
        elif self._named(f"refs/heads/{ref}") is None and self._named(f"refs/tags/{ref}") is None:
            # perhaps a commit that no branch holds any more; `commit` says if it is missing
            self._git.succeeds(
                "fetch", "--quiet", "--no-write-fetch-head", "--no-tags", "origin", "--end-of-options", ref
            )

    def _follow_head(self) -> None:
        """Have the mirror's HEAD name the branch that the remote's does."""
        said = self._git.text("ls-remote", "--symref", "origin", "HEAD")
        for line in said.splitlines():
            if line.startswith("ref: refs/heads/"):
                self._git.run("symbolic-ref", "HEAD", line.removeprefix("ref: ").partition("\t")[0])
                return
        detached = said.partition("\t")[0]
        if detached:
            self._git.run("fetch", "--quiet", "--no-write-fetch-head", "--no-tags", "origin", "HEAD")
            self._git.run("update-ref", "--no-deref", "HEAD", detached)

    def _mind_locks(self, *, are_ours: bool) -> None:
        """Wait for locks of git processes that may still live; remove those that nobody can be holding any more.

        Those are old ones; after a change of ours that was cut off all, since git ended with it.
        """
        for pattern in ("*.lock", "refs/**/*.lock", "objects/**/*.lock"):
            for lock in self.path.glob(pattern):
                self._outlast(lock, _STALE_OF_OURS if are_ours else _STALE)

    def _outlast(self, lock: Path, stale: float) -> None:
        is_told = False
        while (age := _age_of(lock)) is not None:
            if age >= stale or age < 0:  # of a clock that was ahead
                lock.unlink(missing_ok=True)
                self._say(f"WARNING: removed a lock that git left in the mirror {age:.0f} s ago: {lock}")
                return
            if not is_told:
                self._say(f"waiting for a lock that git left in the mirror, {stale - age:.0f} s at most: {lock}")
                is_told = True
            time.sleep(_PAUSE)


def ask_remote(repository: str, timeout: float) -> None:
    """Ask a remote for its HEAD as a fetch would; raise GitError if it does not answer within some seconds."""
    url, who = _parted(repository)
    Git(timeout, Path("/"), alone=False, **who).run("ls-remote", "--quiet", "--", url, "HEAD")


def _parted(repository: str) -> tuple[str, dict[str, str]]:
    """Return a URL without user and password, and these as variables for the credential helper."""
    if not repository.startswith(("http://", "https://")):
        return repository, {}
    parts = urlsplit(repository)
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    who = {"AGENTCRON_GIT_USER": unquote(name), "AGENTCRON_GIT_PASSWORD": unquote(password)} if user else {}
    return urlunsplit(parts._replace(netloc=host)), who


def _age_of(lock: Path) -> float | None:
    """Return how many seconds ago a file was written, None if it is gone."""
    try:
        return time.time() - lock.lstat().st_mtime
    except FileNotFoundError:
        return None
