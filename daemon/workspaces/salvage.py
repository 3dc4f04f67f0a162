"""Saving the work that exists only in a workspace: a git bundle and a patch, kept with the run's artifacts.

Git is run on a repository of our own that borrows the workspace's objects, so that no configuration, hook or filter of
the workspace is ever read. What git ignores is not saved, but counted and named. Standard library only: the helper
process imports this.
"""

import errno
import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemon.workspaces.descent import make_folder, open_below, open_path
from daemon.workspaces.git import GitError
from daemon.workspaces.places import MIRROR, RUNS, SCRATCH, TOP
from daemon.workspaces.plain import UnreadableError
from daemon.workspaces.removal import remove_scrap
from daemon.workspaces.snapshot import Found, Snapshot

FOLDER = "saved-work"
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
    scratch_name = f"{run_id}.{secrets.token_hex(4)}"
    scratch = open_path(state_dir, TOP, SCRATCH, create=True)
    try:
        make_folder(scratch, scratch_name)
        os.close(open_below(scratch, scratch_name))
        work = _Salvage(state_dir / TOP / SCRATCH / scratch_name, most, timeout)
        work.save_all(workspace, state_dir / TOP / environment / MIRROR, base)
        return work.deliver(state_dir, run_id)
    except OSError as error:
        raise SalvageError(f"{error.strerror}: {error.filename}" if error.filename else str(error)) from None
    except (GitError, UnreadableError) as error:
        raise SalvageError(str(error)) from None
    finally:
        os.close(scratch)
        remove_scrap(state_dir, (TOP, SCRATCH), scratch_name)


class _Salvage:
    """One salvage at work in its scratch folder."""

    def __init__(self, scratch: Path, most: int | None, timeout: float) -> None:
        self.scratch = scratch
        self.most = most
        self.timeout = timeout
        self.saved = Saved()
        self.results = scratch / "results"
        self.results.mkdir(mode=0o700)

    def save_all(self, workspace: Path, mirror: Path, base: str | None) -> None:
        """Save the workspace's own repository and those within it, however deep."""
        waiting: list[tuple[Path, Path | None, str | None, int]] = [(workspace, mirror, base, 0)]
        number = 0
        while waiting:
            place, upstream, commit, depth = waiting.pop()
            if depth > _DEEPEST:
                raise SalvageError(f"repositories lie more than {_DEEPEST} deep in each other: {place}")
            scratch = self.scratch / f"repository-{number}"
            snapshot = Snapshot(scratch, place, workspace, upstream, commit, self.timeout)
            found = snapshot.look()
            self._check_size(found)
            folder = self.results if number == 0 else self.results / f"within-{number}"
            self._write(snapshot, found, folder, place.relative_to(workspace))
            waiting += [(place / inner, None, oid, depth + 1) for inner, oid in found.repositories]
            number += 1

    def _check_size(self, found: Found) -> None:
        self.saved.bytes += found.bytes
        if self.most is not None and self.saved.bytes > self.most:
            raise SalvageError(
                f"{self.saved.bytes} bytes of unsaved work are more than salvage_max ({self.most} bytes)"
            )

    def _write(self, snapshot: Snapshot, found: Found, folder: Path, place: Path) -> None:
        self.saved.commits += found.commits
        self.saved.files += found.files
        self.saved.ignored += found.ignored
        self.saved.ignored_names += [str(place / name) for name in found.ignored_names][:_MOST_NAMED]
        if not found.tips:
            return
        folder.mkdir(mode=0o700, exist_ok=True)
        below = "" if folder == self.results else f"/{folder.name}"
        steps = [step.replace("@", f"@{below}") for step in snapshot.write(folder, found.tips)]
        if place != Path():
            steps = [f"# of {place}:", *steps]
        self.saved.restore += steps

    def deliver(self, state_dir: Path, run_id: str) -> Saved:
        """Move what was saved to the run's artifacts, on the disk for good."""
        saved = self.saved
        del saved.ignored_names[_MOST_NAMED:]
        if not saved.restore:
            return saved
        artifacts = open_path(state_dir, RUNS, run_id, "artifacts", create=True)
        try:
            name = _free_name(artifacts)
            saved.folder = f"artifacts/{name}"
            at = shlex.quote(str(state_dir / RUNS / run_id / saved.folder))
            saved.restore = [step.replace("@", at) for step in saved.restore]
            (self.results / "README.txt").write_text("\n".join([*_explained(saved), ""]))
            (self.results / "saved.json").write_text(json.dumps(vars(saved), indent=2) + "\n")
            for path in _files(self.results):
                _sync(path)
            try:
                os.rename(self.results, name, dst_dir_fd=artifacts)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                shutil.copytree(self.results, f"/proc/self/fd/{artifacts}/{name}")
            os.fsync(artifacts)
        finally:
            os.close(artifacts)
        return saved


def _explained(saved: Saved) -> Iterator[str]:
    yield f"Saved from a workspace before it was removed: {saved.commits} commits, {saved.files} changed files."
    yield "How to get it back:"
    yield from (f"  {step}" for step in saved.restore)
    if saved.ignored:
        yield f"Not saved, because git ignores it: {saved.ignored} entries, among them"
        yield from (f"  {name!r}" for name in saved.ignored_names)


def _free_name(folder: int) -> str:
    """Return a name for the saved work that nothing in the artifacts has."""
    taken = set(os.listdir(folder))
    number = 1
    while (name := FOLDER if number == 1 else f"{FOLDER}-{number}") in taken:
        number += 1
    return name


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
