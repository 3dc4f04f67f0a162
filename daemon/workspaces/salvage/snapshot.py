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
for byte. The tips go into a bundle, and the changed files also into a patch.

Standard library only: the helper process imports this.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemon.workspaces.git import Git
from daemon.workspaces.salvage.repository import (
    OID,
    GitFolders,
    UnreadableError,
    folders_of_objects,
    has_only_network_remotes,
    is_ref_name,
    linked_trees,
    object_stores,
    pseudo_ref_ids,
    read_file,
    reflog_ids,
    refs_of,
    submodule_repositories,
)
from daemon.workspaces.salvage.working_tree import WorkingTree

_SAVED_BRANCHES = "refs/heads/agentcron/saved"
_COMMIT = re.compile(rb"^commit ([0-9a-f]+)$", re.MULTILINE)
_SELF_CONTAINED_MAX = 64 * 1024**2  # bytes of history: a bundle of at most this holds all of it and can be cloned
_NO_CONVERSION = "* -text !eol -filter -ident -working-tree-encoding\n"
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
        self._stores: list[Path] = []
        folders = {"GIT_DIR": str(scratch), "GIT_WORK_TREE": str(working_tree)}
        self._git = Git(git_timeout, working_tree, isolated=True, **folders, **_IDENTITY)
        self._tree = WorkingTree(self._git, working_tree)
        self._head: str | None = None
        self._tips: dict[str, str] = {}
        self._prefix = _SAVED_BRANCHES
        self._fetched: list[str] = []
        self._safe: list[str] = []
        self._reachable: list[str] = []

    def take(self, *, is_own: bool, has_files: bool, check_size: Callable[[int], None]) -> UnsavedWork:
        """Return the work to save; raise UnreadableError, GitError or OSError if it cannot be determined.

        `is_own` says that this is the repository that the workspace was cloned with, `has_files` that it has a working
        tree. `check_size` is called with the size in bytes before anything is written; what it raises is passed on.
        """
        self._set_up()
        self._safe = self._find_safe(is_own=is_own)
        found = UnsavedWork(commits=self._count("--count"))
        size = self._count("--objects", "--disk-usage") if found.commits else 0
        changed: list[bytes] = []
        if has_files:
            changed, found.repositories = self._tree.changed(self._head, self._existing_base(), self._index())
            size += sum(self._tree.size(name) for name in changed)
        check_size(size)
        found.files = len(changed)
        found.modules = list(submodule_repositories(self._source.common)) if self._source is not None else []
        if has_files:
            self._commit_files(changed)
            self._commit_indexes()
            found.ignored = [os.fsdecode(name) for name in self._tree.ignored()]
        found.tips = self._new_tips()
        return found

    def write(self, folder: Path, tips: dict[str, str], target: str) -> Iterator[str]:
        """Write a bundle and a patch into a folder; yield the shell commands that restore the work as `target`.

        A NUL in a command stands for the path of the folder, which is known only later.
        """
        has_patch = f"{self._prefix}/files" in self._tips
        yield from self._write_bundle(folder, tips, target, raw_files=has_patch)
        if has_patch:
            yield from self._write_patch(folder, target)

    def _set_up(self) -> None:
        """Make the scratch repository: borrowed objects of workspace and mirror, and a configuration of our own."""
        for folder in ("objects/info", "refs", "info"):
            (self.scratch / folder).mkdir(parents=True)
        (self.scratch / "HEAD").write_text("ref: refs/heads/agentcron/none\n")
        self._stores = self._borrow_objects(self._source) if self._source is not None else []
        extensions = "[extensions]\n\tobjectFormat = sha256\n" if self._is_sha256() else ""
        version = 1 if extensions else 0
        (self.scratch / "config").write_text(f"[core]\n\trepositoryformatversion = {version}\n{extensions}")
        stores = self._stores + ([self._mirror / "objects"] if self._mirror is not None else [])
        alternates = b"".join(_quoted(store) + b"\n" for store in stores)
        (self.scratch / "objects" / "info" / "alternates").write_bytes(alternates)
        shallow = read_file(self._source.common / "shallow") if self._source else None
        if shallow is not None:
            (self.scratch / "shallow").write_bytes(shallow)
        self._read_refs()

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
            oid = refs.get(os.fsdecode(head[5:]))
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
        """Return the commits and tags that are safe elsewhere; set `_reachable` to those that can be fetched."""
        known = [] if is_own else list(self._fetched)
        if self._mirror is not None:
            known += self._git.text("for-each-ref", "--format=%(objectname)", GIT_DIR=str(self._mirror)).split()
        self._reachable = self._existing(known)
        return self._existing([*known, *([self._base] if self._base else [])])

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
        (self.scratch / "info" / "attributes").write_text(_NO_CONVERSION)
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

    def _write_bundle(self, folder: Path, tips: dict[str, str], target: str, *, raw_files: bool) -> Iterator[str]:
        git = self._git
        refs = b"".join(b"create %s\0%s\0" % (os.fsencode(name), tip.encode()) for name, tip in tips.items())
        git.run("update-ref", "-z", "--stdin", stdin=refs)
        if self._head is not None and self._head in tips.values():
            git.run("update-ref", "--no-deref", "HEAD", self._head)
            names = ["HEAD", *tips]
        else:
            names = list(tips)
        history = git.run("rev-list", "--objects", "--disk-usage", "--stdin", stdin=_revisions(tips.values()))
        is_self_contained = int(history) <= _SELF_CONTAINED_MAX
        excluded = [] if is_self_contained else [f"^{oid}" for oid in self._reachable or self._safe]
        bundle = folder / "work.bundle"
        stdin = b"".join(os.fsencode(word) + b"\n" for word in [*names, *excluded])
        git.run("bundle", "create", "--quiet", str(bundle), "--stdin", stdin=stdin)
        git.run("bundle", "verify", "--quiet", str(bundle))
        clone = "git clone --no-checkout" if raw_files else "git clone"
        if is_self_contained:
            yield f"{clone} \0/work.bundle {target}"
        else:
            yield f"{clone} THE_REPOSITORY {target}"
            yield f"git -C {target} fetch \0/work.bundle '+refs/heads/*:refs/remotes/saved/*'"
        if raw_files:  # the files were saved byte for byte, so git must not convert them
            yield f"echo '{_NO_CONVERSION.strip()}' >> {target}/.git/info/attributes"
        yield f"git -C {target} branch -r"

    def _write_patch(self, folder: Path, target: str) -> Iterator[str]:
        """Write a patch from HEAD to the changed files; yield the commands that apply it."""
        git = self._git
        before = self._head or git.run("hash-object", "-t", "tree", "-w", "--stdin", stdin=b"").decode().strip()
        after = self._tips[f"{self._prefix}/files"]
        options = ("--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color")
        git.run("diff-tree", "-p", *options, f"--output={folder / 'work.patch'}", before, after)
        if self._head:
            yield f"git -C {target} checkout {self._head}"
        yield f"git -C {target} apply --binary \0/work.patch"


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


def _quoted(path: Path) -> bytes:
    """Return a path quoted for `objects/info/alternates`, whatever bytes are in it (gitrepository-layout(5))."""
    escaped = (b"\\%03o" % byte if byte < 32 or byte in b'"\\' else bytes([byte]) for byte in os.fsencode(path))  # noqa: PLR2004
    return b'"' + b"".join(escaped) + b'"'


def _is_empty(tree: str) -> bool:
    return tree.startswith(("4b825dc642cb6eb9a060", "6ef19b41225c5369f1c1"))
