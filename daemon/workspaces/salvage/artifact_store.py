"""Stores saved work for good among the artifacts of its run, with a text for people that says how to restore it.

Standard library only: the helper process imports this.
"""

import json
import os
import secrets
import shlex
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from daemon.workspaces.git import Git, GitError
from daemon.workspaces.jobs import SavedWork
from daemon.workspaces.layout import ARTIFACTS, ENVIRONMENTS, RUNS, SCRATCH
from daemon.workspaces.mirror_files import is_plain
from daemon.workspaces.openat import free_name, open_below, open_path
from daemon.workspaces.removal import remove_temporary
from daemon.workspaces.salvage.bundle import BUNDLE, SHALLOW
from daemon.workspaces.salvage.lfs import content_id
from daemon.workspaces.salvage.stored import (
    ARCHIVE,
    FOLDER,
    README,
    SUMMARY,
    open_artifacts,
    saved_bytes,
    saved_folders,
)
from daemon.workspaces.salvage.walk import UnreadableError, measure

_MOST_EARLIER = 3
_LARGER = 2  # times that an earlier bundle of the same work may be as large as ours


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
        artifacts = open_artifacts(self._state_dir, self._run_id, create=True)
        try:
            earlier = self._find_earlier(artifacts, results, set(found.tips))
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

    def _find_earlier(self, artifacts: int, results: Path, wanted: set[str]) -> str | None:
        """Return the folder in which an earlier cleanup, which then failed, saved the same work, if it can be read.

        `wanted` are the tips of the work in `results`. The agent could write to the artifacts: only the newest folders
        are tried, and in each only what is called like our files, is as large, and is reached without a link.
        """
        ours = {path.relative_to(results): path.lstat().st_size for path in _files_in(results)}
        for name in _newest_first(artifacts)[:_MOST_EARLIER]:
            try:
                folder = open_below(artifacts, name)
                try:
                    if set(self._tips_in(folder, ours)) >= wanted:
                        return name
                finally:
                    os.close(folder)
            except (GitError, UnreadableError, OSError):
                continue
        return None

    def _tips_in(self, folder: int, ours: Mapping[Path, int]) -> Iterator[str]:
        """Yield what identifies the work that is saved in an open folder under the names and in the sizes of our files.

        Raise GitError, UnreadableError or OSError if anything of it is missing or damaged.
        """
        for path, size in ours.items():
            if path.name == SHALLOW:
                continue
            parent = open_path(Path(f"/proc/self/fd/{folder}"), *path.parent.parts)
            try:
                found = os.lstat(path.name, dir_fd=parent)
                if path.name == BUNDLE:  # git does not write each in the same way
                    if stat.S_ISREG(found.st_mode) and found.st_size <= _LARGER * size:
                        yield from self._unbundled(Path(f"/proc/{os.getpid()}/fd/{parent}") / BUNDLE)
                elif found.st_size == size:
                    digest = content_id(path.name, parent)
                    yield f"sha256:{digest}" if path.name == ARCHIVE else f"lfs:{digest}"
            finally:
                os.close(parent)

    def _unbundled(self, bundle: Path) -> list[str]:
        """Unpack a bundle into a new repository beside the mirror's objects; return its tips or raise GitError."""
        folder = self._scratch / f"earlier-{secrets.token_hex(4)}"
        Git(self._git_timeout, self._scratch, isolated=True).run(
            "init", "--quiet", "--bare", "--template=", str(folder)
        )
        git = Git(self._git_timeout, self._scratch, isolated=True, GIT_DIR=str(folder))
        objects = self._mirror / "objects"
        borrowed = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": str(objects)} if is_plain(self._mirror) else {}
        try:
            heads = git.text("bundle", "unbundle", str(bundle), **borrowed).splitlines()
        finally:
            remove_temporary(self._state_dir, (ENVIRONMENTS, SCRATCH, self._scratch.name), folder.name)
        return [line.split()[0] for line in heads]


def _newest_first(artifacts: int) -> list[str]:
    """Return the folders with saved work by when they got their names, which an agent cannot choose as it can those."""
    ages = {name: os.lstat(name, dir_fd=artifacts).st_ctime_ns for name in saved_folders(artifacts)}
    return sorted(ages, key=lambda name: -ages[name])


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
