"""The cgroup of one run (cgroups(7), version 2): it kills everything in it at once, and counts what that used.

Nothing here raises: without a cgroup, or if somebody else broke it, the run's processes are still found by descent.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

_PERIOD = 100_000  # microseconds, the kernel's own default for cpu.max


class Cgroup:
    """A run's cgroup, or none; created when the command starts, removed when no process is left in it."""

    def __init__(self, spec: dict[str, Any] | None) -> None:
        self._spec = spec
        self._path: str = spec["path"] if spec else ""

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Have what is started within the block start in the cgroup; this process is in it only during the block.

        The limits are set afterwards, so that they cannot hit this process; they also cover what was used before.
        """
        if self._spec is None:
            yield
            return
        with contextlib.suppress(OSError):
            os.mkdir(self._path)
        self._write("memory.oom.group", "0")  # an earlier attempt may have left it at 1
        write(self._path, "cgroup.procs", str(os.getpid()))
        try:
            yield
        finally:
            self._leave()
            if self._spec is not None:
                tasks_max = self._spec.get("tasks_max")  # a daemon of an earlier version sends none
                limit(self._path, self._spec["memory_max"], self._spec["cpu_quota"], tasks_max)

    def _leave(self) -> None:
        """Move this process back to the daemon's cgroup; if that fails, do without a cgroup for this run."""
        home: str = self._spec["home"] if self._spec else ""
        with contextlib.suppress(OSError):
            os.mkdir(home)  # systemd may have removed it while it was empty
        if not write(home, "cgroup.procs", str(os.getpid())):
            self._spec = None

    def kill(self) -> None:
        """Send SIGKILL to every process in it, including those forked meanwhile (cgroup.kill, Linux 5.14)."""
        self._write("cgroup.kill", "1")

    def usage(self) -> dict[str, Any]:
        """Return what the run used, as far as the host counts it: `memory_peak`, `cpu_seconds`, `oom_kills`."""
        if self._spec is None:
            return {}
        used: dict[str, Any] = {}
        peak = _read(self._path, "memory.peak").strip()
        if peak.isdigit():
            used["memory_peak"] = int(peak)
        counts = dict(line.split(" ", 1) for line in _read(self._path, "cpu.stat").splitlines())
        if "usage_usec" in counts:
            used["cpu_seconds"] = int(counts["usage_usec"]) / 1e6
        events = dict(line.split(" ", 1) for line in _read(self._path, "memory.events").splitlines())
        used["oom_kills"] = int(events.get("oom_kill", 0))
        return used

    def remove(self) -> None:
        """Remove it and the cgroups within it; those that are not empty stay."""
        if self._spec is not None:
            remove(self._path)

    def _write(self, name: str, text: str) -> None:
        if self._spec is not None:
            write(self._path, name, text)


def limit(path: str, memory_max: int | None, cpu_quota: float | None, tasks_max: int | None) -> None:
    """Set the limits of a run: bytes, CPUs (2.0 is two), and processes with threads; None is no limit.

    When memory runs out, in the run or on the host, the kernel kills the run as a whole (memory.oom.group).
    """
    write(path, "memory.oom.group", "1")
    write(path, "memory.max", "max" if memory_max is None else str(memory_max))
    write(path, "cpu.max", f"{'max' if cpu_quota is None else round(cpu_quota * _PERIOD)} {_PERIOD}")
    write(path, "pids.max", "max" if tasks_max is None else str(tasks_max))


def members(path: str) -> list[int]:
    """Return the pids of all processes in a cgroup and in those below it."""
    return [int(pid) for folder, _, _ in os.walk(path) for pid in _read(folder, "cgroup.procs").split()]


def remove(path: str) -> None:
    """Remove a cgroup and those below it, if they are empty."""
    for folder, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def write(path: str, name: str, text: str) -> bool:
    """Write to a file of a cgroup; return whether the kernel accepted it."""
    try:
        descriptor = os.open(os.path.join(path, name), os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, text.encode())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _read(path: str, name: str) -> str:
    try:
        with open(os.path.join(path, name)) as stream:
            return stream.read()
    except OSError:
        return ""
