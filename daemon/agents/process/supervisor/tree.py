"""Tools that find process trees, by descent or by a marker, and signal them; `supervisor.py` decides when one ends."""

import os
import select
import signal
import struct
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")  # per second
_PACKED = struct.Struct("=qq")
_LONGEST_STAT = 4096  # bytes of /proc/PID/stat: 52 numbers and a name


class Process(NamedTuple):
    """A process; its start time (clock ticks since boot, proc(5)) tells it from a later one with the same pid."""

    pid: int
    started: int


def packed(processes: Iterable[Process]) -> bytes:
    """Return processes as bytes."""
    return b"".join(_PACKED.pack(*process) for process in processes)


def unpacked(data: bytes) -> list[Process]:
    """Return the processes in what `packed` returned, as far as it is complete."""
    whole = len(data) - len(data) % _PACKED.size
    return [Process(*pair) for pair in _PACKED.iter_unpack(data[:whole])]


class _Stat(NamedTuple):
    parent: int
    state: str
    started: int


def start_of(pid: int) -> int | None:
    """Return when a process started, None if it does not exist or is a zombie."""
    stat = _stat(pid)
    return None if stat is None or stat.state in "ZX" else stat.started


def parent_of(pid: int) -> tuple[Process, int] | None:
    """Return a process and the pid of its parent, None if it does not exist."""
    stat = _stat(pid)
    return None if stat is None else (Process(pid, stat.started), stat.parent)


def descendants(root: int) -> list[Process]:
    """Return all living descendants of a process."""
    return _below([root], _all_stats())


def now() -> int:
    """Return the current time in the unit in which the start of processes is measured."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * _TICKS // 1_000_000_000


def orphans(own: dict[int, range]) -> list[Process]:
    """Return the living descendants of this process, without its children in `own` and what they started.

    `own` has by pid when the child may have started. What is returned became a descendant when a child died that had
    started it, if this process is a child subreaper (prctl(2)).
    """
    stats = _all_stats()
    others = {pid for pid, starts in own.items() if pid in stats and stats[pid].started in starts}
    children = [pid for pid, stat in stats.items() if stat.parent == os.getpid() and pid not in others]
    living = [Process(pid, stats[pid].started) for pid in children if stats[pid].state not in "ZX"]
    return living + _below(children, stats)


def strangers(pids: Iterable[int], families: Iterable[int], since: int) -> list[Process]:
    """Return those processes that none of the families, each given by its root, started, and that are not older.

    What counts is the age of the topmost ancestor among `pids`: `since` is in clock ticks since boot.
    """
    stats, roots = _all_stats(), list(families)
    among = set(pids) & stats.keys()
    foreign = among - set(roots) - {process.pid for process in _below(roots, stats)}
    return [
        Process(pid, stats[pid].started)
        for pid in foreign
        if stats[pid].state not in "ZX" and stats[_topmost(pid, among, stats)].started >= since
    ]


def _topmost(pid: int, among: set[int], stats: dict[int, _Stat]) -> int:
    """Return the first ancestor of a process whose own parent is not in a set, following parents that are."""
    seen = {pid}
    while (parent := stats[pid].parent) in among and parent not in seen:
        pid = parent
        seen.add(pid)
    return pid


def _below(roots: list[int], stats: dict[int, _Stat]) -> list[Process]:
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    found, waiting = [], roots
    while waiting:
        below = children.get(waiting.pop(), [])
        waiting += below
        found += [Process(pid, stats[pid].started) for pid in below if stats[pid].state not in "ZX"]
    return found


def marked(mark: bytes) -> list[Process]:
    """Return the living processes whose environment holds the entry `mark` (`NAME=VALUE`), and their descendants."""
    stats = _all_stats()
    bearers = [pid for pid, stat in stats.items() if stat.state not in "ZX" and mark in _environment(pid)]
    found = {Process(pid, stats[pid].started) for pid in bearers} | set(_below(bearers, stats))
    return [process for process in found if process.pid != os.getpid()]


def alive(pids: Iterable[int]) -> list[Process]:
    """Return those of the given processes that are alive."""
    starts = {pid: start_of(pid) for pid in pids}
    return [Process(pid, started) for pid, started in starts.items() if started is not None]


def open_exactly(process: Process) -> int | None:
    """Return a descriptor of exactly this process (pidfd_open(2)), never of a later one; None if it has ended."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return None
    if start_of(process.pid) != process.started:
        os.close(descriptor)
        return None
    return descriptor


def send(process: Process, number: int) -> bool:
    """Signal exactly this process, never a later one with its pid; return whether it existed."""
    descriptor = open_exactly(process)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def terminate(processes: list[Process]) -> None:
    """Send SIGTERM to processes, and SIGCONT so that stopped ones handle it."""
    for process in processes:
        send(process, signal.SIGTERM)
        send(process, signal.SIGCONT)


def kill(find: Callable[[], list[Process]]) -> set[Process]:
    """Kill all that `find` returns and return them; they are stopped first, so that none can fork in between."""
    stopped: set[Process] = set()
    while fresh := set(find()) - stopped:
        for process in fresh:
            send(process, signal.SIGSTOP)
        stopped |= fresh
        if len(stopped) > 100_000:  # noqa: PLR2004 - more than a host has; a loop that cannot win must end
            break
    for process in stopped:
        send(process, signal.SIGKILL)
    return stopped


def wait_for_end(processes: Iterable[Process], seconds: float) -> bool:
    """Wait at most so many seconds for processes to end; return whether all have."""
    deadline = time.monotonic() + seconds
    return all(_has_ended(process, deadline) for process in processes)


def _has_ended(process: Process, deadline: float) -> bool:
    descriptor = open_exactly(process)
    if descriptor is None:
        return True
    try:
        end = select.poll()
        end.register(descriptor, select.POLLIN)
        return bool(end.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        os.close(descriptor)


def _all_stats() -> dict[int, _Stat]:
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = _stat(int(name))
            if stat is not None:
                found[int(name)] = stat
    return found


def _stat(pid: int) -> _Stat | None:
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)  # half the system calls of open()
    except OSError:
        return None
    try:
        fields = os.read(descriptor, _LONGEST_STAT).rpartition(b")")[2].split()
    except OSError:  # it has just ended
        return None
    finally:
        os.close(descriptor)
    return _Stat(int(fields[1]), fields[0].decode(), int(fields[19])) if len(fields) > 19 else None  # noqa: PLR2004


def _environment(pid: int) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            return stream.read().split(b"\0")
    except OSError:
        return []
