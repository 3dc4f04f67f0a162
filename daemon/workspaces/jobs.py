"""The jobs that the helper process does: what each request holds, and what comes back.

The daemon and the helper share these classes; `pipe.py` turns them into lines of JSON and back. Every number is a
count, a size, an id or a duration, so none is negative. Standard library only: the helper process imports this.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """What an environment's workspaces are cloned from."""

    environment: str
    repository: str
    """A URL, or an absolute path."""
    ref: str | None
    """A branch, a tag or a commit; None for the remote's HEAD."""
    fetch_every: float
    """Seconds for which a fetched mirror counts as up to date."""
    require_fetch: bool
    """Whether an unreachable remote is an error; if not, the mirror is used as it is."""
    fetch_timeout: float
    """Seconds without progress after which a fetch is ended."""


@dataclass(frozen=True)
class Author:
    """Who commits in a workspace, unless the agent says otherwise."""

    name: str
    email: str
    is_name_set: bool
    """Whether the config sets the name; if not, one in the git configuration of the daemon's user is used instead."""
    is_email_set: bool
    """Likewise."""


@dataclass(frozen=True)
class FetchMirror:
    """Fetch the mirror of an environment, unless it was fetched recently, and those of its submodules."""

    source: Source
    timeout: float
    """Seconds that one git command may take."""


@dataclass(frozen=True)
class FetchedMirror:
    """A mirror that is as it is to be used."""

    age: float
    """Seconds since it was last fetched, or since that was last tried."""


@dataclass(frozen=True)
class MaintainMirrors:
    """Repack the mirrors of an environment."""

    source: Source
    timeout: float
    """Seconds that one git command may take."""


@dataclass(frozen=True)
class PrepareWorkspace:
    """Clone the workspace of a run; what an earlier attempt left has been removed."""

    source: Source
    author: Author
    run_id: int
    umask: int
    timeout: float
    """Seconds that one git command may take."""
    fetches: bool
    """Whether the mirror is fetched first unless it is recent; if not, only if it is not of this source."""
    folder: str | None = None
    """The name of the workspace's folder; None: the run's number."""


@dataclass(frozen=True)
class PreparedWorkspace:
    """A workspace that is complete."""

    path: Path
    base: str
    """The commit that it starts from."""


@dataclass(frozen=True)
class CleanWorkspace:
    """Save the unsaved work of a workspace, then remove it."""

    environment: str
    run_id: int
    base: str | None
    """The commit that it started from, if known."""
    salvage_max: int | None
    """Keep a workspace with more bytes of unsaved work than this; None: no limit."""
    saves: bool
    """Whether its work is saved; if not, it is lost."""
    folder: str | None = None
    """The name of its folder; None: the run's number."""


@dataclass(frozen=True)
class SavedWork:
    """The work that was saved from a workspace."""

    folder: str | None = None
    """Where it is, relative to the run's folder; None if there was nothing to save."""
    commits: int = 0
    files: int = 0
    ignored: int = 0
    """Entries that git ignores: not saved."""
    ignored_names: tuple[str, ...] = ()
    """The first of them."""
    bytes: int = 0
    """Of unsaved work, before it was compressed."""
    stored: int = 0
    """Bytes of everything that was saved from the workspace of the run, this time and before."""
    tips: tuple[str, ...] = ()
    """What identifies the work: object ids that the bundles lead to, and digests of archives."""
    pushed: tuple[str, ...] = ()
    """Commits and tags that upstream had: not saved, but kept in the mirror as long as the run exists."""
    as_it_was: tuple[str, ...] = ()
    """Repositories that git could not read, each with the reason: saved as they were, in archives."""
    restore: tuple[str, ...] = ()
    """Shell commands that bring the work back."""


@dataclass(frozen=True)
class CleanedWorkspace:
    """What happened to a workspace that was to be removed."""

    gone: bool
    """Whether nothing of it is left."""
    reason: str | None = None
    """Why it is not gone."""
    in_trash: bool = False
    """Whether the rest of it is in the trash, where deletion is retried."""
    saved: SavedWork | None = None


@dataclass(frozen=True)
class ExamineWorkspace:
    """Count what is in a workspace, and what of it exists nowhere else."""

    environment: str
    run_id: int
    base: str | None
    """The commit that it started from, if known."""
    folder: str | None = None
    """The name of its folder; None: the run's number."""


@dataclass(frozen=True)
class UnsavedCounts:
    """How much work exists only in a workspace."""

    commits: int = 0
    files: int = 0
    """Changed and new ones."""
    ignored: int = 0
    """Entries that git ignores."""
    lfs_objects: int = 0
    """Objects of Git LFS."""
    uncounted: tuple[str, ...] = ()
    """Folders whose work could not be counted, each with the reason."""


@dataclass(frozen=True)
class WorkspaceContents:
    """What is in a workspace."""

    files: int
    """All but those in git folders."""
    bytes: int
    """What everything takes on the disk."""
    repositories: tuple[str, ...]
    """Folders with a repository, relative to the workspace, whose own is `.`."""
    unsaved: UnsavedCounts


@dataclass(frozen=True)
class FindSavedWork:
    """Find what was last saved from the workspace of a run, which is missing now."""

    run_id: int


@dataclass(frozen=True)
class FoundWork:
    """What was saved, None if nothing was."""

    saved: SavedWork | None


@dataclass(frozen=True)
class ListWorkspaces:
    """List the entries of every environment's `tasks` folder."""


@dataclass(frozen=True)
class WorkspaceNames:
    """The entries of `tasks` folders, by environment."""

    by_environment: dict[str, tuple[str, ...] | None]
    """None for a folder that cannot be read."""


@dataclass(frozen=True)
class QuarantineWorkspace:
    """Move an entry that belongs to no run out of the `tasks` folder, without deleting any of it."""

    environment: str
    name: str


@dataclass(frozen=True)
class QuarantinedWorkspace:
    """An entry that was moved."""

    path: Path


@dataclass(frozen=True)
class MoveWorkspace:
    """Give a workspace that could not be removed the run's number as its name, or quarantine it if that is taken."""

    environment: str
    folder: str
    run_id: int


@dataclass(frozen=True)
class MovedWorkspace:
    """A workspace that was moved."""

    path: Path


@dataclass(frozen=True)
class MeasureWorkspaces:
    """Measure the workspaces of some runs of one environment."""

    environment: str
    folders: dict[int, str]
    """The names of their folders, by run."""


@dataclass(frozen=True)
class MeasureSavedWork:
    """Measure the work that was saved from the workspaces of some runs."""

    runs: tuple[int, ...]


@dataclass(frozen=True)
class MeasureRunFolders:
    """Measure the folders of some runs."""

    runs: tuple[int, ...]


@dataclass(frozen=True)
class DiskUsage:
    """Bytes on the disk by run; runs that have no folder, or one that cannot be measured, are left out."""

    by_run: dict[int, int]


@dataclass(frozen=True)
class DeleteLeftovers:
    """Delete what is in the trash, and the temporary folders of helper processes that were killed."""


@dataclass(frozen=True)
class RemoveOrphans:
    """Remove the folders of runs that have no row in the database."""

    expired: str | None
    """Folders older than the database go only if they are older than this instant; None: never."""
    dry_run: bool
    """Only count."""


@dataclass(frozen=True)
class RemovedFolders:
    """How many folders were removed, or would be, and the bytes that this frees."""

    folders: int
    bytes: int


Job = (
    FetchMirror
    | MaintainMirrors
    | PrepareWorkspace
    | CleanWorkspace
    | ExamineWorkspace
    | FindSavedWork
    | ListWorkspaces
    | QuarantineWorkspace
    | MoveWorkspace
    | MeasureWorkspaces
    | MeasureSavedWork
    | MeasureRunFolders
    | DeleteLeftovers
    | RemoveOrphans
)
