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
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daemon.workspaces.git import Git, GitError
from daemon.workspaces.layout import UPSTREAM
from daemon.workspaces.mirror_files import is_plain
from daemon.workspaces.salvage.bundle import SCRATCH_SETTINGS, SHALLOW, Contents
from daemon.workspaces.salvage.commits import FILES, Commits, copy_of_index
from daemon.workspaces.salvage.history import (
    History,
    clonable,
    commits_in,
    existing,
    heads_of,
    kinds,
    reached,
    revisions,
)
from daemon.workspaces.salvage.lfs import LfsObject, lfs_objects
from daemon.workspaces.salvage.repository import (
    OID,
    GitFolders,
    folders_of_objects,
    has_only_network_remotes,
    is_branch_name,
    object_stores,
    pseudo_ref_ids,
    quoted,
    read_file,
    reflog_ids,
    refs_of,
    submodule_repositories,
)
from daemon.workspaces.salvage.walk import UnreadableError
from daemon.workspaces.salvage.working_tree import WorkingTree

_SAVED_BRANCHES = "refs/heads/agentcron/saved"
_MOST_REFS = 1000  # in a bundle: its time grows with their square, and bringing it back makes and syncs a file for each
_SPEED = 2 * 1024**2  # bytes per second that git handles at least
_IDENTITY = {
    "GIT_AUTHOR_NAME": "agentcron",
    "GIT_AUTHOR_EMAIL": "agentcron@localhost",
    "GIT_COMMITTER_NAME": "agentcron",
    "GIT_COMMITTER_EMAIL": "agentcron@localhost",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00Z",  # constant, so that the same work gets the same ids
    "GIT_COMMITTER_DATE": "2000-01-01T00:00:00Z",
}


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
        self.scratch = scratch
        self._mirror = mirror if mirror is not None and (mirror / "HEAD").exists() and is_plain(mirror) else None
        self._base = base
        self._source = source
        self._workspace = workspace
        self._working_tree = working_tree
        self.timeout = git_timeout
        """Seconds that one git command may take; more for much work."""
        self._stores: list[Path] = []
        self._git = self._new_git()
        self._tree = WorkingTree(self._git, working_tree)
        self._head: str | None = None
        self._branch: str | None = None
        self._in_mirror: list[str] = []
        self._tips: dict[str, str] = {}
        self._prefix = _SAVED_BRANCHES
        self._fetched: list[str] = []
        self._safe: list[str] = []
        self._loose: set[str] = set()  # files and folders that refs name
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
        self._git = self._new_git()
        found.aside = [name for name in changed if self._tree.goes_aside(name)]
        changed = [name for name in changed if name not in set(found.aside)]
        if has_files:
            commits = Commits(self._git, self.scratch, self._head)
            commits.add_files(self._tree, changed)
            commits.add_indexes(self._index, self._source)
            self._tips |= {f"{self._prefix}/{name}": oid for name, oid in commits.made.items()}
            self._add_ignored(found)
        found.tips = self._new_tips()
        if (count := len(found.tips)) > _MOST_REFS:
            raise UnreadableError(f"{count} of its refs have unsaved work; a bundle holds {_MOST_REFS} at most")
        found.pushed = self._pushed(found.tips) if is_own else []
        if not found.tips and self._head is not None and (found.aside or found.lfs):
            found.tips = {f"{self._prefix}/head": self._head}
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
        self._set_up()
        self._safe = self._find_safe(is_own=is_own)
        found = UnsavedWork(commits=self._count("--count"))
        self._size = self._count("--objects", "--disk-usage") if set(self._tips.values()) - set(self._safe) else 0
        known, found.lfs = self._lfs_objects()
        self._room = 2 * self._size + sum(one.size for one in found.lfs if one.is_linked)
        self._size += sum(one.size for one in found.lfs)
        found.modules = list(submodule_repositories(self._source.common)) if self._source is not None else []
        if has_files:
            self._index = copy_of_index(self.scratch, self._source)
            changed, found.repositories = self._tree.changed(self._head, self._existing_base(), self._index, known)
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
        files = f"{self._prefix}/{FILES}"
        branch = self._branch.removeprefix("refs/heads/") if self._branch is not None else None
        if self._head is not None and self._head not in tips.values():
            tips = {**tips, f"{self._prefix}/head": self._head}
        history = History(self._git, self.scratch, self._safe, self._in_mirror, check_room)
        borrowed = history.bundle(folder, tips, self._head)
        between = (self._head, tips[files]) if self._head is not None and files in tips else None
        return Contents(
            {name: oid for name, oid in tips.items() if oid not in borrowed},
            self._head,
            shlex.quote(branch) if branch is not None and is_branch_name(branch) else None,
            files if files in tips else None,
            self._differs(between, "D"),
            self._differs(between, "d"),
            borrowed,
            is_sha256=self._is_sha256(),
            has_lfs=has_lfs,
        )

    def _differs(self, commits: tuple[str, str] | None, kind: str) -> bool:
        """Return whether a commit has changes of one kind (git-diff-tree(1), --diff-filter), compared with another."""
        options = ("-r", "-z", "--name-only", f"--diff-filter={kind}")
        return commits is not None and bool(self._git.names("diff-tree", *options, *commits))

    def _new_git(self) -> Git:
        folders = {"GIT_DIR": str(self.scratch), "GIT_WORK_TREE": str(self._working_tree)}
        return Git(self.timeout, self._working_tree, isolated=True, **folders, **_IDENTITY)

    def _set_up(self) -> None:
        """Make the scratch repository: borrowed objects of workspace and mirror, and a configuration of our own."""
        for folder in ("objects/info", "refs", "info"):
            (self.scratch / folder).mkdir(parents=True)
        (self.scratch / "HEAD").write_text("ref: refs/heads/agentcron/none\n")
        self._stores = self._borrow_objects(self._source) if self._source is not None else []
        extensions = "[extensions]\n\tobjectFormat = sha256\n" if self._is_sha256() else ""
        version = 1 if extensions else 0
        format_version = f"[core]\n\trepositoryformatversion = {version}\n"
        (self.scratch / "config").write_text(f"{format_version}{extensions}{SCRATCH_SETTINGS}")
        stores = self._stores + ([self._mirror / "objects"] if self._mirror is not None else [])
        alternates = b"".join(quoted(store) + b"\n" for store in stores)
        (self.scratch / "objects" / "info" / "alternates").write_bytes(alternates)
        shallow = read_file(self._source.common / "shallow") if self._source else None
        if shallow is not None:
            (self.scratch / SHALLOW).write_bytes(shallow)
        self._read_refs()
        if shallow is not None:
            self._deepen(shallow)

    def _deepen(self, shallow: bytes) -> None:
        """Ignore that history is cut off if all of it is there, as after a shallow fetch into a full clone."""
        (self.scratch / SHALLOW).unlink()
        try:
            self._git.run("rev-list", "--count", "--stdin", stdin=revisions(self._tips.values()))
        except GitError:
            (self.scratch / SHALLOW).write_bytes(shallow)

    def _borrow_objects(self, source: GitFolders) -> list[Path]:
        """Make a folder of links for each object store of a repository; return these folders."""
        trusted = self._mirror / "objects" if self._mirror is not None else None
        found = []
        for number, store in enumerate(object_stores(source.common, self._workspace, trusted)):
            folder = self.scratch / f"store-{number}"
            folder.mkdir()
            for name in folders_of_objects(store):
                (folder / name).symlink_to(store / name)
            found.append(folder)
        return found

    def _is_sha256(self) -> bool:
        text = read_file(self._source.common / "config") if self._source else b""
        return re.search(rb"(?im)^\s*objectformat\s*=\s*sha256", text or b"") is not None

    def _read_refs(self) -> None:
        source = self._source
        if source is None:
            self._head = self._existing_base()
            return
        if (source.common / "reftable").exists():
            raise UnreadableError("its refs are in the reftable format, which is not supported (see git refs migrate)")
        refs = refs_of(source.common)
        head = (read_file(source.own / "HEAD") or b"").strip()
        if head.startswith(b"ref: "):
            self._branch = os.fsdecode(head[5:])
            oid = refs.get(self._branch)
        else:
            oid = head.decode(errors="replace") if OID.fullmatch(head) else None
        wanted = {name: oid for name, oid in refs.items() if not name.startswith("refs/remotes/")}
        lost = {*reflog_ids(source.common), *pseudo_ref_ids(source.common), *self._unknown_commits()}
        known = dict(kinds(self._git, [*wanted.values(), *lost, *([oid] if oid else [])]))
        found = {one for one, kind in known.items() if kind in {"commit", "tag"}}
        self._loose = self._not_in_mirror(set(wanted.values()) & known.keys() - found)
        self._head = oid if oid in found else None
        while any(name.split("/", 2)[-1].startswith(self._prefix.split("/", 2)[-1]) for name in refs):
            self._prefix += "-again"
        commits = {one for one, kind in known.items() if kind == "commit"}
        refs_to_save = {name: oid for name, oid in wanted.items() if oid in found or oid in self._loose}
        self._tips = clonable(refs_to_save, self._prefix, commits)
        if has_only_network_remotes(source.common):
            fetched = [oid for name, oid in refs.items() if name.startswith("refs/remotes/")]
            self._fetched = existing(self._git, fetched)
        if self._head is not None and self._head not in self._tips.values():
            self._tips[f"{self._prefix}/head"] = self._head
        for number, oid in enumerate(heads_of(self._git, lost & found, self._tips.values())):
            self._tips[f"{self._prefix}/lost-{number}"] = oid

    def _not_in_mirror(self, oids: set[str]) -> set[str]:
        """Return the files and folders among some objects that the mirror does not have."""
        if self._mirror is None or not oids:
            return oids
        return oids - {oid for oid, _ in kinds(self._git, oids, GIT_OBJECT_DIRECTORY=str(self._mirror / "objects"))}

    def _unknown_commits(self) -> set[str]:
        """Return the commits in the repository's object stores that the mirror does not have, reachable or not."""
        mirror = commits_in(self._git, self._mirror / "objects") if self._mirror is not None else set()
        return {oid for store in self._stores for oid in commits_in(self._git, store)} - mirror

    def _existing_base(self) -> str | None:
        return next(iter(existing(self._git, [self._base] if self._base else [])), None)

    def _find_safe(self, *, is_own: bool) -> list[str]:
        """Return the commits and tags that are safe elsewhere; set `_in_mirror` to those that the mirror has."""
        known = [] if is_own else list(self._fetched)
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
        upstream = [base] if base is not None else self._fetched
        known: set[str] = set()
        for commit in upstream:
            entries = self._git.names("ls-tree", "-r", "-z", f"{commit}^{{tree}}")
            known |= {entry.split(None, 3)[2].decode() for entry in entries}
        is_sha256 = self._is_sha256()
        unsaved = [one for one in found if one.pointer_id(sha256=is_sha256) not in known]
        return {one.oid for one in found}, unsaved

    def _pushed(self, saved: Mapping[str, str]) -> list[str]:
        """Return the tips that are in the mirror and that the workspace did not start with."""
        upstream = [self._base or "", *self._made_with()]
        tips = set(self._tips.values()) - {*saved.values(), *upstream}
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
        if not self._tips:
            return 0
        stdin = revisions(self._tips.values(), self._safe)
        return int(self._git.run("rev-list", *options, "--stdin", stdin=stdin).decode() or 0)

    def _new_tips(self) -> dict[str, str]:
        """Return the refs that reach something new."""
        safe = set(self._safe)
        candidates = {name: tip for name, tip in self._tips.items() if tip not in safe}
        if not candidates:
            return {}
        new = reached(self._git, candidates.values(), self._safe)
        new |= {oid for oid, kind in kinds(self._git, candidates.values()) if kind == "tag"} | self._loose
        return {name: tip for name, tip in candidates.items() if tip in new}


def _is_touched(path: Path, ignored: Iterable[str]) -> bool:
    """Return whether git ignores a folder, or anything in it."""
    return any(Path(name).is_relative_to(path) or path.is_relative_to(name) for name in ignored)
