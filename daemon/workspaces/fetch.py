"""Fetch what the clones of an environment are made from, so that no run that holds a slot waits for a remote.

Standard library only: the helper process imports this.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from daemon.workspaces.jobs import FetchedMirror, Source
from daemon.workspaces.layout import tasks_of
from daemon.workspaces.lfs_files import fetch_objects
from daemon.workspaces.mirror import CloneError, Mirror
from daemon.workspaces.openat import open_path
from daemon.workspaces.submodules import Submodules


def fetch_mirrors(
    state_dir: Path, source: Source, git_timeout: float, log: Callable[[str], None], on_wait: Callable[[str], None]
) -> FetchedMirror:
    """Fetch the mirror of an environment unless it is recent, then its submodules and objects of Git LFS.

    `on_wait` is called with `submodules` or `lfs` before remotes are asked for these. Raise CloneError, GitError or
    OSError.
    """
    os.close(open_path(state_dir, *tasks_of(source.environment), create=True))
    mirror = Mirror(state_dir, source, git_timeout, log)
    with mirror.in_use(fetches=True):
        commit = _commit_of(mirror)
        if commit is not None:
            Submodules(state_dir, mirror, git_timeout, log).fetch(commit, on_wait)
            fetch_objects(state_dir, mirror, commit, git_timeout, on_wait)
        return FetchedMirror(max(0.0, time.time() - (mirror.fetched_at() or 0.0)))


def _commit_of(mirror: Mirror) -> str | None:
    """Return the commit that is cloned; None if there is none, which is left for the clone to report."""
    try:
        return mirror.commit()
    except CloneError:
        return None
