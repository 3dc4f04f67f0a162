"""The lock of a mirror, and the lock files that git leaves in it when it is killed.

Standard library only: the helper process imports this.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_STALE_LOCK = 300.0  # seconds after which a lock file of git is certainly not in use
_STALE_LOCK_OF_OURS = 5.0  # seconds: git dies with its helper, but perhaps not at once
_CHANGING = b"changing\n"  # what the mirror's own lock file holds during a change
_LOCK_POLL = 0.5  # seconds


@contextlib.contextmanager
def locked(path: Path, kind: int) -> Iterator[int]:
    """Hold a lock (fcntl.LOCK_SH or LOCK_EX); yield its descriptor, which can be locked in the other way meanwhile."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, kind)
        yield lock
    finally:
        os.close(lock)


@contextlib.contextmanager
def changing(lock: int) -> Iterator[bool]:
    """Mark a mirror as being changed; yield whether the process that last changed it was killed meanwhile."""
    was_cut_off = os.pread(lock, len(_CHANGING), 0) == _CHANGING
    os.pwrite(lock, _CHANGING, 0)
    try:
        yield was_cut_off
    finally:
        os.ftruncate(lock, 0)


def wait_for_locks(mirror: Path, log: Callable[[str], None], *, are_ours: bool) -> None:
    """Wait for lock files of git processes that may still be running in a mirror, and remove stale ones.

    `are_ours` says that an earlier change was cut off: its git died with it, so its lock files are soon stale.
    """
    for pattern in ("*.lock", "refs/**/*.lock", "objects/**/*.lock"):
        for lock in mirror.glob(pattern):
            _wait_for_lock(lock, _STALE_LOCK_OF_OURS if are_ours else _STALE_LOCK, log)


def _wait_for_lock(lock: Path, stale: float, log: Callable[[str], None]) -> None:
    is_logged = False
    while (age := _age_of(lock)) is not None:
        if age >= stale or age < 0:  # written while the clock was ahead
            lock.unlink(missing_ok=True)
            log(f"WARNING: removed a lock file that git left in the mirror {age:.0f} s ago: {lock}")
            return
        if not is_logged:
            log(f"waiting at most {stale - age:.0f} s for a lock file that git left in the mirror: {lock}")
            is_logged = True
        time.sleep(_LOCK_POLL)


def _age_of(lock: Path) -> float | None:
    """Return how many seconds ago a file was written, None if it is gone."""
    try:
        return time.time() - lock.lstat().st_mtime
    except FileNotFoundError:
        return None
