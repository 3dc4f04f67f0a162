"""Find the files of a working tree that differ from HEAD, are new, or are ignored by git.

Standard library only: the helper process imports this.
"""

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from daemon.workspaces.git import Git, GitError
from daemon.workspaces.salvage.lfs import LARGEST_POINTER, content_id, pointer_in
from daemon.workspaces.salvage.repository import repositories_below
from daemon.workspaces.salvage.walk import room_of

_GITLINK = b"160000"
_HEADER = re.compile(rb"([0-9a-f]+) (\w+) ([0-9]+)\n")
_MOST_HOLES = 16 * 1024**2  # bytes of holes in a file that git may store, which would fill them with zeros
_LARGEST_HASHED = 1024**3  # bytes of a file with such holes that is compared with a pointer of Git LFS


class WorkingTree:
    """The files of one working tree, compared by a git whose index is filled from HEAD."""

    def __init__(self, git: Git, root: Path) -> None:
        self.bare: list[Path] = []
        """The bare repositories in it, after `changed`."""
        self._git = git
        self._root = root

    def changed(
        self, head: str | None, base: str | None, index: Path | None, lfs: Collection[str]
    ) -> tuple[list[bytes], list[tuple[Path, str | None]]]:
        """Return the files that differ from HEAD or are new, and the nested working trees.

        A nested working tree is a path and, for a submodule, the commit that `base` records for it. `base` is a commit
        that is safe elsewhere, and so are those that it records; `index` is a copy of the workspace's own index. `lfs`
        are the objects of Git LFS that are here: a file whose content is that of its pointer has not changed.
        """
        git = self._git
        found = list(repositories_below(self._root))  # raises where git would hang
        repositories = [path for path, is_bare in found if not is_bare]
        self.bare = [path for path, is_bare in found if is_bare]
        git.run("read-tree", head) if head else git.run("read-tree", "--empty")
        entries = [(kind, name) for kind, _, name in self._entries()]
        blobs = {name: kind.split()[1] for kind, name in entries if not kind.startswith(_GITLINK)}
        differing = self._differing(blobs)
        skipped = self._skipped(index)
        filled = set(self._filled_pointers(differing, blobs)) if lfs else set()
        changed = [
            name for name in differing if (name not in skipped or self._is_file(name)) and filled.isdisjoint({name})
        ]
        nested: list[tuple[Path, str | None]] = []
        recorded = self._recorded(base)
        for kind, name in entries:
            if kind.startswith(_GITLINK) and self._is_filled(name):
                nested.append((Path(os.fsdecode(name)), recorded.get(name)))
            elif kind.startswith(_GITLINK) and self._is_file(name):
                changed.append(name)
        others = git.names("ls-files", "-z", "--others", "--exclude-standard")
        inner = {os.fsencode(path) for path in repositories}  # git lists the files of those that it cannot read
        changed += [name for name in others if not name.endswith(b"/") and not (inner and _is_within(name, inner))]
        known = {path for path, _ in nested}
        nested += [(path, None) for path in repositories if path not in known]
        return list(dict.fromkeys([*changed, *self._staged(index)])), nested

    def _entries(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        """Yield mode, object and stage of each entry of the index, a separator, and its name."""
        return (entry.partition(b"\t") for entry in self._git.names("ls-files", "-z", "--stage"))

    def _differing(self, blobs: Mapping[bytes, bytes]) -> list[bytes]:
        """Return the files that differ from the index; git does not read those that certainly do because of holes."""
        replaced = self._replaced(blobs)
        if replaced:
            stdin = b"".join(name + b"\0" for name in replaced)
            self._git.run("update-index", "--skip-worktree", "-z", "--stdin", stdin=stdin)
        self._refresh()
        return [*replaced, *self._git.names("diff-files", "-z", "--name-only", "--ignore-submodules=all")]

    def _refresh(self) -> None:
        """Let the index know which files are as it says; raise GitError if git did not come to its end.

        Files that it did not come to would count as changed.
        """
        try:
            self._git.run("update-index", "-q", "--really-refresh", "--ignore-submodules")
        except GitError as error:  # it fails if files differ, too
            if error.is_passing:
                raise

    def _replaced(self, blobs: Mapping[bytes, bytes]) -> list[bytes]:
        """Return the files with large holes that have not the size of their blob: git would hash the holes for hours.

        A file of that size may be unchanged, on a file system that compresses.
        """
        found = {name: status.st_size for name in blobs if (status := self._lstat(name)) and _has_large_holes(status)}
        sizes = self._sizes({blobs[name] for name in found})
        return [name for name, size in found.items() if sizes.get(blobs[name]) != size]

    def _sizes(self, blobs: Collection[bytes]) -> dict[bytes, int]:
        """Return the sizes of those blobs that are there."""
        ids = b"".join(blob + b"\n" for blob in sorted(blobs))
        checked = (line.split() for line in self._git.run("cat-file", "--batch-check", stdin=ids).splitlines())
        return {words[0]: int(words[2]) for words in checked if len(words) == 3}  # noqa: PLR2004 - else it is missing

    def _filled_pointers(self, names: Iterable[bytes], blobs: Mapping[bytes, bytes]) -> Iterator[bytes]:
        """Yield the files whose content is what their pointers of Git LFS in the index name."""
        wanted = [name for name in names if name in blobs and self._is_file(name) and not self._is_endless(name)]
        pointers = self._pointers({blobs[name] for name in wanted})
        for name in wanted:
            oid = pointers.get(blobs[name])
            path = os.path.join(os.fsencode(self._root), name)
            if oid is not None and not os.path.islink(path) and content_id(path) == oid:
                yield name

    def _pointers(self, blobs: Collection[bytes]) -> dict[bytes, str]:
        """Return those blobs that are pointers of Git LFS, with the objects that they name."""
        small = [blob for blob, size in self._sizes(blobs).items() if size <= LARGEST_POINTER]
        data = self._git.run("cat-file", "--batch", stdin=b"".join(blob + b"\n" for blob in small))
        found, at = {}, 0
        while header := _HEADER.match(data, at):
            begin = header.end()
            at = begin + int(header[3]) + 1
            if oid := pointer_in(data[begin : at - 1]):
                found[header[1]] = oid
        return found

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
        found = self._lstat(name)
        return found is not None and (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode))

    def is_not_storable(self, name: bytes) -> bool:
        """Return whether git stores nothing under a name: it is a pipe or the like, or leads through a link."""
        root, parts = os.fsencode(self._root), name.split(b"/")
        above = (os.path.join(root, *parts[:count]) for count in range(1, len(parts)))
        return any(map(os.path.islink, above)) or (
            os.path.lexists(os.path.join(root, name)) and not self._is_file(name)
        )

    def goes_aside(self, name: bytes) -> bool:
        """Return whether git refuses the name of a file, or would store a large one with its holes filled."""
        if any(part.lower() == b".git" for part in name.split(b"/")):
            return True
        found = self._lstat(name)
        return found is not None and _has_large_holes(found)

    def _is_endless(self, name: bytes) -> bool:
        """Return whether reading a file would take long for what it takes on the disk: it is nearly all holes."""
        found = self._lstat(name)
        return found is not None and _has_large_holes(found) and found.st_size > _LARGEST_HASHED

    def size(self, name: bytes) -> int:
        """Return the bytes that a file takes when it is saved."""
        found = self._lstat(name)
        if found is None:  # it was deleted
            return 0
        return room_of(found) if self.goes_aside(name) else found.st_size

    def _lstat(self, name: bytes) -> os.stat_result | None:
        try:
            return os.lstat(os.path.join(os.fsencode(self._root), name))
        except OSError:
            return None

    def ignored(self) -> list[bytes]:
        """Return the entries that git ignores; of a folder that it ignores as a whole, only the folder's name."""
        return self._git.names("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory")


def _has_large_holes(found: os.stat_result) -> bool:
    return found.st_size - room_of(found) > _MOST_HOLES


def _is_within(name: bytes, folders: Collection[bytes]) -> bool:
    """Return whether a file is in one of some folders."""
    parts = name.split(b"/")
    return any(b"/".join(parts[:count]) in folders for count in range(1, len(parts)))
