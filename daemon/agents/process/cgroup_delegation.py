"""The cgroup that the service manager delegated to the daemon, and the cgroups of runs within it.

In cgroups(7) version 2 processes live only in leaves. So the daemon and its small processes move into the leaf
`daemon`, and each command run gets a leaf `run-NUMBER` beside it (systemd.resource-control(5), Delegate=). Without
delegation nothing is changed, and the processes of a run are found by descent and by the marker in their environment.
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
    """The delegated cgroup, ready for runs."""

    base: Path
    controllers: frozenset[str]
    """Which of memory, cpu and pids are enabled for runs."""

    def spec(self, run_id: int, settings: RunSettings) -> dict[str, Any]:
        """Return the part of a run's spec that has its supervisor put it into its own cgroup."""
        return {
            "path": self.path(run_id),
            "home": self.home,
            "memory_max": settings.memory_max,
            "cpu_quota": settings.cpu_quota,
            "tasks_max": settings.tasks_max,
        }

    @property
    def home(self) -> str:
        """The path of the cgroup of the daemon and its small processes."""
        return str(self.base / _LEAF)

    def path(self, run_id: int) -> str:
        """Return the path of a run's cgroup, whether or not it exists."""
        return str(self.base / f"run-{run_id}")

    def members(self) -> list[int]:
        """Return the pids of all processes in it, except those of the service manager (systemd's `.control`)."""
        _, names, _ = next(os.walk(self.base), ("", [], []))
        return [pid for name in names if not name.startswith(".") for pid in cgroup.members(str(self.base / name))]

    def restore_limits(self, run_id: int, settings: RunSettings) -> None:
        """Set the limits of an adopted run again: they are lost if controllers were off while no daemon ran."""
        cgroup.limit(self.path(run_id), settings.memory_max, settings.cpu_quota, settings.tasks_max)


def take_delegated() -> Cgroups | None:
    """Prepare the delegated cgroup for runs; return None if there is none, or no cgroup version 2 on this host."""
    own = _own()
    if own is None:
        return None
    base = next((one for one in (own, own.parent) if (one is own or own.name == _LEAF) and _is_delegated(one)), None)
    if base is None:
        return None
    for stale in base.glob("run-*"):
        cgroup.remove(str(stale))  # removes only empty ones: those of runs whose supervisor was killed
    try:
        _move_into_leaf(base)
        offered = set((base / "cgroup.controllers").read_text().split())
    except OSError as error:
        _LOG.warning("[daemon] Cannot create a cgroup for each run", cgroup=str(base), error=error.strerror)
        return None
    enabled = {name for name in _WANTED if name in offered and cgroup.write(str(base), *_enabling(name))}
    _LOG.info(
        "[daemon] Each run gets its own cgroup", cgroup=str(base), controllers=" ".join(sorted(enabled)) or "none"
    )
    return Cgroups(base, frozenset(enabled))


def _enabling(controller: str) -> tuple[str, str]:
    return "cgroup.subtree_control", f"+{controller}"


def _own() -> Path | None:
    """Return the folder of this process's cgroup, None if it cannot be found."""
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
    """Return whether systemd delegated a cgroup, which it marks with an extended attribute."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


def _move_into_leaf(base: Path) -> None:
    """Move every process out of the delegated cgroup itself, including those of an earlier daemon."""
    leaf = base / _LEAF
    leaf.mkdir(exist_ok=True)
    (leaf / "cgroup.procs").write_text(str(os.getpid()))
    for _ in range(_MOST_MOVES):  # processes forked meanwhile are found in the next round
        left = (base / "cgroup.procs").read_text().split()
        for pid in left:
            cgroup.write(str(leaf), "cgroup.procs", pid)
        if not left:
            break
