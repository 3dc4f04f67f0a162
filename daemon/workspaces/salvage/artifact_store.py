"""Stores saved work for good among the artifacts of its run, with a text for people that says how to restore it.

Standard library only: the helper process imports this.
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
from daemon.workspaces.layout import ARTIFACTS, ENVIRONMENTS, RUNS, SCRATCH
from daemon.workspaces.openat import free_name, open_path
from daemon.workspaces.removal import remove_temporary
from daemon.workspaces.salvage.bundle import BUNDLE
from daemon.workspaces.salvage.lfs import digest_of
from daemon.workspaces.salvage.stored import ARCHIVE, FOLDER, LFS, README, SUMMARY, saved_bytes, saved_folders
from daemon.workspaces.salvage.walk import measure


class ArtifactStore:
    """The artifacts of one run, as a place for work that was saved in a scratch folder."""

    def __init__(self, state_dir: Path, run_id: str, mirror: Path, scratch: Path, git_timeout: float) -> None:
        self._state_dir = state_dir
        self._run_id = run_id
        self._mirror = mirror
        self._scratch = scratch
        self._git_timeout = git_timeout

    def store(self, results: Path, found: SavedWork) -> SavedWork:
        """Move what was saved in a scratch folder to the artifacts, unless an earlier cleanup stored the same there.

        Sync it to the disk. Return `found` with where that is and the commands that restore it. Raise UnreadableError
        or OSError.
        """
        if not any(_files_in(results)):
            return replace(found, restore=self._with_places(found.restore, None))
        artifacts = open_path(self._state_dir, RUNS, self._run_id, ARTIFACTS, create=True)
        try:
            earlier = self._find_earlier(artifacts, set(found.tips))
            name = earlier or free_name(artifacts, FOLDER, "-")
            folder = f"{ARTIFACTS}/{name}"
            stored = saved_bytes(self._state_dir, self._run_id) + (measure(results).bytes if earlier is None else 0)
            restore = self._with_places(found.restore, folder)
            saved = replace(found, folder=folder, stored=stored, restore=restore)
            if earlier is None:
                _write_summary(results, saved)
                for path in _files_and_folders(results):
                    _sync(path)
                os.rename(results, name, dst_dir_fd=artifacts)
                os.fsync(artifacts)
        finally:
            os.close(artifacts)
        return saved

    def _with_places(self, lines: tuple[str, ...], folder: str | None) -> tuple[str, ...]:
        """Return commands, after those that say where things are now."""
        places = {"saved": self._state_dir / RUNS / self._run_id / (folder or ""), "mirror": self._mirror}
        used = [name for name in places if any(f'"${name}"' in line for line in lines)]
        return (*(f"{name}={shlex.quote(str(places[name]))}" for name in used), *lines)

    def _find_earlier(self, artifacts: int, wanted: set[str]) -> str | None:
        """Return the folder in which an earlier cleanup, which then failed, saved the same work, if it can be read.

        `wanted` are the tips of the work.
        """
        for name in saved_folders(artifacts):
            folder = Path(f"/proc/{os.getpid()}/fd/{artifacts}") / name
            try:
                tips = {tip for path in (folder, *folder.glob("within-*")) for tip in self._tips_in(path)}
            except (GitError, OSError):
                continue
            if tips >= wanted:
                return name
        return None

    def _tips_in(self, folder: Path) -> Iterator[str]:
        """Yield what identifies the saved work of one repository; raise GitError or OSError if it is damaged."""
        if (folder / BUNDLE).is_file():
            yield from self._unbundled(folder / BUNDLE)
        if (folder / ARCHIVE).is_file():
            yield f"sha256:{digest_of(folder / ARCHIVE)}"
        for path in folder.glob(f"{LFS}/objects/??/??/*"):
            if digest_of(path) == path.name:
                yield f"lfs:{path.name}"

    def _unbundled(self, bundle: Path) -> list[str]:
        """Unpack a bundle into a new repository beside the mirror's objects; return its tips or raise GitError."""
        folder = self._scratch / f"earlier-{secrets.token_hex(4)}"
        Git(self._git_timeout, self._scratch, isolated=True).run(
            "init", "--quiet", "--bare", "--template=", str(folder)
        )
        git = Git(self._git_timeout, self._scratch, isolated=True, GIT_DIR=str(folder))
        borrowed = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(self._mirror / "objects")} if self._mirror.is_dir() else {}
        try:
            heads = git.text("bundle", "unbundle", str(bundle), **borrowed).splitlines()
        finally:
            remove_temporary(self._state_dir, (ENVIRONMENTS, SCRATCH, self._scratch.name), folder.name)
        return [line.split()[0] for line in heads]


def _write_summary(results: Path, saved: SavedWork) -> None:
    text = "\n".join([*_readme(saved), ""])
    (results / README).write_text(text, errors="backslashreplace")
    (results / SUMMARY).write_text(json.dumps(asdict(saved), indent=2) + "\n")


def _readme(saved: SavedWork) -> Iterator[str]:
    yield f"Saved from a workspace before it was removed: {saved.commits} commits, {saved.files} changed files."
    yield "To restore it, run:"
    yield from (f"  {step}" for step in saved.restore)
    if saved.as_it_was:
        yield "Saved as it was, with everything in it, because git cannot read it:"
        yield from (f"  {text}" for text in saved.as_it_was)
    if saved.ignored:
        yield f"Not saved, because git ignores them: {saved.ignored} entries, among them"
        yield from (f"  {name!r}" for name in saved.ignored_names)


def _files_in(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder of our own."""
    return (path for path in _files_and_folders(folder) if not path.is_dir())


def _files_and_folders(folder: Path) -> Iterator[Path]:
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
