"""The cgroup that the service manager delegated to the daemon, and what the daemon makes of it.

cgroups(7), version 2: processes live in leaves only. So the daemon and its small processes move into the leaf `daemon`,
and each run of a command gets a leaf `run-NUMBER` beside it (systemd.resource-control(5), Delegate=). Without
delegation nothing is touched, and runs are owned by descent and mark alone.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from daemon.agents.base import RunSettings
from daemon.agents.process.supervisor import cgroup

_LOG = structlog.get_logger()
_LEAF = "daemon"
_MOST_MOVES = 20
_WANTED = ("memory", "cpu", "pids")


@dataclass(frozen=True)
class Cgroups:
    """The delegated cgroup, prepared."""

    base: Path
    controllers: frozenset[str]
    """Which of memory, cpu and pids count and limit runs."""

    def spec(self, run_id: int, settings: RunSettings) -> dict[str, Any]:
        """Return what a supervisor needs to know to put a run into a cgroup of its own."""
        return {
            "path": self.path(run_id),
            "home": str(self.base / _LEAF),
            "memory_max": settings.memory_max,
            "cpu_quota": settings.cpu_quota,
        }

    def path(self, run_id: int) -> str:
        """Return the cgroup of a run, whether or not it is there."""
        return str(self.base / f"run-{run_id}")

    def limit_again(self, run_id: int, settings: RunSettings) -> None:
        """Set the limits of a run that goes on: where controllers were off while no daemon ran, they are gone."""
        cgroup.limit(self.path(run_id), settings.memory_max, settings.cpu_quota)


def take_delegated() -> Cgroups | None:
    """Prepare the delegated cgroup for runs; None if none is delegated, or this host has no cgroups of version 2."""
    own = _own()
    if own is None:
        return None
    base = next((one for one in (own, own.parent) if (one is own or own.name == _LEAF) and _is_delegated(one)), None)
    if base is None:
        return None
    for stale in base.glob("run-*"):
        cgroup.remove(str(stale))  # one that is empty, of a run whose supervisor was killed
    try:
        _move_into_leaf(base)
        offered = set((base / "cgroup.controllers").read_text().split())
    except OSError as error:
        _LOG.warning("[daemon] Runs get no cgroups of their own", cgroup=str(base), error=error.strerror)
        return None
    enabled = {name for name in _WANTED if name in offered and cgroup.write(str(base), *_enabling(name))}
    _LOG.info("[daemon] Each run gets a cgroup", cgroup=str(base), controllers=" ".join(sorted(enabled)) or "none")
    return Cgroups(base, frozenset(enabled))


def _enabling(controller: str) -> tuple[str, str]:
    return "cgroup.subtree_control", f"+{controller}"


def _own() -> Path | None:
    """Return the folder of this process's cgroup."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        within = next(line for line in lines if line.startswith("0::")).removeprefix("0::")
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            mount, _, system = line.partition(" - ")
            if system.split()[0] == "cgroup2":
                root, point = mount.split()[3:5]
                return Path(point) / Path(within).relative_to(root)
    return None


def _is_delegated(folder: Path) -> bool:
    """Tell whether systemd handed a cgroup over to the service in it, which it marks with an attribute."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _move_into_leaf(base: Path) -> None:
    """Leave the delegated cgroup itself without processes: those of an earlier daemon come along."""
    leaf = base / _LEAF
    leaf.mkdir(exist_ok=True)
    (leaf / "cgroup.procs").write_text(str(os.getpid()))
    for _ in range(_MOST_MOVES):  # what forks meanwhile is found at the next look
        left = (base / "cgroup.procs").read_text().split()
        for pid in left:
            cgroup.write(str(leaf), "cgroup.procs", pid)
        if not left:
            break
