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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daemon.workspaces.git import Git, GitError
from daemon.workspaces.salvage.bundle import (
    BUNDLE,
    MEMORY_SETTINGS,
    NO_CONVERSION,
    SHALLOW,
    Contents,
)
from daemon.workspaces.salvage.lfs import LfsObject, lfs_objects
from daemon.workspaces.salvage.repository import (
    OID,
    GitFolders,
    folders_of_objects,
    has_only_network_remotes,
    is_ref_name,
    linked_trees,
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
_COMMIT = re.compile(rb"^commit ([0-9a-f]+)$", re.MULTILINE)
_SELF_CONTAINED_MAX = 64 * 1024**2  # bytes: a bundle of at most this needs nothing else
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
    """Repositories of submodules, whether checked out or not."""


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
        self._mirror = mirror if mirror is not None and (mirror / "HEAD").exists() else None
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

    def take(self, *, is_own: bool, has_files: bool, check_size: Callable[[int], None]) -> UnsavedWork:
        """Return the work to save; raise UnreadableError, GitError or OSError if it cannot be determined.

        `is_own` says that this is the repository that the workspace was cloned with, `has_files` that it has a working
        tree. `check_size` is called with the size in bytes before anything is written; what it raises is passed on.
        """
        self._set_up()
        self._safe = self._find_safe(is_own=is_own)
        found = UnsavedWork(commits=self._count("--count"))
        size = self._count("--objects", "--disk-usage") if found.commits else 0
        known, found.lfs = self._lfs_objects()
        size += sum(one.size for one in found.lfs)
        changed: list[bytes] = []
        if has_files:
            changed, found.repositories = self._tree.changed(self._head, self._existing_base(), self._index(), known)
            size += sum(self._tree.size(name) for name in changed)
        check_size(size)
        self.timeout += size / _SPEED
        self._git = self._new_git()
        found.files = len(changed)
        found.aside = [name for name in changed if self._tree.goes_aside(name)]
        changed = [name for name in changed if name not in set(found.aside)]
        found.modules = list(submodule_repositories(self._source.common)) if self._source is not None else []
        if has_files:
            self._commit_files(changed)
            self._commit_indexes()
            found.ignored = [os.fsdecode(name) for name in self._tree.ignored()]
        found.tips = self._new_tips()
        found.pushed = self._pushed(found.tips) if is_own else []
        if not found.tips and self._head is not None and (found.aside or found.lfs):
            found.tips = {f"{self._prefix}/head": self._head}
        return found

    def write(self, folder: Path, tips: dict[str, str], *, has_lfs: bool) -> Contents:
        """Write a bundle of some tips into a folder; return what it holds."""
        files = f"{self._prefix}/files"
        branch = self._branch if self._branch and is_ref_name(self._branch) and self._branch.isprintable() else None
        if self._head is not None and self._head not in tips.values():
            tips = {**tips, f"{self._prefix}/head": self._head}
        borrowed = self._write_bundle(folder, tips)
        between = (self._head, tips[files]) if self._head is not None and files in tips else None
        return Contents(
            {name: oid for name, oid in tips.items() if oid not in borrowed},
            self._head,
            shlex.quote(branch.removeprefix("refs/heads/")) if branch else None,
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
        (self.scratch / "config").write_text(f"{format_version}{extensions}{MEMORY_SETTINGS}")
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
        revisions = _revisions(self._tips.values())
        try:
            self._git.run("rev-list", "--count", "--stdin", stdin=revisions)
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
        existing = set(self._existing([*wanted.values(), *lost, *([oid] if oid else [])]))
        self._head = oid if oid in existing else None
        while any(name.startswith(self._prefix) for name in refs):
            self._prefix += "-again"
        self._tips = self._clonable({name: oid for name, oid in wanted.items() if oid in existing})
        if has_only_network_remotes(source.common):
            self._fetched = self._existing([oid for name, oid in refs.items() if name.startswith("refs/remotes/")])
        if self._head is not None and self._head not in self._tips.values():
            self._tips[f"{self._prefix}/head"] = self._head
        for number, oid in enumerate(self._lost_tips(lost & existing)):
            self._tips[f"{self._prefix}/lost-{number}"] = oid

    def _unknown_commits(self) -> set[str]:
        """Return the commits in the repository's object stores that the mirror does not have, reachable or not."""
        mirror = _commits_in(self._git, self._mirror / "objects") if self._mirror is not None else set()
        return {oid for store in self._stores for oid in _commits_in(self._git, store)} - mirror

    def _clonable(self, refs: dict[str, str]) -> dict[str, str]:
        """Return refs under names that git accepts and that `git clone` brings back."""
        found: dict[str, str] = {}
        for number, (name, oid) in enumerate(sorted(refs.items())):
            clonable = name if name.startswith(("refs/heads/", "refs/tags/")) else f"{self._prefix}/{name}"
            if name == "refs/stash":
                clonable = f"{self._prefix}/stash"
            above = {clonable.rsplit("/", count)[0] for count in range(1, clonable.count("/"))}
            if not is_ref_name(clonable) or above & found.keys() or f"{self._prefix}/".startswith(f"{clonable}/"):
                clonable = f"{self._prefix}/odd-{number}"
            found[clonable] = oid
        return found

    def _lost_tips(self, lost: set[str]) -> list[str]:
        """Return the commits that no ref reaches, without those that another of them reaches."""
        if not lost:
            return []
        revisions = _revisions(sorted(lost), self._tips.values())
        output = self._git.run("rev-list", "--parents", "--stdin", stdin=revisions).decode()
        lines = [line.split() for line in output.splitlines()]
        inner = {parent for line in lines for parent in line[1:]}
        return [line[0] for line in lines if line[0] in lost and line[0] not in inner]

    def _existing(self, oids: Iterable[str]) -> list[str]:
        """Return those ids that are commits or tags in the repository."""
        valid = [oid for oid in dict.fromkeys(oids) if OID.fullmatch(oid.encode(errors="replace"))]
        return [oid for oid, kind in self._kinds(valid) if kind in {"commit", "tag"}]

    def _existing_base(self) -> str | None:
        return next(iter(self._existing([self._base] if self._base else [])), None)

    def _kinds(self, oids: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield the ids whose objects exist, each with the kind of its object."""
        return _read_kinds(self._git.run("cat-file", "--batch-check", stdin=_revisions(oids)))

    def _find_safe(self, *, is_own: bool) -> list[str]:
        """Return the commits and tags that are safe elsewhere; set `_in_mirror` to those that the mirror has."""
        known = [] if is_own else list(self._fetched)
        if self._mirror is not None:
            mirror = self._git.text("for-each-ref", "--format=%(objectname)", GIT_DIR=str(self._mirror)).split()
            self._in_mirror = self._existing(mirror)
            known += mirror
        return self._existing([*known, *([self._base] if self._base else [])])

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
        tips = set(self._tips.values()) - {*saved.values(), self._base}
        if self._mirror is None or not tips:
            return []
        base = [oid for oid in (self._existing_base(),) if oid is not None]
        since = set(self._git.run("rev-list", "--stdin", stdin=_revisions(tips, base)).decode().split())
        kinds = dict(self._kinds(tips))
        return [tip for tip in tips if tip in since or (kinds.get(tip) == "tag" and tip not in base)]

    def _index(self) -> Path | None:
        """Return a copy of the workspace's index, None if there is none."""
        copy = self.scratch / "index.theirs"
        if not copy.exists():
            if self._source is None or (data := read_file(self._source.own / "index")) is None:
                return None
            copy.write_bytes(data)
            self._copy_shared(self._source.own)
        return copy

    def _copy_shared(self, folder: Path) -> None:
        """Copy the shared files of a split index (git-update-index(1), Split index)."""
        for path in folder.glob("sharedindex.*"):
            (self.scratch / path.name).write_bytes(read_file(path) or b"")

    def _commit_files(self, changed: list[bytes]) -> None:
        """Make a commit of the changed files, byte for byte, without any conversion."""
        if not changed:
            return
        (self.scratch / "info" / "attributes").write_text(f"{NO_CONVERSION}\n")
        absent = {name for name in changed if self._tree.is_not_storable(name)}
        for names, how in ((absent, "--force-remove"), ([name for name in changed if name not in absent], "--remove")):
            stdin = b"".join(name + b"\0" for name in names)
            self._git.run("update-index", "--add", how, "--replace", "-z", "--stdin", stdin=stdin)
        tree = self._git.text("write-tree")
        if self._head is None or tree != self._git.text("rev-parse", f"{self._head}^{{tree}}"):
            self._commit("files", tree, "Files as they were in the workspace")

    def _commit_indexes(self) -> None:
        """Make commits of what was staged, here and in linked working trees."""
        self._commit_index("staged", self._index())
        trees = linked_trees(self._source.common) if self._source is not None else []
        for number, tree in enumerate(trees):
            data = read_file(tree / "index")
            if data is not None and self._source is not None and tree != self._source.own:
                copy = self.scratch / f"index.tree-{number}"
                copy.write_bytes(data)
                self._copy_shared(tree)
                self._commit_index(f"staged-{number}", copy)

    def _commit_index(self, name: str, index: Path | None) -> None:
        """Make a commit of what an index holds, unless HEAD or the files hold the same."""
        if index is None:
            return
        unmerged = self._git.names("ls-files", "-z", "--unmerged", GIT_INDEX_FILE=str(index))
        if unmerged:  # conflicts of a merge: the files hold them, and so do the merged commits
            stdin = b"".join(entry.partition(b"\t")[2] + b"\0" for entry in unmerged)
            self._git.run("update-index", "--force-remove", "-z", "--stdin", stdin=stdin, GIT_INDEX_FILE=str(index))
        tree = self._git.text("write-tree", GIT_INDEX_FILE=str(index))
        known = [tip for tip in (self._head, self._tips.get(f"{self._prefix}/files")) if tip is not None]
        if tree not in {self._git.text("rev-parse", f"{tip}^{{tree}}") for tip in known} and (
            known or not _is_empty(tree)
        ):
            self._commit(name, tree, "What was staged in the workspace")

    def _commit(self, name: str, tree: str, message: str) -> None:
        parent = ("-p", self._head) if self._head else ()
        self._tips[f"{self._prefix}/{name}"] = self._git.text("commit-tree", tree, *parent, "-m", message)

    def _count(self, *options: str) -> int:
        if not self._tips:
            return 0
        revisions = _revisions(self._tips.values(), self._safe)
        return int(self._git.run("rev-list", *options, "--stdin", stdin=revisions).decode() or 0)

    def _new_tips(self) -> dict[str, str]:
        """Return the refs that reach something new."""
        safe = set(self._safe)
        candidates = {name: tip for name, tip in self._tips.items() if tip not in safe}
        if not candidates:
            return {}
        revisions = _revisions(candidates.values(), self._safe)
        new = set(self._git.run("rev-list", "--stdin", stdin=revisions).decode().split())
        new |= {oid for oid, kind in self._kinds(candidates.values()) if kind == "tag"}
        return {name: tip for name, tip in candidates.items() if tip in new}

    def _write_bundle(self, folder: Path, tips: dict[str, str]) -> list[str]:
        """Write a bundle of some refs; return the commits that whoever brings it back must have."""
        git = self._git
        refs = b"".join(b"create %s\0%s\0" % (os.fsencode(name), tip.encode()) for name, tip in tips.items())
        git.run("update-ref", "-z", "--stdin", stdin=refs)
        excluded = self._limit_history(list(tips.values()))
        names = [name for name, tip in tips.items() if tip not in excluded]
        if self._head is not None:
            git.run("update-ref", "--no-deref", "HEAD", self._head)
            names += ["HEAD"] if self._head not in excluded else []
        stdin = b"".join(os.fsencode(word) + b"\n" for word in [*names, *(f"^{oid}" for oid in excluded)])
        git.run("bundle", "create", "--quiet", str(folder / BUNDLE), "--stdin", stdin=stdin)
        if (self.scratch / SHALLOW).exists():
            (folder / SHALLOW).write_bytes((self.scratch / SHALLOW).read_bytes())
        return excluded

    def _limit_history(self, tips: list[str]) -> list[str]:
        """Return the commits to leave out of a bundle with what they reach, because the mirror can keep them.

        There are none if the whole history is short. Without a mirror, make a long history shallow.
        """
        if self._disk_usage(tips) <= _SELF_CONTAINED_MAX:
            return []
        lent = self._boundary(tips, self._in_mirror)
        if lent:
            return lent
        boundary = self._boundary(tips, self._safe)
        with (self.scratch / SHALLOW).open("a") as shallow:
            shallow.writelines(f"{oid}\n" for oid in boundary)
        return []

    def _boundary(self, tips: list[str], safe: list[str]) -> list[str]:
        """Return the newest commits that safe ones reach: the parents of new ones, and the tips that are not new."""
        if not safe:
            return []
        lines = self._git.run("rev-list", "--boundary", "--stdin", stdin=_revisions(tips, safe)).decode().split()
        known = [oid for oid, kind in self._kinds(tips) if kind == "commit" and oid not in lines]
        return list(dict.fromkeys([*(line[1:] for line in lines if line.startswith("-")), *known]))

    def _disk_usage(self, tips: list[str]) -> int:
        stdin = _revisions(tips)
        return int(self._git.run("rev-list", "--objects", "--disk-usage", "--stdin", stdin=stdin).decode())


def _commits_in(git: Git, objects: Path) -> set[str]:
    """Return all commits in an object store."""
    every = ("cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)", "--unordered")
    output = git.run(*every, GIT_OBJECT_DIRECTORY=str(objects))
    return {match[1].decode() for match in _COMMIT.finditer(output)}


def _read_kinds(output: bytes) -> Iterator[tuple[str, str]]:
    """Yield ids and kinds from lines of `git cat-file --batch-check`: id, kind, size; a missing object has no size."""
    for line in output.decode().splitlines():
        words = line.split()
        if len(words) == 3:  # noqa: PLR2004
            yield words[0], words[1]


def _revisions(oids: Iterable[str], excluded: Iterable[str] = ()) -> bytes:
    """Return standard input for git that selects what some ids reach and others do not (git-rev-list(1), --stdin)."""
    return "".join([*(f"{oid}\n" for oid in oids), *(f"^{oid}\n" for oid in excluded)]).encode()


def _is_empty(tree: str) -> bool:
    return tree.startswith(("4b825dc642cb6eb9a060", "6ef19b41225c5369f1c1"))
