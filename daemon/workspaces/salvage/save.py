"""Save the work that exists only in a workspace, as git bundles and patches among the run's artifacts.

`snapshot.py` explains how the work is found without running anything from the workspace. What git ignores is not saved,
only counted and named. Standard library only: the helper process imports this.
"""

import json
import os
import secrets
import shlex
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from daemon.workspaces.git import Git, GitError
from daemon.workspaces.jobs import SavedWork
from daemon.workspaces.layout import ENVIRONMENTS, MIRROR, RUNS, SCRATCH
from daemon.workspaces.lock import locked_temporary_folder
from daemon.workspaces.openat import free_name, open_path
from daemon.workspaces.removal import remove_temporary
from daemon.workspaces.salvage.repository import GitFolders, UnreadableError, git_folders
from daemon.workspaces.salvage.snapshot import Snapshot, UnsavedWork

FOLDER = "saved-work"
_SUMMARY = "saved.json"
_DEEPEST = 10  # levels of nested repositories
_MOST_NAMED = 20


class SalvageError(Exception):
    """The work in a workspace cannot be saved, so the workspace must not be removed; the text says why."""


def save(
    state_dir: Path,
    environment: str,
    run_id: str,
    workspace: Path,
    *,
    base: str | None,
    salvage_max: int | None,
    git_timeout: float,
) -> SavedWork:
    """Save the work that exists only in a workspace; raise SalvageError, also if it has more than `salvage_max` bytes.

    `base` is the commit that the workspace started from. The workspace is not changed.
    """
    name = f"{run_id}.{secrets.token_hex(4)}"
    try:
        with locked_temporary_folder(state_dir, SCRATCH, name) as scratch:
            salvage = _Salvage(scratch, f"run-{run_id}", salvage_max, git_timeout)
            mirror = state_dir / ENVIRONMENTS / environment / MIRROR
            salvage.save_all(workspace, mirror, base)
            return salvage.store(state_dir, run_id, mirror)
    except OSError as error:
        raise SalvageError(f"{error.strerror}: {error.filename!r}" if error.filename else str(error)) from None
    except (GitError, UnreadableError) as error:
        raise SalvageError(str(error)) from None
    finally:
        remove_temporary(state_dir, (ENVIRONMENTS, SCRATCH), name)


class _Salvage:
    """The salvage of one workspace, with its scratch folder."""

    def __init__(self, scratch: Path, target: str, salvage_max: int | None, git_timeout: float) -> None:
        self.scratch = scratch
        self.target = target
        self.salvage_max = salvage_max
        self.git_timeout = git_timeout
        self.saved = SavedWork()
        self.results = scratch / "results"
        self.results.mkdir(mode=0o700)
        self.no_files = scratch / "no-files"
        self.no_files.mkdir(mode=0o700)
        self.number = 0

    def save_all(self, workspace: Path, mirror: Path, base: str | None) -> None:
        """Save the workspace's own repository and all repositories nested in it."""
        trees: list[tuple[Path, str | None, int]] = [(workspace, base, 0)]
        seen, modules = set(), []
        while trees:
            tree, commit, depth = trees.pop()
            if depth > _DEEPEST:
                raise SalvageError(f"repositories are nested more than {_DEEPEST} levels deep: {tree}")
            source = git_folders(tree, workspace)
            found = self._save_one(tree, source, workspace, mirror, commit)
            trees += [(tree / inner, oid, depth + 1) for inner, oid in found.repositories]
            modules += found.modules
            if source is not None:
                seen.add(source.common)
        for module in modules:
            if module not in seen:  # of a submodule that is not checked out
                self._save_one(self.no_files, GitFolders(module, module), workspace, mirror, None)

    def _save_one(
        self, tree: Path, source: GitFolders | None, workspace: Path, mirror: Path, base: str | None
    ) -> UnsavedWork:
        """Save one repository of a workspace; return what was found in it."""
        scratch = self.scratch / f"repository-{self.number}"
        has_files = tree != self.no_files
        name = (tree if has_files or source is None else source.own).relative_to(workspace)
        snapshot = Snapshot(scratch, tree, source, workspace, mirror, base, self.git_timeout)
        found = snapshot.take(is_own=name == Path(), has_files=has_files, check_size=self._check_size)
        folder = self.results if name == Path() else self.results / f"within-{self.number}"
        self.number += 1
        self._write(snapshot, found, folder, name)
        return found

    def _check_size(self, size: int) -> None:
        """Add to the size of the work; raise SalvageError if it exceeds the limit or the free space."""
        total = self.saved.bytes + size
        self.saved = replace(self.saved, bytes=total)
        if self.salvage_max is not None and total > self.salvage_max:
            raise SalvageError(f"{total} bytes of unsaved work are more than salvage_max ({self.salvage_max} bytes)")
        disk = os.statvfs(self.scratch)
        if size > (free := disk.f_bavail * disk.f_frsize):
            raise SalvageError(f"{size} bytes of unsaved work do not fit on the disk ({free} bytes free)")

    def _write(self, snapshot: Snapshot, found: UnsavedWork, folder: Path, name: Path) -> None:
        saved = self.saved
        ignored_names = [str(name / entry) for entry in found.ignored[:_MOST_NAMED]]
        self.saved = saved = replace(
            saved,
            commits=saved.commits + found.commits,
            files=saved.files + found.files,
            ignored=saved.ignored + len(found.ignored),
            ignored_names=(*saved.ignored_names, *ignored_names)[:_MOST_NAMED],
            tips=(*saved.tips, *found.tips.values()),
        )
        if not found.tips:
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        below = "" if folder == self.results else f"/{folder.name}"
        target = self.target + below.replace("/", "-")
        steps = [step.replace("\0", f"\0{below}") for step in snapshot.write(folder, found.tips, target)]
        heading = [] if name == Path() else [f"# of {str(name)!r}:"]
        self.saved = replace(saved, restore=(*saved.restore, *heading, *steps))

    def store(self, state_dir: Path, run_id: str, mirror: Path) -> SavedWork:
        """Move the saved work to the run's artifacts and sync it to the disk, unless it is already there."""
        if not self.saved.restore:
            return self.saved
        artifacts = open_path(state_dir, RUNS, run_id, "artifacts", create=True)
        try:
            earlier = self._find_earlier(artifacts, mirror)
            name = earlier or free_name(artifacts, FOLDER, "-")
            folder = f"artifacts/{name}"
            path = shlex.quote(str(state_dir / RUNS / run_id / folder))
            restore = tuple(step.replace("\0", path) for step in self.saved.restore)
            saved = replace(self.saved, folder=folder, restore=restore)
            if earlier is None:
                self._write_summary(saved)
                for file in _files(self.results):
                    _sync(file)
                os.rename(self.results, name, dst_dir_fd=artifacts)
                os.fsync(artifacts)
        finally:
            os.close(artifacts)
        return saved

    def _write_summary(self, saved: SavedWork) -> None:
        text = "\n".join([*_readme(saved), ""])
        (self.results / "README.txt").write_text(text, errors="backslashreplace")
        (self.results / _SUMMARY).write_text(json.dumps(asdict(saved), indent=2) + "\n")

    def _find_earlier(self, artifacts: int, mirror: Path) -> str | None:
        """Return the folder in which an earlier cleanup, which then failed, saved the same work, if git can read it."""
        for name in sorted(os.listdir(artifacts)):
            if not name.startswith(FOLDER):
                continue
            folder = Path(f"/proc/{os.getpid()}/fd/{artifacts}") / name
            bundles = (folder / "work.bundle", *folder.glob("within-*/work.bundle"))
            try:
                tips = {oid for path in bundles if path.is_file() for oid in self._unbundled(path, mirror)}
            except GitError:
                continue
            if tips >= set(self.saved.tips):
                return name
        return None

    def _unbundled(self, bundle: Path, mirror: Path) -> list[str]:
        """Unpack a bundle into a new repository beside the mirror's objects; return its tips or raise GitError."""
        folder = self.scratch / f"check-{secrets.token_hex(4)}"
        Git(self.git_timeout, self.scratch, isolated=True).run("init", "--quiet", "--bare", "--template=", str(folder))
        git = Git(self.git_timeout, self.scratch, isolated=True, GIT_DIR=str(folder))
        borrowed = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(mirror / "objects")} if mirror.is_dir() else {}
        return [line.split()[0] for line in git.text("bundle", "unbundle", str(bundle), **borrowed).splitlines()]


def _readme(saved: SavedWork) -> Iterator[str]:
    yield f"Saved from a workspace before it was removed: {saved.commits} commits, {saved.files} changed files."
    yield "To restore it, run:"
    yield from (f"  {step}" for step in saved.restore)
    if saved.ignored:
        yield f"Not saved, because git ignores them: {saved.ignored} entries, among them"
        yield from (f"  {name!r}" for name in saved.ignored_names)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files and folders below a folder of our own, and the folder itself."""
    for path, _, names in os.walk(folder):
        yield from (Path(path) / name for name in names)
        yield Path(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
