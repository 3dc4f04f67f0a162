"""Make commits of the files and the indexes of a working tree as they are on the disk, in a scratch repository.

Standard library only: the helper process imports this.
"""

from pathlib import Path

from daemon.workspaces.git import Git
from daemon.workspaces.salvage.bundle import NO_CONVERSION
from daemon.workspaces.salvage.repository import GitFolders, linked_trees, read_file
from daemon.workspaces.salvage.working_tree import WorkingTree

FILES, STAGED = "files", "staged"


def copy_of_index(scratch: Path, source: GitFolders | None) -> Path | None:
    """Return a copy of the index of a repository, None if there is none."""
    return _copied(source.own, scratch / "index.theirs") if source is not None else None


def _copied(folder: Path, copy: Path) -> Path | None:
    data = read_file(folder / "index")
    if data is None:
        return None
    copy.write_bytes(data)
    for path in folder.glob("sharedindex.*"):  # of a split index (git-update-index(1), Split index)
        (copy.parent / path.name).write_bytes(read_file(path) or b"")
    return copy


class Commits:
    """The commits that are made on one HEAD, by the names of what they hold."""

    def __init__(self, git: Git, scratch: Path, head: str | None) -> None:
        self.made: dict[str, str] = {}
        self._git = git
        self._scratch = scratch
        self._head = head

    def add_files(self, tree: WorkingTree, changed: list[bytes]) -> None:
        """Make a commit of the changed files, byte for byte, without any conversion."""
        if not changed:
            return
        (self._scratch / "info" / "attributes").write_text(f"{NO_CONVERSION}\n")
        absent = {name for name in changed if tree.is_not_storable(name)}
        for names, how in ((absent, "--force-remove"), ([name for name in changed if name not in absent], "--remove")):
            stdin = b"".join(name + b"\0" for name in names)
            self._git.run("update-index", "--add", how, "--replace", "-z", "--stdin", stdin=stdin)
        written = self._git.text("write-tree")
        if self._head is None or written != self._tree_of(self._head):
            self._commit(FILES, written, "Files as they were in the workspace")

    def add_indexes(self, index: Path | None, source: GitFolders | None) -> None:
        """Make commits of what was staged, here and in linked working trees."""
        if index is not None:
            self._add_index(STAGED, index)
        trees = linked_trees(source.common) if source is not None else []
        for number, tree in enumerate(trees):
            if source is not None and tree != source.own:
                copy = _copied(tree, self._scratch / f"index.tree-{number}")
                if copy is not None:
                    self._add_index(f"{STAGED}-{number}", copy)

    def _add_index(self, name: str, index: Path) -> None:
        """Make a commit of what an index holds, unless HEAD or the files hold the same."""
        unmerged = self._git.names("ls-files", "-z", "--unmerged", GIT_INDEX_FILE=str(index))
        if unmerged:  # conflicts of a merge: the files hold them, and so do the merged commits
            stdin = b"".join(entry.partition(b"\t")[2] + b"\0" for entry in unmerged)
            self._git.run("update-index", "--force-remove", "-z", "--stdin", stdin=stdin, GIT_INDEX_FILE=str(index))
        written = self._git.text("write-tree", GIT_INDEX_FILE=str(index))
        known = [commit for commit in (self._head, self.made.get(FILES)) if commit is not None]
        if written not in map(self._tree_of, known) and (known or not _is_empty(written)):
            self._commit(name, written, "What was staged in the workspace")

    def _tree_of(self, commit: str) -> str:
        return self._git.text("rev-parse", f"{commit}^{{tree}}")

    def _commit(self, name: str, tree: str, message: str) -> None:
        parent = ("-p", self._head) if self._head else ()
        self.made[name] = self._git.text("commit-tree", tree, *parent, "-m", message)


def _is_empty(tree: str) -> bool:
    return tree.startswith(("4b825dc642cb6eb9a060", "6ef19b41225c5369f1c1"))
