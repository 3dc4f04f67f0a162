"""Find the files of a working tree that differ from HEAD, are new, or are ignored by git.

Standard library only: the helper process imports this.
"""

import os
import stat
from pathlib import Path

from daemon.workspaces.git import Git
from daemon.workspaces.salvage.repository import repositories_below

_GITLINK = b"160000"


class WorkingTree:
    """The files of one working tree, compared by a git whose index is filled from HEAD."""

    def __init__(self, git: Git, root: Path) -> None:
        self._git = git
        self._root = root

    def changed(
        self, head: str | None, base: str | None, index: Path | None
    ) -> tuple[list[bytes], list[tuple[Path, str | None]]]:
        """Return the files that differ from HEAD or are new, and the nested working trees.

        A nested working tree is a path and, for a submodule, the commit that `base` records for it. `base` is a commit
        that is safe elsewhere, and so are those that it records; `index` is a copy of the workspace's own index.
        """
        git = self._git
        repositories = list(repositories_below(self._root))  # raises where git would hang
        git.run("read-tree", head) if head else git.run("read-tree", "--empty")
        git.succeeds("update-index", "-q", "--really-refresh", "--ignore-submodules")  # it fails if files differ
        skipped = self._skipped(index)
        differing = git.names("diff-files", "-z", "--name-only", "--ignore-submodules=all")
        changed = [name for name in differing if name not in skipped or self._is_file(name)]
        nested: list[tuple[Path, str | None]] = []
        recorded = self._recorded(base)
        for entry in git.names("ls-files", "-z", "--stage"):
            kind, _, name = entry.partition(b"\t")
            if kind.startswith(_GITLINK) and self._is_filled(name):
                nested.append((Path(os.fsdecode(name)), recorded.get(name)))
            elif kind.startswith(_GITLINK) and self._is_file(name):
                changed.append(name)
        others = git.names("ls-files", "-z", "--others", "--exclude-standard")
        changed += [name for name in others if not name.endswith(b"/")]
        known = {path for path, _ in nested}
        nested += [(path, None) for path in repositories if path not in known]
        return list(dict.fromkeys([*changed, *self._staged(index)])), nested

    def _recorded(self, base: str | None) -> dict[bytes, str]:
        """Return the commits that a commit records for its submodules."""
        entries = (entry.partition(b"\t") for entry in self._git.names("ls-tree", "-r", "-z", base)) if base else ()
        return {name: kind.split()[2].decode() for kind, _, name in entries if kind.startswith(_GITLINK)}

    def _skipped(self, index: Path | None) -> set[bytes]:
        """Return the files that a sparse checkout skips: their absence is not a change."""
        if index is None:
            return set()
        tagged = self._git.names("ls-files", "-z", "-t", GIT_INDEX_FILE=str(index))
        return {entry[2:] for entry in tagged if entry.startswith(b"S ")}

    def _is_filled(self, name: bytes) -> bool:
        """Return whether a submodule is checked out."""
        path = os.path.join(os.fsencode(self._root), name)
        return os.path.isdir(path) and not os.path.islink(path) and bool(os.listdir(path))

    def _staged(self, index: Path | None) -> list[bytes]:
        """Return the files in the workspace's index that are not in HEAD, even those that git ignores."""
        if index is None:
            return []
        known = set(self._git.names("ls-files", "-z"))
        staged = self._git.names("ls-files", "-z", GIT_INDEX_FILE=str(index))
        return [name for name in staged if name not in known and self._is_file(name)]

    def _is_file(self, name: bytes) -> bool:
        try:
            found = os.lstat(os.path.join(os.fsencode(self._root), name))
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)

    def is_not_storable(self, name: bytes) -> bool:
        """Return whether git stores nothing under a name: it is a pipe or the like, or leads through a link."""
        root, parts = os.fsencode(self._root), name.split(b"/")
        above = (os.path.join(root, *parts[:count]) for count in range(1, len(parts)))
        return any(map(os.path.islink, above)) or (
            os.path.lexists(os.path.join(root, name)) and not self._is_file(name)
        )

    def size(self, name: bytes) -> int:
        """Return the bytes of a file."""
        try:
            return os.lstat(os.path.join(os.fsencode(self._root), name)).st_size
        except OSError:  # it was deleted
            return 0

    def ignored(self) -> list[bytes]:
        """Return the entries that git ignores; of a folder that it ignores as a whole, only the folder's name."""
        return self._git.names("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory")
