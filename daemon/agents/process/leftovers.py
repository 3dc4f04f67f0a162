"""What is left of a run whose supervisor has ended: found wherever it went, and ended.

A supervisor that ends by itself leaves nothing. One that was killed leaves processes, which are found by the marker in
their environment, by the run's cgroup, as children of the nursery, and as strangers elsewhere in the delegated cgroup.
None of these depends on what the records say.
"""

import asyncio
import os
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from daemon.agents.base import Identity, Work
from daemon.agents.process.cgroup_delegation import Cgroups
from daemon.agents.process.launcher import Nursery, living_supervisors
from daemon.agents.process.supervisor import cgroup, tree

_KILLED_WAIT = 5.0  # seconds; on a busy host even a killed process takes a moment to end


class Leftovers(NamedTuple):
    """How many processes were killed."""

    known: int
    """They had the run's marker, or were in its cgroup."""
    presumed: int
    """No living supervisor and no part of the daemon started them: some supervisor left them when it was killed."""

    @property
    def total(self) -> int:
        """How many there were in all."""
        return self.known + self.presumed


NOTHING = Leftovers(0, 0)


async def end_leftovers(work: Work, supervisor: Identity, nursery: Nursery, cgroups: Cgroups | None) -> Leftovers:
    """Kill the processes that a supervisor of this boot left behind."""
    orphans = await nursery.kill_orphans()
    return await asyncio.to_thread(_end, work, supervisor, orphans, cgroups)


def _end(work: Work, supervisor: Identity, orphans: Collection[tree.Process], cgroups: Cgroups | None) -> Leftovers:
    place = cgroups.path(work.run_id) if cgroups else None
    mark = f"AGENTCRON_IDEMPOTENCY_KEY={work.idempotency_key}".encode()

    def known() -> list[tree.Process]:
        return [*tree.marked(mark), *tree.alive(cgroup.members(place) if place else ())]

    def presumed() -> list[tree.Process]:
        return _strangers(cgroups, work.run_dir.parent.parent, supervisor.started) if cgroups else []

    found = set(known())
    if place is not None:
        cgroup.write(place, "cgroup.kill", "1")
    found |= tree.kill(known)
    others = {*orphans, *tree.kill(presumed)} - found
    tree.wait_for_end(found | others, _KILLED_WAIT)
    if place is not None:
        cgroup.remove(place)
    return Leftovers(len(found), len(others))


def _strangers(cgroups: Cgroups, state_dir: Path, since: int) -> list[tree.Process]:
    """Return what moved to another delegated cgroup: neither the daemon nor a living supervisor started it."""
    families = (os.getpid(), *(one.process.pid for one in living_supervisors(state_dir)))
    return tree.strangers(cgroups.members(), families, since)


def has_cgroup(run_id: int, cgroups: Cgroups | None) -> bool:
    """Return whether the cgroup of a run is still there; its supervisor removes it once it is empty."""
    return cgroups is not None and Path(cgroups.path(run_id)).exists()
