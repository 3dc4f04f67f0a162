"""The mirror of an environment's repository: a bare copy from which workspaces are cloned.

Its lock is shared by readers and exclusive for a fetch. Standard library only: the helper process imports this.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from daemon.workspaces.git import Git, GitError, config_value, is_lack
from daemon.workspaces.jobs import Source
from daemon.workspaces.kept_commits import keeps_commits, take_over
from daemon.workspaces.layout import DAMAGED_MIRROR, ENVIRONMENTS, MIRROR, MIRROR_LOCK, QUARANTINE
from daemon.workspaces.mirror_files import check_entries, odd_entry
from daemon.workspaces.mirror_maintenance import repack
from daemon.workspaces.openat import free_name, open_path
from daemon.workspaces.remote import split_credentials, upload_pack
from daemon.workspaces.removal import remove_temporary
from daemon.workspaces.salvage.walk import UnreadableError

_STALE_LOCK = 300.0  # seconds after which a lock file of git is certainly not in use
_STALE_LOCK_OF_OURS = 5.0  # seconds: git dies with its helper, but perhaps not at once
_CHANGING = b"changing\n"  # what the mirror's own lock file holds during a change
_LOCK_POLL = 0.5  # seconds
_LONGEST_SILENCE = 300.0  # seconds for which a git command that asks no remote may neither write nor work
_STAMP = "agentcron-fetched"  # its mtime is the time of the last fetch, its content the ref that it was for
_MOST_NAMED = 20
_NOT_TAKEN_OVER = "cannot read all commits that the damaged mirror kept for runs"
_COMMON = "commondir"  # it would make git read another config
_FETCH = ("fetch", "--progress", "--update-shallow", "--no-write-fetch-head", "--no-tags")
_REFSPECS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_CREDENTIAL_HELPER = (
    '!f() { [ "$1" != get ] || [ -z "$AGENTCRON_GIT_USER" ] || '
    'printf "username=%s\\npassword=%s\\n" "$AGENTCRON_GIT_USER" "$AGENTCRON_GIT_PASSWORD"; }; f'
)
"""A credential helper that prints what the environment holds (gitcredentials(7))."""
_HEAD = re.compile(rb"ref: refs/|[0-9a-f]{40}")


class CloneError(Exception):
    """A workspace cannot be cloned; the text says why."""


class Mirror:
    """The mirror of one source, with its lock."""

    def __init__(self, state_dir: Path, source: Source, git_timeout: float, log: Callable[[str], None]) -> None:
        self._state_dir = state_dir
        self.path = state_dir / ENVIRONMENTS / source.environment / MIRROR
        self.source = source
        self._log = log
        self._lock = self.path.with_name(MIRROR_LOCK)
        self._aside = self.path.with_name(DAMAGED_MIRROR)
        self._url, credentials = split_credentials(source.repository)
        git = Git(git_timeout, self.path.parent, isolated=False, **{"GIT_DIR": str(self.path), **credentials})
        self._git = git.ended_when_silent(_LONGEST_SILENCE)
        self._upload_pack = upload_pack(source.repository)
        self._remote = git.ended_when_silent(source.fetch_timeout)

    def fetch(self) -> float:
        """Fetch unless the mirror is recent enough; return the seconds since it was fetched, or raise CloneError."""
        with self.in_use(fetches=True):
            return max(0.0, time.time() - (self.path / _STAMP).stat().st_mtime)

    @contextlib.contextmanager
    def in_use(self, *, fetches: bool) -> Iterator[None]:
        """Lock the mirror for reading; raise CloneError.

        `fetches` says whether it is fetched first unless it is recent enough; if not, only if it holds another source
        or none, however old it is.
        """
        with self._locked(fcntl.LOCK_SH) as lock:
            if not (self._is_recent() if fetches else self._fetched_at() is not None):
                fcntl.flock(lock, fcntl.LOCK_EX)
                with self._changing(lock) as was_cut_off:
                    self._update(was_cut_off=was_cut_off)
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
        """Mark the mirror as being changed; yield whether the process that last changed it was killed meanwhile."""
        was_cut_off = os.pread(lock, len(_CHANGING), 0) == _CHANGING
        os.pwrite(lock, _CHANGING, 0)
        try:
            yield was_cut_off
        finally:
            os.ftruncate(lock, 0)

    def take_away_if_damaged(self) -> bool:
        """Take a mirror away that is certainly damaged, if the remote can be reached to fetch it again; return if so.

        One that keeps commits for runs is set aside, so that the next fetch can take them over.
        """
        with self._locked():
            try:
                self._git.run("fsck", "--connectivity-only", "--no-dangling", "--no-progress")
            except GitError as error:
                if not error.is_passing and self._remote.succeeds("ls-remote", *self._upload_pack, "origin", "HEAD"):
                    self._log(f"WARNING: the mirror is damaged and will be fetched again: {error}")
                    self._take_away()
                    return True
        return False

    def maintain(self) -> bool:
        """Repack the mirror; return whether it was: one whose config is not ours is left to the next fetch.

        Raise GitError.
        """
        with self._locked() as lock:
            if not self._has_our_config():
                return False
            with self._changing(lock) as was_cut_off:
                self._wait_for_locks(are_ours=was_cut_off)
                repack(self._git, self.path)
            return True

    def _take_away(self) -> None:
        """Delete a mirror, or set it aside if it keeps commits for runs, so that the next one can take them over.

        Of a link only the link is deleted, not what it leads to.
        """
        if self.path.is_symlink():
            self.path.unlink()
        try:
            keeps = keeps_commits(self.path)
        except OSError:  # perhaps it does
            keeps = True
        if keeps and os.path.lexists(self._aside):
            self._quarantine("another mirror is damaged before all commits of this one were taken over")
        if keeps:
            self.path.rename(self._aside)
        else:
            self._remove(MIRROR)

    def _remove(self, name: str) -> None:
        remove_temporary(self._state_dir, (ENVIRONMENTS, self.source.environment), name)

    def _take_over(self) -> None:
        """Take over what a mirror that was set aside keeps for runs; delete it if that was all, or quarantine it.

        It stays for the next fetch if that cannot be told at the moment.
        """
        try:
            check_entries(self._aside)
            lost = take_over(self.path, self._aside)
            problem = f"these are incomplete: {', '.join(lost[:_MOST_NAMED])}" if lost else None
        except (GitError, UnreadableError, OSError) as error:
            problem = str(error)
            if isinstance(error, GitError) or is_lack(problem):
                self._log(f"WARNING: {_NOT_TAKEN_OVER}; the next fetch retries it: {problem}")
                return
        if problem is None:
            self._remove(self._aside.name)
        else:
            self._quarantine(f"{_NOT_TAKEN_OVER}: {problem}")

    def _quarantine(self, why: str) -> None:
        """Move a mirror that was set aside to where nobody deletes it, and log why."""
        names = (ENVIRONMENTS, self.source.environment, QUARANTINE)
        folder = open_path(self._state_dir, *names, create=True)
        try:
            name = free_name(folder, self._aside.name, ".")
            os.rename(self._aside, name, dst_dir_fd=folder)
        finally:
            os.close(folder)
        self._log(f"WARNING: {why}; it is now {self._state_dir.joinpath(*names, name)}")

    def commit(self) -> str:
        """Return the commit that the source's ref names; raise CloneError if there is none."""
        ref = self.source.ref
        if ref is None:
            head = self._resolve("HEAD")
            if head is None:
                raise CloneError("the repository has no commit on its HEAD yet: push one, or set ref")
            return head
        for name in (f"refs/heads/{ref}", f"refs/tags/{ref}", ref):
            found = self._resolve(name)
            if found is not None:
                return found
        raise CloneError(f"ref {ref!r} is not a branch, tag or commit of the repository")

    def has_commit(self) -> bool:
        """Tell whether the mirror, as it was last fetched, has the commit that the source's ref names."""
        try:
            return self._has_our_config() and bool(self.commit())
        except (CloneError, OSError):
            return False

    def _resolve(self, name: str) -> str | None:
        try:
            return self._git.text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except GitError:
            return None

    def _update(self, *, was_cut_off: bool) -> None:
        if not self._exists():
            self._create()
        if os.path.lexists(self._aside):
            self._take_over()
        self._wait_for_locks(are_ours=was_cut_off)
        if self._is_recent():  # somebody else fetched it meanwhile
            return
        stamp = self.path / _STAMP
        if not self._has_our_config():
            if self._git.text("config", "--get", "--default", "", "remote.origin.url") != self._url:
                stamp.unlink(missing_ok=True)  # the mirror holds another repository
            self._write_config()
        try:
            self._fetch()
        except GitError as error:
            cannot_be_used = not stamp.exists() or not self.has_commit()
            if cannot_be_used or self.source.require_fetch or error.is_disk_full:
                raise CloneError(f"cannot fetch the repository: {error}") from None
            self._log(f"WARNING: cannot fetch the repository; using the mirror as it is: {error}")
        stamp.write_text(self._stamp_text)  # retry no sooner than after a successful fetch

    def _is_recent(self) -> bool:
        fetched_at = self._fetched_at()
        return fetched_at is not None and 0 <= time.time() - fetched_at < self.source.fetch_every

    def _fetched_at(self) -> float | None:
        """Return when the source was fetched, or that was last tried; None if the mirror is not of this source."""
        if not self._has_our_config():
            return None
        stamp = self.path / _STAMP
        try:
            fetched_at, text = stamp.stat().st_mtime, stamp.read_text(errors="replace")
        except FileNotFoundError:
            return None
        return fetched_at if text == self._stamp_text else None

    @property
    def _stamp_text(self) -> str:
        """The content of the stamp after a fetch for the source's ref."""
        return f"{self.source.ref or ''}\n"

    def _exists(self) -> bool:
        """Return whether there is a mirror that git accepts; a power loss may leave half of one."""
        odd = odd_entry(self.path)
        if odd is not None:
            self._log(f"WARNING: the mirror is made anew: {odd} is neither a regular file nor a folder")
            return False
        try:
            head = (self.path / "HEAD").read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return _HEAD.match(head) is not None and all((self.path / name).is_dir() for name in ("objects", "refs"))

    def _has_our_config(self) -> bool:
        """Return whether the mirror is that of the source, and nobody else has changed what git obeys there."""
        if odd_entry(self.path) is not None:
            return False
        try:
            text = (self.path / "config").read_text(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return False
        return text == self._config and not os.path.lexists(self.path / _COMMON)

    def _create(self) -> None:
        """Make an empty mirror in place of a missing or incomplete one."""
        self._take_away()
        self._git.run("init", "--quiet", "--bare", "--initial-branch=main", "--template=", str(self.path))

    @property
    def _config(self) -> str:
        """The mirror's config, with the remote's URL without credentials: every user can read git's arguments."""
        url, helper = config_value(self._url), config_value(_CREDENTIAL_HELPER)
        refspecs = "".join(f'\tfetch = "{refspec}"\n' for refspec in _REFSPECS)
        core = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
        return f'{core}[credential]\n\thelper = {helper}\n[remote "origin"]\n\turl = {url}\n{refspecs}'

    def _write_config(self) -> None:
        (self.path / _COMMON).unlink(missing_ok=True)
        temporary = self.path / "config.new"
        temporary.unlink(missing_ok=True)
        temporary.write_text(self._config)
        temporary.replace(self.path / "config")

    def _fetch(self) -> None:
        self._fetch_from_origin("--prune")
        ref = self.source.ref
        if ref is None:
            self._follow_head()
        elif self._resolve(f"refs/heads/{ref}") is None and self._resolve(f"refs/tags/{ref}") is None:
            # perhaps a commit that is no longer on any branch; `commit` reports it if it is missing
            with contextlib.suppress(GitError):
                self._fetch_from_origin(refs=("--end-of-options", ref))

    def _fetch_from_origin(self, *options: str, refs: Sequence[str] = ()) -> None:
        """Fetch from the remote, which may be shallow, or may have been when it was last fetched."""
        shallow = self.path / "shallow"
        if shallow.exists() and shallow.stat().st_size:
            options = (*options, "--unshallow")
        self._remote.run(*_FETCH, *self._upload_pack, *options, "origin", *refs)

    def _follow_head(self) -> None:
        """Point the mirror's HEAD to the branch that the remote's HEAD names."""
        output = self._remote.text("ls-remote", "--symref", *self._upload_pack, "origin", "HEAD")
        for line in output.splitlines():
            if line.startswith("ref: refs/heads/"):
                self._git.run("symbolic-ref", "HEAD", line.removeprefix("ref: ").partition("\t")[0])
                return
        detached = output.partition("\t")[0]
        if detached:
            self._fetch_from_origin(refs=("HEAD",))
            self._git.run("update-ref", "--no-deref", "HEAD", detached)

    def _wait_for_locks(self, *, are_ours: bool) -> None:
        """Wait for lock files of git processes that may still be running, and remove stale ones.

        `are_ours` says that an earlier change was cut off: its git died with it, so its lock files are soon stale.
        """
        for pattern in ("*.lock", "refs/**/*.lock", "objects/**/*.lock"):
            for lock in self.path.glob(pattern):
                self._wait_for_lock(lock, _STALE_LOCK_OF_OURS if are_ours else _STALE_LOCK)

    def _wait_for_lock(self, lock: Path, stale: float) -> None:
        is_logged = False
        while (age := _age_of(lock)) is not None:
            if age >= stale or age < 0:  # written while the clock was ahead
                lock.unlink(missing_ok=True)
                self._log(f"WARNING: removed a lock file that git left in the mirror {age:.0f} s ago: {lock}")
                return
            if not is_logged:
                self._log(f"waiting at most {stale - age:.0f} s for a lock file that git left in the mirror: {lock}")
                is_logged = True
            time.sleep(_LOCK_POLL)


def _age_of(lock: Path) -> float | None:
    """Return how many seconds ago a file was written, None if it is gone."""
    try:
        return time.time() - lock.lstat().st_mtime
    except FileNotFoundError:
        return None
