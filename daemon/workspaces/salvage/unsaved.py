"""Find all repositories of a workspace, and count the work that exists only there, without saving it.

Standard library only: the helper process imports this.
"""

import secrets
from collections.abc import Callable
from pathlib import Path

from daemon.workspaces.git import GitError
from daemon.workspaces.jobs import UnsavedCounts
from daemon.workspaces.layout import ENVIRONMENTS, MIRROR, SCRATCH
from daemon.workspaces.lock import locked_temporary_folder
from daemon.workspaces.removal import remove_temporary
from daemon.workspaces.salvage.repository import GitFolders, git_folders, named_git_folder
from daemon.workspaces.salvage.snapshot import Snapshot, UnsavedWork
from daemon.workspaces.salvage.walk import UnreadableError

_DEEPEST = 10  # levels of nested repositories
_MOST_NAMED = 20

VisitTree = Callable[[Path, str | None, int], tuple[UnsavedWork, Path | None]]
"""Takes a working tree, the commit that is safe elsewhere and its depth; returns what is in it, and its git folder."""


def visit_repositories(
    workspace: Path, base: str | None, visit_tree: VisitTree, visit_module: Callable[[Path], None]
) -> None:
    """Visit the workspace's own repository, all repositories nested in it, and those without a working tree."""
    trees: list[tuple[Path, str | None, int]] = [(workspace, base, 0)]
    seen: set[Path | None] = set()
    modules: list[Path] = []
    while trees:
        tree, commit, depth = trees.pop()
        found, git_folder = visit_tree(tree, commit, depth)
        trees += [(tree / inner, oid, depth + 1) for inner, oid in found.repositories]
        modules += found.modules
        seen.add(git_folder)
    for module in dict.fromkeys(modules):
        if module not in seen:  # of a submodule that is not checked out
            visit_module(module)


def source_of(tree: Path, workspace: Path, depth: int) -> GitFolders | None:
    """Return the repository of a working tree; raise UnreadableError, also if it is nested too deeply."""
    if depth > _DEEPEST:
        raise UnreadableError(f"repositories are nested more than {_DEEPEST} levels deep")
    return git_folders(tree, workspace)


def count_unsaved(
    state_dir: Path, environment: str, run_id: str, workspace: Path, *, base: str | None, git_timeout: float
) -> UnsavedCounts:
    """Count the work that exists only in a workspace; what cannot be counted is named in the result, with the reason.

    `base` is the commit that the workspace started from. This takes almost no room on the disk.
    """
    name = f"{run_id}.{secrets.token_hex(4)}"
    try:
        with locked_temporary_folder(state_dir, SCRATCH, name) as scratch:
            counting = _Counting(workspace, state_dir / ENVIRONMENTS / environment / MIRROR, scratch, git_timeout)
            visit_repositories(workspace, base, counting.tree, counting.module)
            return UnsavedCounts(
                counting.commits, counting.files, counting.ignored, counting.lfs_objects, tuple(counting.uncounted)
            )
    except (OSError, GitError, UnreadableError) as error:  # to count must not be what keeps a workspace
        return UnsavedCounts(uncounted=(f".: {getattr(error, 'strerror', None) or error}",))
    finally:
        remove_temporary(state_dir, (ENVIRONMENTS, SCRATCH), name)


class _Counting:
    """The sum over the repositories of one workspace."""

    def __init__(self, workspace: Path, mirror: Path, scratch: Path, git_timeout: float) -> None:
        self.commits = self.files = self.ignored = self.lfs_objects = 0
        self.uncounted: list[str] = []
        self._workspace = workspace
        self._mirror = mirror
        self._scratch = scratch
        self._git_timeout = git_timeout
        self._no_files = scratch / "no-files"
        self._no_files.mkdir(mode=0o700)
        self._number = 0

    def tree(self, tree: Path, base: str | None, depth: int) -> tuple[UnsavedWork, Path | None]:
        """Count the work in a working tree and its repository."""
        try:
            source = source_of(tree, self._workspace, depth)
            return self._add(tree, source, base, has_files=True), source.common if source is not None else None
        except (GitError, UnreadableError) as error:
            self._note(tree, error)
            return UnsavedWork(), named_git_folder(tree, self._workspace)

    def module(self, module: Path) -> None:
        """Count the work in a repository without a working tree."""
        try:
            self._add(self._no_files, GitFolders(module, module), None, has_files=False)
        except (GitError, UnreadableError) as error:
            self._note(module, error)

    def _add(self, tree: Path, source: GitFolders | None, base: str | None, *, has_files: bool) -> UnsavedWork:
        self._number += 1
        scratch = self._scratch / f"repository-{self._number}"
        snapshot = Snapshot(scratch, tree, source, self._workspace, self._mirror, base, self._git_timeout)
        found = snapshot.count(is_own=tree == self._workspace, has_files=has_files)
        self.commits += found.commits
        self.files += found.files
        self.ignored += len(found.ignored)
        self.lfs_objects += len(found.lfs)
        return found

    def _note(self, place: Path, error: Exception) -> None:
        if len(self.uncounted) < _MOST_NAMED:
            text = f"{place.relative_to(self._workspace)}: {error}"
            self.uncounted.append(text.encode(errors="backslashreplace").decode())
        elif len(self.uncounted) == _MOST_NAMED:
            self.uncounted.append("and more folders")
