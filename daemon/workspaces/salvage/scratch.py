"""A repository of our own through which git reads the objects of a repository in a workspace, and nothing else of it.

`snapshot.py` explains why. Standard library only: the helper process imports this.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from daemon.workspaces.git import Git, GitError
from daemon.workspaces.mirror_files import is_plain
from daemon.workspaces.salvage.bundle import SCRATCH_SETTINGS, SHALLOW
from daemon.workspaces.salvage.history import revisions
from daemon.workspaces.salvage.repository import GitFolders, folders_of_objects, object_stores, quoted, read_file

_IDENTITY = {
    "GIT_AUTHOR_NAME": "agentcron",
    "GIT_AUTHOR_EMAIL": "agentcron@localhost",
    "GIT_COMMITTER_NAME": "agentcron",
    "GIT_COMMITTER_EMAIL": "agentcron@localhost",
    "GIT_AUTHOR_DATE": "2000-01-01T00:00:00Z",  # constant, so that the same work gets the same ids
    "GIT_COMMITTER_DATE": "2000-01-01T00:00:00Z",
}


class Scratch:
    """A scratch repository."""

    def __init__(
        self,
        folder: Path,
        working_tree: Path,
        source: GitFolders | None,
        workspace: Path,
        mirror: Path | None,
        git_timeout: float,
    ) -> None:
        """Prepare; `source` is the repository that it borrows from, beside the mirror, if that is sound."""
        self.folder = folder
        self.source = source
        self.mirror = mirror if mirror is not None and (mirror / "HEAD").exists() and is_plain(mirror) else None
        self.stores: list[Path] = []
        """The object stores of the source, once this is made."""
        self._working_tree = working_tree
        self._workspace = workspace
        self.git = self.git_with(git_timeout)

    def git_with(self, timeout: float) -> Git:
        """Return a git that works here, and ends a command after some seconds."""
        folders = {"GIT_DIR": str(self.folder), "GIT_WORK_TREE": str(self._working_tree)}
        return Git(timeout, self._working_tree, isolated=True, **folders, **_IDENTITY)

    def make(self) -> None:
        """Make it: borrowed objects of workspace and mirror, and a configuration of our own."""
        for folder in ("objects/info", "refs", "info"):
            (self.folder / folder).mkdir(parents=True)
        (self.folder / "HEAD").write_text("ref: refs/heads/agentcron/none\n")
        self.stores = self._borrow_objects(self.source) if self.source is not None else []
        extensions = "[extensions]\n\tobjectFormat = sha256\n" if self.is_sha256() else ""
        version = 1 if extensions else 0
        format_version = f"[core]\n\trepositoryformatversion = {version}\n"
        (self.folder / "config").write_text(f"{format_version}{extensions}{SCRATCH_SETTINGS}")
        stores = self.stores + ([self.mirror / "objects"] if self.mirror is not None else [])
        alternates = b"".join(quoted(store) + b"\n" for store in stores)
        (self.folder / "objects" / "info" / "alternates").write_bytes(alternates)
        shallow = read_file(self.source.common / "shallow") if self.source else None
        if shallow is not None:
            (self.folder / SHALLOW).write_bytes(shallow)

    def deepen(self, tips: Iterable[str]) -> None:
        """Ignore that history is cut off if all of it is there, as after a shallow fetch into a full clone."""
        shallow = read_file(self.folder / SHALLOW)
        if shallow is None:
            return
        (self.folder / SHALLOW).unlink()
        try:
            self.git.run("rev-list", "--count", "--stdin", stdin=revisions(tips))
        except GitError:
            (self.folder / SHALLOW).write_bytes(shallow)

    def _borrow_objects(self, source: GitFolders) -> list[Path]:
        """Make a folder of links for each object store of a repository; return these folders."""
        trusted = self.mirror / "objects" if self.mirror is not None else None
        found = []
        for number, store in enumerate(object_stores(source.common, self._workspace, trusted)):
            folder = self.folder / f"store-{number}"
            folder.mkdir()
            for name in folders_of_objects(store):
                (folder / name).symlink_to(store / name)
            found.append(folder)
        return found

    def is_sha256(self) -> bool:
        """Return whether the source names its objects by SHA-256."""
        text = read_file(self.source.common / "config") if self.source else b""
        return re.search(rb"(?im)^\s*objectformat\s*=\s*sha256", text or b"") is not None
