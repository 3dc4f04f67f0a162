"""Save the work that exists only in a workspace among the run's artifacts, before the workspace is removed.

Repositories are saved as git bundles, each of which is brought back once before it counts; `snapshot.py` explains how
the work is found without running anything from the workspace. What git cannot store is saved in a tar archive, and so
is the whole folder of a repository that git cannot read. Every byte is stored once, nothing that is read or written
grows in memory with the size of a file, and no more than twice the work is needed on the disk meanwhile. What git
ignores is not saved, only counted and named. Standard library only: the helper process imports this.
"""

import os
import secrets
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from daemon.units import format_size
from daemon.workspaces.git import GitError
from daemon.workspaces.jobs import SavedWork
from daemon.workspaces.kept_commits import keep, refs_for
from daemon.workspaces.layout import ENVIRONMENTS, MIRROR, SCRATCH
from daemon.workspaces.lock import locked_temporary_folder
from daemon.workspaces.removal import remove_temporary
from daemon.workspaces.salvage.artifact_store import ArtifactStore
from daemon.workspaces.salvage.bundle import SHALLOW, Contents, check, steps
from daemon.workspaces.salvage.lfs import store_objects
from daemon.workspaces.salvage.repository import GitFolders, named_git_folder
from daemon.workspaces.salvage.snapshot import Snapshot, UnsavedWork
from daemon.workspaces.salvage.stored import ARCHIVE, LFS
from daemon.workspaces.salvage.unsaved import source_of, visit_repositories
from daemon.workspaces.salvage.walk import UnreadableError, measure, open_up

_MOST_NAMED = 20


class SalvageError(Exception):
    """The work in a workspace cannot be saved, so the workspace must not be removed; the text says why."""


class TooMuchWorkError(SalvageError):
    """There is more work in a workspace than `salvage_max`; without that limit it can be saved."""


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
    """Save the work that exists only in a workspace; raise SalvageError.

    Raise TooMuchWorkError if it has more than `salvage_max` bytes.

    `base` is the commit that the workspace started from. The workspace is not changed, except that its owner gets
    access to folders and files that could not be read.
    """
    name = f"{run_id}.{secrets.token_hex(4)}"
    try:
        with locked_temporary_folder(state_dir, SCRATCH, name) as scratch:
            mirror = state_dir / ENVIRONMENTS / environment / MIRROR
            salvage = _Salvage(state_dir, run_id, workspace, mirror, scratch, salvage_max, git_timeout)
            salvage.save_all(base)
            return salvage.store()
    except OSError as error:
        reason = error.strerror or str(error)
        raise SalvageError(f"{reason}: {error.filename!r}" if error.filename else reason) from None
    except (GitError, UnreadableError) as error:
        raise SalvageError(str(error)) from None
    finally:
        remove_temporary(state_dir, (ENVIRONMENTS, SCRATCH), name)


class _Salvage:
    """The salvage of one workspace, with its scratch folder."""

    def __init__(
        self,
        state_dir: Path,
        run_id: str,
        workspace: Path,
        mirror: Path,
        scratch: Path,
        salvage_max: int | None,
        git_timeout: float,
    ) -> None:
        self.state_dir = state_dir
        self.run_id = run_id
        self.workspace = workspace
        self.mirror = mirror
        self.scratch = scratch
        self.target = f"run-{run_id}"
        self.salvage_max = salvage_max
        self.git_timeout = git_timeout
        self.saved = SavedWork()
        self.kept: list[str] = []  # commits that the mirror must keep
        self.results = scratch / "results"
        self.results.mkdir(mode=0o700)
        self.no_files = scratch / "no-files"
        self.no_files.mkdir(mode=0o700)
        self.number = 0
        self.is_opened_up = False

    def save_all(self, base: str | None) -> None:
        """Save the workspace's own repository and all repositories nested in it."""
        visit_repositories(self.workspace, base, self._save_tree, self._save_module)

    def _save_tree(self, tree: Path, base: str | None, depth: int) -> tuple[UnsavedWork, Path | None]:
        """Save a working tree with its repository, as it is if git cannot; return what is in it, and its git folder."""
        before = self.saved
        try:
            source = source_of(tree, self.workspace, depth)
            return self._save_one(tree, source, base), source.common if source is not None else None
        except (GitError, UnreadableError) as error:
            _check_permanent(error)
            self._undo(before)
            if "Permission denied" in str(error) and not self.is_opened_up:
                self.is_opened_up = True
                open_up(self.workspace)
                return self._save_tree(tree, base, depth)
            git_folder = named_git_folder(tree, self.workspace)
            self._save_as_it_is([tree, *([git_folder] if git_folder is not None else [])], error)
            return UnsavedWork(), git_folder

    def _save_module(self, module: Path) -> None:
        before = self.saved
        try:
            self._save_one(self.no_files, GitFolders(module, module), None)
        except (GitError, UnreadableError) as error:
            _check_permanent(error)
            self._undo(before)
            self._save_as_it_is([module], error)

    def _undo(self, before: SavedWork) -> None:
        """Forget what has been written for a repository that cannot be saved with git."""
        self.saved = before
        self._remove(f"repository-{self.number}")
        self._remove(f"check-{self.number}")
        if self.number:
            results = (ENVIRONMENTS, SCRATCH, self.scratch.name, self.results.name)
            remove_temporary(self.state_dir, results, self._folder().name)
        else:
            self._remove(self.results.name)
            self.results.mkdir(mode=0o700)

    def _folder(self) -> Path:
        """Return the folder for what is saved of the current repository; the first is that of the workspace."""
        return self.results / f"within-{self.number}" if self.number else self.results

    def _save_one(self, tree: Path, source: GitFolders | None, base: str | None) -> UnsavedWork:
        """Save one repository of the workspace; return what was found in it."""
        scratch = self.scratch / f"repository-{self.number}"
        has_files = tree != self.no_files
        name = (tree if has_files or source is None else source.own).relative_to(self.workspace)
        snapshot = Snapshot(scratch, tree, source, self.workspace, self.mirror, base, self.git_timeout)
        found = snapshot.take(is_own=name == Path(), has_files=has_files, check_size=self._check_size)
        self._count(found, name)
        lines: list[str] = []
        folder, place, target = self._folder(), *self._places()
        if found.tips:
            folder.mkdir(mode=0o700, exist_ok=True)
            contents = snapshot.write(folder, found.tips, has_lfs=bool(found.lfs), check_room=self._check_room)
            lines += self._prove(contents, place, target, snapshot.timeout)
        if found.aside:
            folder.mkdir(mode=0o700, exist_ok=True)
            lines += self._write_archive(tree, place, target, files=found.aside)
        if found.lfs:
            store_objects(found.lfs, self.workspace, folder / LFS)
            lines.append(f"mkdir -p {target}/.git/lfs && cp -R {place}/{LFS}/. {target}/.git/lfs/")
        if found.pushed:
            lines += self._bring_back_pushed(found, target, is_new=not lines)
        self._remove(scratch.name)
        self._add_steps(name, lines)
        self.number += 1
        return found

    def _check_size(self, size: int, room: int) -> None:
        """Add to the size of the work; raise SalvageError if it or `room` bytes are too much."""
        total = self.saved.bytes + size
        self.saved = replace(self.saved, bytes=total)
        if self.salvage_max is not None and total > self.salvage_max:
            found, most = format_size(total), format_size(self.salvage_max)
            raise TooMuchWorkError(
                f"its unsaved work ({found}) is more than salvage_max ({most}); only "
                f"`agentcron workspaces discard {self.run_id}` saves it"
            )
        self._check_room(room)

    def _check_room(self, room: int) -> None:
        """Raise SalvageError if so many bytes are not free."""
        disk = os.statvfs(self.scratch)
        if room > (free := disk.f_bavail * disk.f_frsize):
            needed, left = format_size(room), format_size(free)
            raise SalvageError(f"it would take {needed}, which do not fit on the disk ({left} free)")

    def _count(self, found: UnsavedWork, name: Path) -> None:
        saved = self.saved
        ignored_names = [str(name / entry) for entry in found.ignored[:_MOST_NAMED]]
        self.saved = replace(
            saved,
            commits=saved.commits + found.commits,
            files=saved.files + found.files,
            ignored=saved.ignored + len(found.ignored),
            ignored_names=(*saved.ignored_names, *ignored_names)[:_MOST_NAMED],
            tips=(*saved.tips, *found.tips.values(), *(f"lfs:{one.oid}" for one in found.lfs)),
            pushed=(*saved.pushed, *found.pushed),
        )
        self.kept += found.pushed

    def _places(self) -> tuple[str, str]:
        """Return where the shell finds what is saved of the current repository, and where it brings that back."""
        if not self.number:
            return '"$saved"', self.target
        return f'"$saved"/within-{self.number}', f"{self.target}-within-{self.number}"

    def _prove(self, contents: Contents, place: str, target: str, timeout: float) -> Iterator[str]:
        """Bring a bundle back once; return the commands that do so, or raise GitError if it cannot be brought back."""
        self._remove(f"repository-{self.number}")  # what it holds is in the bundle; this needs the room
        folder, name = self._folder(), f"check-{self.number}"
        keep(self.mirror, self.run_id, contents.borrowed)
        is_odd = check(contents, folder, self.mirror, self.scratch / name, timeout)
        self._remove(name)
        is_shallow = (folder / SHALLOW).exists()
        return steps(contents, place, target, self._lender(), is_shallow=is_shallow, is_odd=is_odd)

    def _lender(self) -> str:
        return f"\"$mirror\" '+{refs_for(self.run_id)}:refs/remotes/mirror/*'"

    def _bring_back_pushed(self, found: UnsavedWork, target: str, *, is_new: bool) -> Iterator[str]:
        yield f"# Upstream had these {len(found.pushed)} as well; they are kept in the mirror, not in the saved work:"
        if is_new:
            yield f"git init --quiet {target}"
        yield f"git -C {target} fetch --quiet {self._lender()}"

    def _save_as_it_is(self, trees: list[Path], error: Exception) -> None:
        """Save folders of the workspace with everything in them, git folders too."""
        names = [tree.relative_to(self.workspace) for tree in trees]
        for name in names:
            size = measure(self.workspace, *name.parts)
            self._check_size(size.bytes, size.bytes)
            self.saved = replace(self.saved, files=self.saved.files + size.files)
        self._folder().mkdir(mode=0o700, exist_ok=True)
        lines = self._write_archive(self.workspace, self._places()[0], self.target, trees=names)
        text = _one_line(f"{names[0]}: {error}")
        self.saved = replace(self.saved, as_it_was=(*self.saved.as_it_was, text))
        warning = "# as it was, its git folder too: git there runs the hooks and settings that the agent left"
        self._add_steps(names[0], [warning, *lines])
        self.number += 1

    def _write_archive(
        self, root: Path, place: str, target: str, *, trees: Iterable[Path] = (), files: Iterable[bytes] = ()
    ) -> list[str]:
        """Write an archive of some folders and files below a root; return the commands that bring them back."""
        from daemon.workspaces.salvage.archive import Archive  # noqa: PLC0415 - most workspaces need none

        archive = Archive(self._folder() / ARCHIVE, root)
        for tree in trees:
            archive.add_tree(*tree.parts)
        for file in files:
            archive.add_file(Path(os.fsdecode(file)))
        self.saved = replace(self.saved, tips=(*self.saved.tips, f"sha256:{archive.close()}"))
        lines = [f"mkdir -p {target} && tar --no-same-owner -C {target} -xf {place}/{ARCHIVE}"]
        lines += [f"mv {target}/{name} {target}/{_quoted(to)}" for name, to in reversed(archive.moved)]
        return lines

    def _add_steps(self, name: Path, lines: list[str]) -> None:
        heading = [] if name == Path() or not lines else [f"# of {str(name)!r}:"]
        self.saved = replace(self.saved, restore=(*self.saved.restore, *heading, *lines))

    def store(self) -> SavedWork:
        """Store the saved work among the run's artifacts, and return what was saved."""
        keep(self.mirror, self.run_id, self.kept)
        store = ArtifactStore(self.state_dir, self.run_id, self.mirror, self.scratch, self.git_timeout)
        return store.store(self.results, self.saved)

    def _remove(self, name: str) -> None:
        """Remove a folder in the scratch folder."""
        remove_temporary(self.state_dir, (ENVIRONMENTS, SCRATCH, self.scratch.name), name)


def _check_permanent(error: GitError | UnreadableError) -> None:
    """Raise the error unless it is certain to come again: what the host lacks, a limit and a missing git may pass."""
    if isinstance(error, GitError) and error.is_passing:
        raise error


def _one_line(text: str) -> str:
    return text.encode(errors="backslashreplace").decode().replace("\n", "\\n")


def _quoted(path: str) -> str:
    """Return a path quoted for any shell, whatever bytes are in it."""
    data = os.fsencode(path)
    if path.isprintable():
        return shlex.quote(path)
    octal = "".join(chr(byte) if chr(byte).isalnum() or byte in b"/._-" else f"\\{byte:03o}" for byte in data)
    return f"\"$(printf '{octal}')\""
