"""Saving the work that exists only in a workspace: a git bundle and a patch, kept with the run's artifacts.

Git is run on a repository of our own that borrows the workspace's objects, so that no configuration, hook or filter of
the workspace is ever read. What git ignores is not saved, but counted and named. Standard library only: the helper
process imports this.
"""

import json
import os
import secrets
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemon.workspaces.git import Git, GitError
from daemon.workspaces.layout import MIRROR, RUNS, SCRATCH, TOP
from daemon.workspaces.lock import working_folder
from daemon.workspaces.openat import free_name, open_path
from daemon.workspaces.removal import remove_scrap
from daemon.workspaces.salvage.repository import GitFolders, UnreadableError, git_folders
from daemon.workspaces.salvage.snapshot import Found, Snapshot

FOLDER = "saved-work"
_FACTS = "saved.json"
_DEEPEST = 10  # repositories within repositories
_MOST_NAMED = 20


class SalvageError(Exception):
    """The work in a workspace cannot be saved, so the workspace must stay; the text says why."""


@dataclass
class Saved:
    """What was saved of a workspace."""

    folder: str | None = None
    """Where it lies, below the run's folder; None if there was nothing to save."""
    commits: int = 0
    files: int = 0
    ignored: int = 0
    """Entries that git ignores: not saved."""
    ignored_names: list[str] = field(default_factory=list)
    bytes: int = 0
    tips: list[str] = field(default_factory=list)
    """The ids that the bundles lead to."""
    restore: list[str] = field(default_factory=list)
    """Commands that bring it back."""


def save(
    state_dir: Path,
    environment: str,
    run_id: str,
    workspace: Path,
    *,
    base: str | None,
    most: int | None,
    timeout: float,
) -> Saved:
    """Save what exists only in a workspace; raise SalvageError if that cannot be done, or is more than `most` bytes.

    `base` is the commit that it began at. Nothing of the workspace is changed.
    """
    name = f"{run_id}.{secrets.token_hex(4)}"
    try:
        with working_folder(state_dir, SCRATCH, name) as scratch:
            work = _Salvage(scratch, f"run-{run_id}", most, timeout)
            mirror = state_dir / TOP / environment / MIRROR
            work.save_all(workspace, mirror, base)
            return work.deliver(state_dir, run_id, mirror)
    except OSError as error:
        raise SalvageError(f"{error.strerror}: {error.filename!r}" if error.filename else str(error)) from None
    except (GitError, UnreadableError) as error:
        raise SalvageError(str(error)) from None
    finally:
        remove_scrap(state_dir, (TOP, SCRATCH), name)


class _Salvage:
    """One salvage at work in its scratch folder."""

    def __init__(self, scratch: Path, target: str, most: int | None, timeout: float) -> None:
        self.scratch = scratch
        self.target = target
        self.most = most
        self.timeout = timeout
        self.saved = Saved()
        self.results = scratch / "results"
        self.results.mkdir(mode=0o700)
        self.nowhere = scratch / "nowhere"
        self.nowhere.mkdir(mode=0o700)
        self.number = 0

    def save_all(self, workspace: Path, mirror: Path, base: str | None) -> None:
        """Save the workspace's own repository and those within it, however deep."""
        trees: list[tuple[Path, str | None, int]] = [(workspace, base, 0)]
        looked_at, modules = set(), []
        while trees:
            place, commit, depth = trees.pop()
            if depth > _DEEPEST:
                raise SalvageError(f"repositories lie more than {_DEEPEST} deep in each other: {place}")
            source = git_folders(place, workspace)
            found = self._save_one(place, source, mirror, commit, place.relative_to(workspace))
            trees += [(place / inner, oid, depth + 1) for inner, oid in found.repositories]
            modules += found.modules
            if source is not None:
                looked_at.add(source.common)
        for module in modules:
            if module not in looked_at:  # of a submodule that is not checked out
                self._save_one(self.nowhere, GitFolders(module, module), mirror, None, module.relative_to(workspace))

    def _save_one(self, place: Path, source: GitFolders | None, mirror: Path, base: str | None, name: Path) -> Found:
        scratch = self.scratch / f"repository-{self.number}"
        snapshot = Snapshot(scratch, place, source, mirror, base, self.timeout)
        found = snapshot.look(is_own=name == Path(), has_files=place != self.nowhere, check=self._check_size)
        folder = self.results if name == Path() else self.results / f"within-{self.number}"
        self.number += 1
        self._write(snapshot, found, folder, name)
        return found

    def _check_size(self, size: int) -> None:
        self.saved.bytes += size
        if self.most is not None and self.saved.bytes > self.most:
            raise SalvageError(
                f"{self.saved.bytes} bytes of unsaved work are more than salvage_max ({self.most} bytes)"
            )

        disk = os.statvfs(self.scratch)
        if size > (free := disk.f_bavail * disk.f_frsize):
            raise SalvageError(f"{size} bytes of unsaved work, and only {free} bytes of room on the disk")

    def _write(self, snapshot: Snapshot, found: Found, folder: Path, place: Path) -> None:
        saved = self.saved
        saved.commits += found.commits
        saved.files += found.files
        saved.ignored += len(found.ignored)
        saved.ignored_names += [str(place / name) for name in found.ignored[:_MOST_NAMED]]
        if not found.tips:
            return
        saved.tips += found.tips.values()
        folder.mkdir(mode=0o700, exist_ok=True)
        below = "" if folder == self.results else f"/{folder.name}"
        target = self.target + below.replace("/", "-")
        steps = [step.replace("\0", f"\0{below}") for step in snapshot.write(folder, found.tips, target)]
        saved.restore += steps if place == Path() else [f"# of {str(place)!r}:", *steps]

    def deliver(self, state_dir: Path, run_id: str, mirror: Path) -> Saved:
        """Move what was saved to the run's artifacts, on the disk for good."""
        saved = self.saved
        del saved.ignored_names[_MOST_NAMED:]
        if not saved.restore:
            return saved
        artifacts = open_path(state_dir, RUNS, run_id, "artifacts", create=True)
        try:
            name = self._saved_before(artifacts, mirror) or free_name(artifacts, FOLDER, "-")
            saved.folder = f"artifacts/{name}"
            at = shlex.quote(str(state_dir / RUNS / run_id / saved.folder))
            saved.restore = [step.replace("\0", at) for step in saved.restore]
            if name in os.listdir(artifacts):
                return saved
            text = "\n".join([*_explained(saved), ""])
            (self.results / "README.txt").write_text(text, errors="backslashreplace")
            (self.results / _FACTS).write_text(json.dumps(vars(saved), indent=2) + "\n")
            for path in _files(self.results):
                _sync(path)
            os.rename(self.results, name, dst_dir_fd=artifacts)
            os.fsync(artifacts)
        finally:
            os.close(artifacts)
        return saved

    def _saved_before(self, artifacts: int, mirror: Path) -> str | None:
        """Return where an earlier cleanup that failed saved the very same work, if git can unpack it there."""
        for name in sorted(os.listdir(artifacts)):
            if not name.startswith(FOLDER):
                continue
            place = Path(f"/proc/{os.getpid()}/fd/{artifacts}") / name
            bundles = [path for path in (place / "work.bundle", *place.glob("within-*/work.bundle")) if path.is_file()]
            try:
                heads = {oid for path in bundles for oid in self._unpacked(path, mirror)}
            except GitError:
                continue
            if heads >= set(self.saved.tips):
                return name
        return None

    def _unpacked(self, bundle: Path, mirror: Path) -> list[str]:
        """Return the ids of a bundle's refs once it has been unpacked beside the mirror; raise GitError."""
        place = self.scratch / f"check-{secrets.token_hex(4)}"
        Git(self.timeout, self.scratch, alone=True).run("init", "--quiet", "--bare", "--template=", str(place))
        git = Git(self.timeout, self.scratch, alone=True, GIT_DIR=str(place))
        borrowed = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(mirror / "objects")} if mirror.is_dir() else {}
        return [line.split()[0] for line in git.text("bundle", "unbundle", str(bundle), **borrowed).splitlines()]


def _explained(saved: Saved) -> Iterator[str]:
    yield f"Saved from a workspace before it was removed: {saved.commits} commits, {saved.files} changed files."
    yield "How to get it back:"
    yield from (f"  {step}" for step in saved.restore)
    if saved.ignored:
        yield f"Not saved, because git ignores it: {saved.ignored} entries, among them"
        yield from (f"  {name!r}" for name in saved.ignored_names)


def _files(folder: Path) -> Iterator[Path]:
    """Give the files and folders below a folder of ours, and itself."""
    for path, _, names in os.walk(folder):
        yield from (Path(path) / name for name in names)
        yield Path(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
