"""Find and write out the work that exists only in one repository of a workspace.

A workspace belongs to an agent: its configuration, hooks and filters may contain anything and must never be run. So a
snapshot never runs git in the workspace's repository. It makes an empty scratch repository with a configuration of our
own and names the object stores of the workspace and of the mirror as its alternates: git reads the agent's objects, and
obeys nothing that the agent wrote. A store is named through a folder of links to its folders of objects, after a check
that nothing in it leads out of the workspace, so that git sees neither its alternates nor its commit graph. What git
keeps outside the object store (refs, reflogs, HEAD, the index) is read as plain data and recreated in the scratch
repository. Which work to save is then a question of reachability: everything that a *tip* reaches and that no *safe*
commit reaches (those of the mirror, and the commit that the run started from). Tips are branches, tags and stashes,
commits that no ref reaches any more, and commits made here of the files and the indexes as they are on the disk, byte
for byte. The tips go into a bundle with all that they reach. If that is much, older history is cut off like that of a
shallow clone, or left to the mirror, which then keeps it as long as the run exists.

Standard library only: the helper process imports this.
"""

import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daemon.workspaces.layout import UPSTREAM
from daemon.workspaces.salvage.bundle import Contents
from daemon.workspaces.salvage.commits import FILES, Commits, copy_of_index
from daemon.workspaces.salvage.history import History, existing, kinds, reached, revisions
from daemon.workspaces.salvage.lfs import LfsObject, lfs_objects
from daemon.workspaces.salvage.repository import GitFolders, is_branch_name, read_file, submodule_repositories
from daemon.workspaces.salvage.scratch import Scratch
from daemon.workspaces.salvage.tips import Tips, read_tips
from daemon.workspaces.salvage.walk import UnreadableError
from daemon.workspaces.salvage.working_tree import WorkingTree

_MOST_REFS = 1000  # in a bundle: its time grows with their square, and bringing it back makes and syncs a file for each
_SPEED = 2 * 1024**2  # bytes per second that git handles at least


@dataclass
class UnsavedWork:
    """The work that exists only in one repository."""

    tips: dict[str, str] = field(default_factory=dict)
    """Refs that reach something new, with their object ids."""
    commits: int = 0
    files: int = 0
    aside: list[bytes] = field(default_factory=list)
    """Changed files that git cannot store, or only with more room than they take."""
    lfs: list[LfsObject] = field(default_factory=list)
    """Objects of Git LFS that the remote is not known to have."""
    pushed: list[str] = field(default_factory=list)
    """Tips that are not saved because the mirror has them, although the workspace did not start with them."""
    ignored: list[str] = field(default_factory=list)
    repositories: list[tuple[Path, str | None]] = field(default_factory=list)
    """Nested working trees, relative to this one, each with the commit that is recorded for it if it is a submodule."""
    modules: list[Path] = field(default_factory=list)
    """Repositories of submodules, whether checked out or not, and bare ones that git ignores."""


class Snapshot:
    """One repository of a workspace, seen through a scratch repository."""

    def __init__(
        self,
        scratch: Path,
        working_tree: Path,
        source: GitFolders | None,
        workspace: Path,
        mirror: Path | None,
        base: str | None,
        git_timeout: float,
    ) -> None:
        """Take a working tree, and `source`, its repository, from which git reads nothing outside the workspace.

        What the mirror holds is safe elsewhere, and so is `base`. In a repository other than the workspace's own, what
        it fetched from other hosts is safe too.
        """
        self._scratch = Scratch(scratch, working_tree, source, workspace, mirror, git_timeout)
        self._mirror = self._scratch.mirror
        self._base = base
        self._source = source
        self._workspace = workspace
        self._working_tree = working_tree
        self.timeout = git_timeout
        """Seconds that one git command may take; more for much work."""
        self._git = self._scratch.git
        self._tree = WorkingTree(self._git, working_tree)
        self._tips = Tips(None)
        self._in_mirror: list[str] = []
        self._safe: list[str] = []
        self._size = self._room = 0  # bytes of the work, and those that saving it takes
        self._changed: list[bytes] = []
        self._index: Path | None = None

    def take(self, *, is_own: bool, has_files: bool, check_size: Callable[[int, int], None]) -> UnsavedWork:
        """Return the work to save; raise UnreadableError, GitError or OSError if it cannot be determined.

        `is_own` says that this is the repository that the workspace was cloned with, `has_files` that it has a working
        tree. `check_size` is called before anything is written, with the bytes of the work and those that saving it
        takes on the disk, where a bundle is twice for a while; what it raises is passed on.
        """
        found = self._examine(is_own=is_own, has_files=has_files)
        size, room, changed = self._size, self._room, self._changed
        check_size(size, room)
        self.timeout += size / _SPEED
        self._git = self._scratch.git_with(self.timeout)
        found.aside = [name for name in changed if self._tree.goes_aside(name)]
        changed = [name for name in changed if name not in set(found.aside)]
        if has_files:
            commits = Commits(self._git, self._scratch.folder, self._tips.head)
            commits.add_files(self._tree, changed)
            commits.add_indexes(self._index, self._source)
            self._tips.refs |= {f"{self._tips.prefix}/{name}": oid for name, oid in commits.made.items()}
            self._add_ignored(found)
        found.tips = self._new_tips()
        if (count := len(found.tips)) > _MOST_REFS:
            raise UnreadableError(f"{count} of its refs have unsaved work; a bundle holds {_MOST_REFS} at most")
        found.pushed = self._pushed(found.tips) if is_own else []
        if not found.tips and self._tips.head is not None and (found.aside or found.lfs):
            found.tips = {f"{self._tips.prefix}/head": self._tips.head}
        return found

    def count(self, *, is_own: bool, has_files: bool) -> UnsavedWork:
        """Return how much work there is, without what refers to it; raise as `take` does. This writes little."""
        found = self._examine(is_own=is_own, has_files=has_files)
        if has_files:
            self._add_ignored(found)
            changed = set(self._changed)  # among them ignored files that were added nevertheless
            found.ignored = [name for name in found.ignored if os.fsencode(name) not in changed]
        return found

    def _examine(self, *, is_own: bool, has_files: bool) -> UnsavedWork:
        """Return the work but for what git ignores; set how much it is."""
        self._scratch.make()
        self._tips = read_tips(self._scratch, self._base)
        self._scratch.deepen(self._tips.refs.values())
        self._safe = self._find_safe(is_own=is_own)
        found = UnsavedWork(commits=self._count("--count"))
        self._size = self._count("--objects", "--disk-usage") if set(self._tips.refs.values()) - set(self._safe) else 0
        known, found.lfs = self._lfs_objects()
        self._room = 2 * self._size + sum(one.size for one in found.lfs if one.is_linked)
        self._size += sum(one.size for one in found.lfs)
        found.modules = list(submodule_repositories(self._source.common)) if self._source is not None else []
        if has_files:
            self._index = copy_of_index(self._scratch.folder, self._source)
            changed, found.repositories = self._tree.changed(self._tips.head, self._existing_base(), self._index, known)
            for name in changed:
                self._size += self._tree.size(name)
                self._room += self._tree.size(name) * (1 if self._tree.goes_aside(name) else 2)
            self._changed, found.files = changed, len(changed)
        return found

    def _add_ignored(self, found: UnsavedWork) -> None:
        """Add what git ignores, and the bare repositories in there."""
        found.ignored = [os.fsdecode(name) for name in self._tree.ignored()]
        bare = (path for path in self._tree.bare if _is_touched(path, found.ignored))
        found.modules += [self._working_tree / path for path in bare]

    def write(
        self, folder: Path, tips: dict[str, str], *, has_lfs: bool, check_room: Callable[[int], None]
    ) -> Contents:
        """Write a bundle of some tips into a folder; return what it holds.

        `check_room` is called with the bytes that this takes on the disk, at most; what it raises is passed on.
        """
        files = f"{self._tips.prefix}/{FILES}"
        branch = self._tips.branch.removeprefix("refs/heads/") if self._tips.branch is not None else None
        if self._tips.head is not None and self._tips.head not in tips.values():
            tips = {**tips, f"{self._tips.prefix}/head": self._tips.head}
        history = History(self._git, self._scratch.folder, self._safe, self._in_mirror, check_room)
        borrowed = history.bundle(folder, tips, self._tips.head)
        between = (self._tips.head, tips[files]) if self._tips.head is not None and files in tips else None
        return Contents(
            {name: oid for name, oid in tips.items() if oid not in borrowed},
            self._tips.head,
            shlex.quote(branch) if branch is not None and is_branch_name(branch) else None,
            files if files in tips else None,
            self._differs(between, "D"),
            self._differs(between, "d"),
            borrowed,
            is_sha256=self._scratch.is_sha256(),
            has_lfs=has_lfs,
        )

    def _differs(self, commits: tuple[str, str] | None, kind: str) -> bool:
        """Return whether a commit has changes of one kind (git-diff-tree(1), --diff-filter), compared with another."""
        options = ("-r", "-z", "--name-only", f"--diff-filter={kind}")
        return commits is not None and bool(self._git.names("diff-tree", *options, *commits))

    def _existing_base(self) -> str | None:
        return next(iter(existing(self._git, [self._base] if self._base else [])), None)

    def _find_safe(self, *, is_own: bool) -> list[str]:
        """Return the commits and tags that are safe elsewhere; set `_in_mirror` to those that the mirror has."""
        known = [] if is_own else list(self._tips.fetched)
        if self._mirror is not None:
            mirror = self._git.text("for-each-ref", "--format=%(objectname)", GIT_DIR=str(self._mirror)).split()
            self._in_mirror = existing(self._git, mirror)
            known += mirror
        return existing(self._git, [*known, *([self._base] if self._base else [])])

    def _lfs_objects(self) -> tuple[set[str], list[LfsObject]]:
        """Return the ids of the objects of Git LFS that are here, and those objects that the remote may not have.

        It certainly has those of the commit that the workspace started from, because they were fetched with it.
        """
        if self._source is None:
            return set(), []
        found = lfs_objects(self._source.common, self._workspace)
        if not found:
            return set(), []
        base = self._existing_base()
        upstream = [base] if base is not None else self._tips.fetched
        known: set[str] = set()
        for commit in upstream:
            entries = self._git.names("ls-tree", "-r", "-z", f"{commit}^{{tree}}")
            known |= {entry.split(None, 3)[2].decode() for entry in entries}
        is_sha256 = self._scratch.is_sha256()
        unsaved = [one for one in found if one.pointer_id(sha256=is_sha256) not in known]
        return {one.oid for one in found}, unsaved

    def _pushed(self, saved: Mapping[str, str]) -> list[str]:
        """Return the tips that are in the mirror and that the workspace did not start with."""
        upstream = [self._base or "", *self._made_with()]
        tips = set(self._tips.refs.values()) - {*saved.values(), *upstream}
        if self._mirror is None or not tips:
            return []
        since = reached(self._git, tips, existing(self._git, upstream))
        tags = {oid for oid, kind in kinds(self._git, tips) if kind == "tag"}
        return [tip for tip in tips if tip in since or tip in tags]

    def _made_with(self) -> list[str]:
        """Return the commits and tags that the workspace was made with; none if that is not recorded in it."""
        text = read_file(self._source.common / UPSTREAM) if self._source is not None else None
        return (text or b"").decode(errors="replace").split()

    def _count(self, *options: str) -> int:
        if not self._tips.refs:
            return 0
        stdin = revisions(self._tips.refs.values(), self._safe)
        return int(self._git.run("rev-list", *options, "--stdin", stdin=stdin).decode() or 0)

    def _new_tips(self) -> dict[str, str]:
        """Return the refs that reach something new."""
        safe = set(self._safe)
        candidates = {name: tip for name, tip in self._tips.refs.items() if tip not in safe}
        if not candidates:
            return {}
        new = reached(self._git, candidates.values(), self._safe)
        new |= {oid for oid, kind in kinds(self._git, candidates.values()) if kind == "tag"} | self._tips.loose
        return {name: tip for name, tip in candidates.items() if tip in new}


def _is_touched(path: Path, ignored: Iterable[str]) -> bool:
    """Return whether git ignores a folder, or anything in it."""
    return any(Path(name).is_relative_to(path) or path.is_relative_to(name) for name in ignored)
