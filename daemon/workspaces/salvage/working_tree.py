"""The files of a workspace, as a repository of our own sees them: what changed, what is new, what git ignores.

Standard library only: the helper process imports this.
"""

import os
import stat
from pathlib import Path

from daemon.workspaces.git import Git
from daemon.workspaces.salvage.repository import repositories_below

_GITLINK = b"160000"


class WorkingTree:
    """The files at one place, under a git whose index is filled anew with what HEAD has."""

    def __init__(self, git: Git, place: Path) -> None:
        self._git = git
        self._place = place

    def changed(
        self, head: str | None, base: str | None, index: Path | None
    ) -> tuple[list[bytes], list[tuple[Path, str | None]]]:
        """Return the files that differ from HEAD or are new, and the working trees within, as `Found` has them.

        `base` is a commit that is saved elsewhere, and so is what it wants of submodules; `index` is a copy of the one
        that the workspace has.
        """
        git = self._git
        found = list(repositories_below(self._place))  # which makes sure that git hangs on nothing
        git.run("read-tree", head) if head else git.run("read-tree", "--empty")
        git.succeeds("update-index", "-q", "--really-refresh", "--ignore-submodules")  # it fails where files differ
        left_out = self._left_out(index)
        differing = git.names("diff-files", "-z", "--name-only", "--ignore-submodules=all")
        changed = [name for name in differing if name not in left_out or self._is_file(name)]
        within: list[tuple[Path, str | None]] = []
        wanted = self._wanted(base)
        for entry in git.names("ls-files", "-z", "--stage"):
            kind, _, name = entry.partition(b"\t")
            if kind.startswith(_GITLINK) and self._is_filled(name):
                within.append((Path(os.fsdecode(name)), wanted.get(name)))
            elif kind.startswith(_GITLINK) and self._is_file(name):
                changed.append(name)
        others = git.names("ls-files", "-z", "--others", "--exclude-standard")
        changed += [name for name in others if not name.endswith(b"/")]
        known = {place for place, _ in within}
        within += [(place, None) for place in found if place not in known]
        return list(dict.fromkeys([*changed, *self._staged(index)])), within

    def _wanted(self, base: str | None) -> dict[bytes, str]:
        """Return the commits of submodules that a commit wants."""
        entries = (entry.partition(b"\t") for entry in self._git.names("ls-tree", "-r", "-z", base)) if base else ()
        return {name: kind.split()[2].decode() for kind, _, name in entries if kind.startswith(_GITLINK)}

    def _left_out(self, index: Path | None) -> set[bytes]:
        """Return the files that a sparse checkout leaves out: that they are missing is no change."""
        if index is None:
            return set()
        tagged = self._git.names("ls-files", "-z", "-t", GIT_INDEX_FILE=str(index))
        return {entry[2:] for entry in tagged if entry.startswith(b"S ")}

    def _is_filled(self, name: bytes) -> bool:
        """Tell whether a submodule was checked out."""
        place = os.path.join(os.fsencode(self._place), name)
        return os.path.isdir(place) and not os.path.islink(place) and bool(os.listdir(place))

    def _staged(self, index: Path | None) -> list[bytes]:
        """Return the files that are in the workspace's index and not in HEAD; git may ignore them."""
        if index is None:
            return []
        known = set(self._git.names("ls-files", "-z"))
        staged = self._git.names("ls-files", "-z", GIT_INDEX_FILE=str(index))
        return [name for name in staged if name not in known and self._is_file(name)]

    def _is_file(self, name: bytes) -> bool:
        try:
            found = os.lstat(os.path.join(os.fsencode(self._place), name))
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)

    def is_odd(self, name: bytes) -> bool:
        """Tell whether a name is that of a pipe or its like, or leads through a link: git has nothing there."""
        place, parts = os.fsencode(self._place), name.split(b"/")
        above = (os.path.join(place, *parts[:count]) for count in range(1, len(parts)))
        return any(map(os.path.islink, above)) or (
            os.path.lexists(os.path.join(place, name)) and not self._is_file(name)
        )

    def size(self, name: bytes) -> int:
        """Return the bytes of a file."""
        try:
            return os.lstat(os.path.join(os.fsencode(self._place), name)).st_size
        except OSError:  # it was deleted, which is the change
            return 0

    def ignored(self) -> list[bytes]:
        """Return what git ignores; of a folder that is ignored as a whole, its name alone."""
        return self._git.names("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory")
