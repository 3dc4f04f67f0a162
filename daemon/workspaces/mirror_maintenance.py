"""Repack the mirror of an environment when fetches have left many packs or loose objects, which make clones slow.

Standard library only: the helper process imports this.
"""

import os
import time
from pathlib import Path

from daemon.workspaces.git import Git
from daemon.workspaces.layout import mirrors_of

_MOST_PACKS = 20
_MOST_LOOSE = 500  # objects
_AT_MOST_EVERY = 24 * 3600.0  # seconds: no run of the environment starts meanwhile, and one that fails may take an hour
_STAMP = "agentcron-repacked"  # its mtime is the time of the last attempt, its content what the last success left
_GC = (*("-c", "pack.threads=1"), *("-c", "pack.windowMemory=64m"), "gc", "--quiet", "--prune=2.weeks.ago")
"""The command that repacks. Objects that no ref reaches stay for a while: a cleanup may be about to keep them."""


def is_due(state_dir: Path, environment: str) -> bool:
    """Return whether any mirror of an environment should be repacked."""
    return any(map(is_mirror_due, mirrors_of(state_dir, environment)))


def is_mirror_due(mirror: Path) -> bool:
    """Return whether a mirror should be repacked: much has been added since that was last done, and it is a day ago."""
    try:
        age = time.time() - (mirror / _STAMP).lstat().st_mtime
    except OSError:
        return _is_much(mirror, (0, 0))
    return not 0 <= age < _AT_MOST_EVERY and _is_much(mirror, _left(mirror / _STAMP))


def repack(git: Git, mirror: Path) -> None:
    """Repack a mirror with its git; raise GitError, or OSError if that cannot be noted in it."""
    stamp = mirror / _STAMP
    stamp.touch(mode=0o600)
    git.run(*_GC)
    packs, loose = _counts(mirror)
    stamp.unlink()  # it is for us to write, whatever somebody put there
    stamp.write_text(f"{packs} {loose}\n")


def _is_much(mirror: Path, left: tuple[int, int]) -> bool:
    """Return whether a mirror has many more packs or loose objects than were left in it, as git before 2.41 does."""
    packs, loose = _counts(mirror)
    return packs - left[0] > _MOST_PACKS or loose - left[1] > _MOST_LOOSE


def _counts(mirror: Path) -> tuple[int, int]:
    """Return how many packs and loose objects are in a mirror."""
    objects = mirror / "objects"
    return sum(1 for _ in objects.glob("pack/*.pack")), sum(1 for _ in objects.glob("[0-9a-f][0-9a-f]/*"))


def _left(stamp: Path) -> tuple[int, int]:
    """Return how many packs and loose objects the last repacking left; 0 where that is not known."""
    try:
        descriptor = os.open(stamp, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            packs, loose = map(int, os.read(descriptor, 100).split())
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return 0, 0
    return packs, loose
