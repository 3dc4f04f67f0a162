"""A repository of a workspace, looked at through one of our own that borrows its objects.

Only plain data of the workspace is read: refs, reflogs, the index, files and ignore patterns. Standard library only:
the helper process imports this.
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
    comes_from_afar,
    forsaken_modules,
    is_ref_name,
    logged,
    pseudo_refs,
    read_plain,
    refs_of,
)
from daemon.workspaces.salvage.working_tree import WorkingTree

_SAVED = "refs/heads/agentcron/saved"
_COMMIT = re.compile(rb"^commit ([0-9a-f]+)$", re.MULTILINE)
_WHOLE = 64 * 1024**2  # bytes of history that a bundle holds whole, so that it can be cloned alone
_RAW = "* -text !eol -filter -ident -working-tree-encoding\n"
_IDENTITY = {
    "GIT_AUTHOR_NAME": "agentcron",
    "GIT_AUTHOR_EMAIL": "agentcron@localhost",
    "GIT_COMMITTER_NAME": "agentcron",
    "GIT_COMMITTER_EMAIL": "agentcron@localhost",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00Z",  # so that the same work has the same ids
    "GIT_COMMITTER_DATE": "2000-01-01T00:00:00Z",
}


@dataclass
class Found:
    """What exists in a repository alone."""

    tips: dict[str, str] = field(default_factory=dict)
    """Refs that lead to something new."""
    commits: int = 0
    files: int = 0
    ignored: list[str] = field(default_factory=list)
    repositories: list[tuple[Path, str | None]] = field(default_factory=list)
    """Working trees within it, below it, and of submodules the commit that is wanted of them."""
    modules: list[Path] = field(default_factory=list)
    """Repositories of submodules, checked out or not."""


class Snapshot:
    """One repository of a workspace."""

    def __init__(
        self,
        scratch: Path,
        place: Path,
        source: GitFolders | None,
        mirror: Path | None,
        base: str | None,
        timeout: float,
    ) -> None:
        """Look at the working tree at a place, whose repository is the source.

        What the mirror has is saved elsewhere, and `base`; of any but the workspace's own repository also what it
        fetched, if that came from other hosts.
        """
        self.scratch = scratch
        self._mirror = mirror if mirror is not None and (mirror / "HEAD").exists() else None
        self._base = base
        self._source = source
        self._git = Git(timeout, place, alone=True, GIT_DIR=str(scratch), GIT_WORK_TREE=str(place), **_IDENTITY)
        self._tree = WorkingTree(self._git, place)
        self._head: str | None = None
        self._tips: dict[str, str] = {}
        self._saved = _SAVED
        self._fetched: list[str] = []
        self._upstream: list[str] = []
        self._reachable: list[str] = []

    def look(self, *, is_own: bool, has_files: bool, check: Callable[[int], None]) -> Found:
        """Return what is to be saved; raise UnreadableError, GitError or OSError if that cannot be told.

        `is_own` says that the workspace was made with this repository, `has_files` that it has a working tree. `check`
        hears how many bytes there are before any of them is written, and may raise what it likes.
        """
        self._set_up()
        self._upstream = self._known_upstream(is_own=is_own)
        found = Found(commits=self._count("--count"))
        size = self._count("--objects", "--disk-usage") if found.commits else 0
        changed: list[bytes] = []
        if has_files:
            changed, found.repositories = self._tree.changed(self._head, self._existing_base(), self._index())
            size += sum(self._tree.size(name) for name in changed)
        check(size)
        found.files = len(changed)
        found.modules = list(forsaken_modules(self._source.common)) if self._source is not None else []
        if has_files:
            self._remember_files(changed)
            self._remember_indexes()
            found.ignored = [os.fsdecode(name) for name in self._tree.ignored()]
        found.tips = self._new_tips()
        return found

    def write(self, folder: Path, tips: dict[str, str], target: str) -> Iterator[str]:
        """Write bundle and patch into a folder, and give the commands that bring the work back into a target.

        A NUL in them is the folder.
        """
        has_patch = f"{self._saved}/files" in self._tips
        yield from self._write_bundle(folder, tips, target, as_it_is=has_patch)
        if has_patch:
            yield from self._write_patch(folder, target)

    def _set_up(self) -> None:
        """Make our repository: the objects of the workspace and of the mirror, its refs, and nothing of its config."""
        for folder in ("objects/info", "refs", "info"):
            (self.scratch / folder).mkdir(parents=True)
        (self.scratch / "HEAD").write_text("ref: refs/heads/agentcron/none\n")
        extensions = "[extensions]\n\tobjectFormat = sha256\n" if self._is_sha256() else ""
        version = 1 if extensions else 0
        (self.scratch / "config").write_text(f"[core]\n\trepositoryformatversion = {version}\n{extensions}")
        sources = [self._source.common] if self._source is not None else []
        sources += [self._mirror] if self._mirror is not None else []
        alternates = b"".join(_quoted(place / "objects") + b"\n" for place in sources)
        (self.scratch / "objects" / "info" / "alternates").write_bytes(alternates)
        shallow = read_plain(self._source.common / "shallow") if self._source else None
        if shallow is not None:
            (self.scratch / "shallow").write_bytes(shallow)
        self._read_refs()

    def _is_sha256(self) -> bool:
        text = read_plain(self._source.common / "config") if self._source else b""
        return re.search(rb"(?im)^\s*objectformat\s*=\s*sha256", text or b"") is not None

    def _read_refs(self) -> None:
        source = self._source
        if source is None:
            self._head = self._existing_base()
            return
        if (source.common / "reftable").exists():
            raise UnreadableError("its refs are kept in a reftable, which cannot be read; use git refs migrate")
        refs = refs_of(source.common)
        head = (read_plain(source.own / "HEAD") or b"").strip()
        if head.startswith(b"ref: "):
            oid = refs.get(os.fsdecode(head[5:]))
        else:
            oid = head.decode(errors="replace") if OID.fullmatch(head) else None
        wanted = {name: oid for name, oid in refs.items() if not name.startswith("refs/remotes/")}
        lost = {*logged(source.common), *pseudo_refs(source.common), *self._unknown_commits(source.common)}
        existing = set(self._existing([*wanted.values(), *lost, *([oid] if oid else [])]))
        self._head = oid if oid in existing else None
        while any(name.startswith(self._saved) for name in refs):
            self._saved += "-again"
        self._tips = self._clonable({name: oid for name, oid in wanted.items() if oid in existing})
        if comes_from_afar(source.common):
            self._fetched = self._existing([oid for name, oid in refs.items() if name.startswith("refs/remotes/")])
        if self._head is not None and self._head not in self._tips.values():
            self._tips[f"{self._saved}/head"] = self._head
        for number, oid in enumerate(self._ends_of(lost & existing)):
            self._tips[f"{self._saved}/lost-{number}"] = oid

    def _unknown_commits(self, common: Path) -> set[str]:
        """Return the commits among a repository's objects that the mirror does not have, whatever leads to them."""
        mirror = _commits_in(self._git, self._mirror / "objects") if self._mirror is not None else set()
        return _commits_in(self._git, common / "objects") - mirror

    def _clonable(self, refs: dict[str, str]) -> dict[str, str]:
        """Return refs under names that git takes and that are part of what `git clone` brings back."""
        found: dict[str, str] = {}
        for number, (name, oid) in enumerate(sorted(refs.items())):
            clonable = name if name.startswith(("refs/heads/", "refs/tags/")) else f"{self._saved}/{name}"
            if name == "refs/stash":
                clonable = f"{self._saved}/stash"
            above = {clonable.rsplit("/", count)[0] for count in range(1, clonable.count("/"))}
            if not is_ref_name(clonable) or above & found.keys() or f"{self._saved}/".startswith(f"{clonable}/"):
                clonable = f"{self._saved}/odd-{number}"
            found[clonable] = oid
        return found

    def _ends_of(self, lost: set[str]) -> list[str]:
        """Return those commits that no ref leads to, less those that others of them lead to."""
        if not lost:
            return []
        given = _range(sorted(lost), self._tips.values())
        said = self._git.run("rev-list", "--parents", "--stdin", given=given).decode()
        lines = [line.split() for line in said.splitlines()]
        inner = {parent for line in lines for parent in line[1:]}
        return [line[0] for line in lines if line[0] in lost and line[0] not in inner]

    def _existing(self, oids: Iterable[str]) -> list[str]:
        """Return those of some ids that are commits or tags in the repository."""
        asked = [oid for oid in dict.fromkeys(oids) if OID.fullmatch(oid.encode(errors="replace"))]
        return [oid for oid, kind in self._kinds(asked) if kind in {"commit", "tag"}]

    def _existing_base(self) -> str | None:
        return next(iter(self._existing([self._base] if self._base else [])), None)

    def _kinds(self, oids: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Give the objects of some ids that are there, each with its kind."""
        return _read_kinds(self._git.run("cat-file", "--batch-check", given=_range(oids)))

    def _known_upstream(self, *, is_own: bool) -> list[str]:
        """Return commits and tags that are saved elsewhere, and remember those that one gets from there."""
        known = [] if is_own else list(self._fetched)
        if self._mirror is not None:
            known += self._git.text("for-each-ref", "--format=%(objectname)", GIT_DIR=str(self._mirror)).split()
        self._reachable = self._existing(known)
        return self._existing([*known, *([self._base] if self._base else [])])

    def _index(self) -> Path | None:
        """Return a copy of the workspace's index, None if there is none."""
        copy = self.scratch / "index.theirs"
        if not copy.exists():
            if self._source is None or (data := read_plain(self._source.own / "index")) is None:
                return None
            copy.write_bytes(data)
            self._copy_shared(self._source.own)
        return copy

    def _copy_shared(self, folder: Path) -> None:
        """Copy what an index that git has split lies in besides (git-update-index(1), Split index)."""
        for path in folder.glob("sharedindex.*"):
            (self.scratch / path.name).write_bytes(read_plain(path) or b"")

    def _remember_files(self, changed: list[bytes]) -> None:
        """Write the changed files as a commit, byte for byte: nothing is converted."""
        if not changed:
            return
        (self.scratch / "info" / "attributes").write_text(_RAW)
        odd = [name for name in changed if self._tree.is_odd(name)]
        for names, how in ((odd, "--force-remove"), ([name for name in changed if name not in odd], "--remove")):
            given = b"".join(name + b"\0" for name in names)
            self._git.run("update-index", "--add", how, "--replace", "-z", "--stdin", given=given)
        tree = self._git.text("write-tree")
        if self._head is None or tree != self._git.text("rev-parse", f"{self._head}^{{tree}}"):
            self._commit("files", tree, "Files as they were in the workspace")

    def _remember_indexes(self) -> None:
        """Write what was staged as commits, here and in further working trees."""
        self._remember_index("staged", self._index())
        trees = sorted(self._source.common.glob("worktrees/*")) if self._source is not None else []
        for number, tree in enumerate(trees):
            data = read_plain(tree / "index")
            if data is not None and self._source is not None and tree != self._source.own:
                copy = self.scratch / f"index.tree-{number}"
                copy.write_bytes(data)
                self._copy_shared(tree)
                self._remember_index(f"staged-{number}", copy)

    def _remember_index(self, name: str, index: Path | None) -> None:
        """Write what an index holds as a commit, unless HEAD or the files are the same."""
        if index is None:
            return
        unmerged = self._git.names("ls-files", "-z", "--unmerged", GIT_INDEX_FILE=str(index))
        if unmerged:  # what a merge left behind: the files hold it, and the commits it came from
            given = b"".join(entry.partition(b"\t")[2] + b"\0" for entry in unmerged)
            self._git.run("update-index", "--force-remove", "-z", "--stdin", given=given, GIT_INDEX_FILE=str(index))
        tree = self._git.text("write-tree", GIT_INDEX_FILE=str(index))
        known = [tip for tip in (self._head, self._tips.get(f"{self._saved}/files")) if tip is not None]
        if tree not in {self._git.text("rev-parse", f"{tip}^{{tree}}") for tip in known} and (
            known or not _is_empty(tree)
        ):
            self._commit(name, tree, "What was staged in the workspace")

    def _commit(self, name: str, tree: str, message: str) -> None:
        parent = ("-p", self._head) if self._head else ()
        self._tips[f"{self._saved}/{name}"] = self._git.text("commit-tree", tree, *parent, "-m", message)

    def _count(self, *options: str) -> int:
        if not self._tips:
            return 0
        given = _range(self._tips.values(), self._upstream)
        return int(self._git.run("rev-list", *options, "--stdin", given=given).decode() or 0)

    def _new_tips(self) -> dict[str, str]:
        """Return the refs that lead to something new."""
        known = set(self._upstream)
        asked = {name: tip for name, tip in self._tips.items() if tip not in known}
        if not asked:
            return {}
        given = _range(asked.values(), self._upstream)
        new = set(self._git.run("rev-list", "--stdin", given=given).decode().split())
        new |= {oid for oid, kind in self._kinds(asked.values()) if kind == "tag"}
        return {name: tip for name, tip in asked.items() if tip in new}

    def _write_bundle(self, folder: Path, tips: dict[str, str], target: str, *, as_it_is: bool) -> Iterator[str]:
        git = self._git
        refs = b"".join(b"create %s\0%s\0" % (os.fsencode(name), tip.encode()) for name, tip in tips.items())
        git.run("update-ref", "-z", "--stdin", given=refs)
        if self._head is not None and self._head in tips.values():
            git.run("update-ref", "--no-deref", "HEAD", self._head)
            names = ["HEAD", *tips]
        else:
            names = list(tips)
        whole = int(git.run("rev-list", "--objects", "--disk-usage", "--stdin", given=_range(tips.values()))) <= _WHOLE
        known = [] if whole else [f"^{oid}" for oid in self._reachable or self._upstream]
        bundle = folder / "work.bundle"
        given = b"".join(os.fsencode(word) + b"\n" for word in [*names, *known])
        git.run("bundle", "create", "--quiet", str(bundle), "--stdin", given=given)
        git.run("bundle", "verify", "--quiet", str(bundle))
        clone = "git clone --no-checkout" if as_it_is else "git clone"
        if whole:
            yield f"{clone} \0/work.bundle {target}"
        else:
            yield f"{clone} THE_REPOSITORY {target}"
            yield f"git -C {target} fetch \0/work.bundle '+refs/heads/*:refs/remotes/saved/*'"
        if as_it_is:  # the files were saved byte for byte, and git must not convert them now
            yield f"echo '{_RAW.strip()}' >> {target}/.git/info/attributes"
        yield f"git -C {target} branch -r"

    def _write_patch(self, folder: Path, target: str) -> Iterator[str]:
        """Write the changed files as a patch on HEAD."""
        git = self._git
        before = self._head or git.run("hash-object", "-t", "tree", "-w", "--stdin", given=b"").decode().strip()
        after = self._tips[f"{self._saved}/files"]
        options = ("--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color")
        git.run("diff-tree", "-p", *options, f"--output={folder / 'work.patch'}", before, after)
        if self._head:
            yield f"git -C {target} checkout {self._head}"
        yield f"git -C {target} apply --binary \0/work.patch"


def _commits_in(git: Git, objects: Path) -> set[str]:
    """Return all commits in a folder of objects, and in those that it borrows from."""
    every = ("cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)", "--unordered")
    said = git.run(*every, GIT_OBJECT_DIRECTORY=str(objects))
    return {match[1].decode() for match in _COMMIT.finditer(said)}


def _read_kinds(said: bytes) -> Iterator[tuple[str, str]]:
    """Read what `git cat-file --batch-check` says: id, kind and size; what is missing has no size."""
    for line in said.decode().splitlines():
        words = line.split()
        if len(words) == 3:  # noqa: PLR2004
            yield words[0], words[1]


def _range(oids: Iterable[str], less: Iterable[str] = ()) -> bytes:
    """Return the standard input that names some ids to git, less what leads to others (git-rev-list(1), --stdin)."""
    return "".join([*(f"{oid}\n" for oid in oids), *(f"^{oid}\n" for oid in less)]).encode()


def _quoted(path: Path) -> bytes:
    """Return a path as `objects/info/alternates` has it, whatever is in it (gitrepository-layout(5))."""
    escaped = (b"\\%03o" % byte if byte < 32 or byte in b'"\\' else bytes([byte]) for byte in os.fsencode(path))  # noqa: PLR2004
    return b'"' + b"".join(escaped) + b'"'


def _is_empty(tree: str) -> bool:
    return tree.startswith(("4b825dc642cb6eb9a060", "6ef19b41225c5369f1c1"))
