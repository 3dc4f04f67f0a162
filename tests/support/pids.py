"""A pid that belongs to another process by now, which the kernel arranges on request."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
can_choose_pids = os.getuid() == 0 and os.access(_LAST_PID, os.W_OK)
_TRIES = 10_000  # other processes fork, too

REUSE = f"""\
import os, signal
def reuse(wanted):
    for _ in range({_TRIES}):
        with open("{_LAST_PID}", "w") as stream:
            stream.write(str(wanted - 1))
        child = os.fork()
        if child == 0:
            if os.getpid() == wanted:
                signal.pause()
            os._exit(0)
        if child == wanted:
            return child
        os.waitpid(child, 0)
    raise RuntimeError("the pid is taken")
"""
"""Code that defines `reuse(pid)`: fork a process with that pid, which waits to be killed."""


@contextlib.contextmanager
def reused(pid: int) -> Iterator[None]:
    """Let another process of ours have a pid."""
    names: dict[str, object] = {}
    exec(REUSE, names)  # noqa: S102 - our own code, which agents run, too
    child: int = names["reuse"](pid)  # type: ignore[operator]
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
