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

from daemon.workspaces.damaged_mirror import DamagedMirror
from daemon.workspaces.git import Git, GitError
from daemon.workspaces.jobs import Source
from daemon.workspaces.layout import ENVIRONMENTS, MIRROR, MIRROR_LOCK
from daemon.workspaces.mirror_files import odd_entry, text_of
from daemon.workspaces.mirror_locks import changing, locked, wait_for_locks
from daemon.workspaces.mirror_maintenance import repack
from daemon.workspaces.remote import Access, access_to

_LONGEST_SILENCE = 300.0  # seconds for which a git command that asks no remote may neither write nor work
_STAMP = "agentcron-fetched"  # its mtime is the time of the last fetch, its content the ref that it was for
_COMMON = "commondir"  # it would make git read another config
_FETCH = ("fetch", "--progress", "--update-shallow", "--no-write-fetch-head", "--no-tags")
_REFSPECS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_HEAD = re.compile(rb"ref: refs/|[0-9a-f]{40}")


class CloneError(Exception):
    """A workspace cannot be cloned; the text says why."""


class Mirror:
    """The mirror of one source, with its lock."""

    def __init__(
        self,
        state_dir: Path,
        source: Source,
        git_timeout: float,
        log: Callable[[str], None],
        *,
        folders: tuple[str, ...] | None = None,
        access: Access | None = None,
    ) -> None:
        """Take the mirror in a folder, given as names below the state directory: by default, that of the environment.

        `access` is how git reaches the repository: by default, as one that the config names.
        """
        folders = folders or (ENVIRONMENTS, source.environment)
        self.path = state_dir.joinpath(*folders, MIRROR)
        self.source = source
        self.what = "the repository"
        self.is_stale = False
        """Whether the last fetch failed, and the mirror is used as it is."""
        self._log = log
        self._lock = self.path.with_name(MIRROR_LOCK)
        self._damaged = DamagedMirror(state_dir, folders, log)
        self.access = access or access_to(source.repository)
        variables = {"GIT_DIR": str(self.path), **self.access.environment}
        git = Git(git_timeout, self.path.parent, isolated=False, **variables)
        self._git = git.ended_when_silent(_LONGEST_SILENCE)
        self._remote = git.ended_when_silent(source.fetch_timeout)

    @contextlib.contextmanager
    def in_use(self, *, fetches: bool) -> Iterator[None]:
        """Lock the mirror for reading; raise CloneError.

        `fetches` says whether it is fetched first unless it is recent enough; if not, only if it holds another source
        or none, however old it is.
        """
        with locked(self._lock, fcntl.LOCK_SH) as lock:
            if not self._is_ready(fetches=fetches):
                fcntl.flock(lock, fcntl.LOCK_EX)
                with changing(lock) as was_cut_off:
                    self._update(was_cut_off=was_cut_off)
                fcntl.flock(lock, fcntl.LOCK_SH)
            yield

    def _is_ready(self, *, fetches: bool) -> bool:
        """Return whether the mirror can be used without a change. What takes longest comes last."""
        is_held = self._is_recent() if fetches else self.fetched_at() is not None
        return is_held and odd_entry(self.path) is None and self._has_wanted()

    def take_away_if_damaged(self) -> bool:
        """Take a mirror away that is certainly damaged, if the remote can be reached to fetch it again; return if so.

        One that keeps commits for runs is set aside, so that the next fetch can take them over.
        """
        with locked(self._lock, fcntl.LOCK_EX):
            try:
                self._git.run("fsck", "--connectivity-only", "--no-dangling", "--no-progress")
            except GitError as error:
                if not error.is_passing and self._answers():
                    self._log(f"WARNING: the mirror of {self.what} is damaged and will be fetched again: {error}")
                    self._take_away()
                    return True
        return False

    def maintain(self) -> bool:
        """Repack the mirror; return whether it was: one whose config is not ours is left to the next fetch.

        Raise GitError.
        """
        with locked(self._lock, fcntl.LOCK_EX) as lock:
            if not self._is_sound():
                return False
            with changing(lock) as was_cut_off:
                wait_for_locks(self.path, self._log, are_ours=was_cut_off)
                repack(self._git, self.path)
            return True

    def _take_away(self) -> None:
        self._damaged.take_away()

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
            return self._is_sound() and self._can_be_used()
        except OSError:
            return False

    def _can_be_used(self) -> bool:
        """Return whether a sound mirror has the commit that workspaces are made from."""
        try:
            return bool(self.commit())
        except CloneError:
            return False

    def _has_wanted(self) -> bool:
        """Return whether a sound mirror has what no user of it can do without, however recent it is."""
        return True

    def _resolve(self, name: str) -> str | None:
        try:
            return self._git.text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except GitError:
            return None

    def _update(self, *, was_cut_off: bool) -> None:
        if not self._exists():
            self._create()
        self._damaged.take_over()
        wait_for_locks(self.path, self._log, are_ours=was_cut_off)
        if self._is_recent() and self._has_wanted():  # somebody else fetched it meanwhile
            return
        stamp = self.path / _STAMP
        if not self._has_our_config():
            if self._git.text("config", "--get", "--default", "", "remote.origin.url") != self.access.url:
                stamp.unlink(missing_ok=True)  # the mirror holds another repository
            self._write_config()
        try:
            self._fetch()
        except GitError as error:
            cannot_be_used = not stamp.exists() or not self._can_be_used()
            if cannot_be_used or self.source.require_fetch or error.is_disk_full:
                raise CloneError(f"cannot fetch {self.what}: {error}") from None
            self._log(f"WARNING: cannot fetch {self.what}; using the mirror as it is: {error}")
            self.is_stale = True
        stamp.write_text(self._stamp_text)  # retry no sooner than after a successful fetch

    def _is_recent(self) -> bool:
        fetched_at = self.fetched_at()
        return fetched_at is not None and 0 <= time.time() - fetched_at < self.source.fetch_every

    def fetched_at(self) -> float | None:
        """Return when the source was fetched, or that was last tried (POSIX time); None if this holds another one."""
        stamp = self.path / _STAMP
        if not self._has_our_config() or text_of(stamp) != self._stamp_text:
            return None
        try:
            return stamp.stat().st_mtime
        except FileNotFoundError:
            return None

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

    def _is_sound(self) -> bool:
        """Return whether git may read the mirror: it is that of the source, and nobody has put anything else there."""
        return self._has_our_config() and odd_entry(self.path) is None

    def _has_our_config(self) -> bool:
        """Return whether the mirror is that of the source, and nobody else has changed what git obeys there."""
        return text_of(self.path / "config") == self._config and not os.path.lexists(self.path / _COMMON)

    def _create(self) -> None:
        """Make an empty mirror in place of a missing or incomplete one."""
        self._take_away()
        self._git.run("init", "--quiet", "--bare", "--initial-branch=main", "--template=", str(self.path))

    @property
    def _config(self) -> str:
        """The mirror's config, with the remote's URL without credentials: every user can read git's arguments."""
        refspecs = "".join(f'\tfetch = "{refspec}"\n' for refspec in _REFSPECS)
        core = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n"
        return f"{core}{self.access.config}{refspecs}"

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
        self._remote.run(*self.access.settings, *_FETCH, *self.access.upload_pack, *options, "origin", *refs)

    def _follow_head(self) -> None:
        """Point the mirror's HEAD to the branch that the remote's HEAD names."""
        output = self._ask_for_head()
        for line in output.splitlines():
            if line.startswith("ref: refs/heads/"):
                self._git.run("symbolic-ref", "HEAD", line.removeprefix("ref: ").partition("\t")[0])
                return
        detached = output.partition("\t")[0]
        if detached:
            self._fetch_from_origin(refs=("HEAD",))
            self._git.run("update-ref", "--no-deref", "HEAD", detached)

    def _answers(self) -> bool:
        """Return whether the remote can be reached."""
        try:
            self._ask_for_head()
        except GitError:
            return False
        return True

    def _ask_for_head(self) -> str:
        """Return what the remote says of its HEAD; raise GitError."""
        ask = ("ls-remote", "--symref", *self.access.upload_pack, "origin", "HEAD")
        return self._remote.text(*self.access.settings, *ask)
