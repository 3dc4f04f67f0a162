"""Repack the mirror of an environment when fetches have left many packs or loose objects, which make clones slow.

Standard library only: the helper process imports this.
"""

from pathlib import Path

from daemon.workspaces.layout import ENVIRONMENTS, MIRROR

_MOST_PACKS = 20
_MOST_LOOSE = 500  # objects
GC = (*("-c", "pack.threads=1"), *("-c", "pack.windowMemory=64m"), "gc", "--quiet", "--prune=2.weeks.ago")
"""The command that repacks. Objects that no ref reaches stay for a while: a cleanup may be about to keep them."""


def is_due(state_dir: Path, environment: str) -> bool:
    """Return whether a mirror should be repacked."""
    objects = state_dir / ENVIRONMENTS / environment / MIRROR / "objects"
    packs = sum(1 for _ in objects.glob("pack/*.pack"))
    return packs > _MOST_PACKS or sum(1 for _ in objects.glob("[0-9a-f][0-9a-f]/*")) > _MOST_LOOSE
