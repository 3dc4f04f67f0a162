"""The nursery: a prewarmed interpreter that forks supervisors, and ends what a killed one leaves.

Over its control socket (standard input) it gets one end of a socketpair for each request. It ends with the daemon that
started it; the supervisors continue.

As a child subreaper (prctl(2)) it becomes the parent of what a killed supervisor leaves, even of processes that have
another session, another cgroup and an empty environment.
"""

import contextlib
import gc
import os
import resource
import signal
import socket
import sys

from . import tree
from .prctl import become_subreaper
from .supervisor import supervise

FORK = b"f"
KILL_ORPHANS = b"k"
_REMEMBERED = 1024  # supervisors, before those that have ended are forgotten


def serve(open_files: int) -> None:
    """Serve the request that arrives with each descriptor, until the daemon has ended.

    `open_files` is the soft limit of RLIMIT_NOFILE for agents: the daemon's own is more than select(2) can handle.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies of supervisors that end
    become_subreaper()
    control = socket.socket(fileno=0)
    supervisors: dict[int, range] = {}  # pid: when it may have started
    most = _REMEMBERED
    gc.freeze()  # a collection in a supervisor would copy the pages that all of them share
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # noqa: FBT003 - the command must not inherit it
            if message == KILL_ORPHANS:
                _kill_orphans(supervisors, socket.socket(fileno=descriptor))
            else:
                _fork(control, descriptor, supervisors)
        if len(supervisors) > most:
            most = _forget_ended(supervisors)


def _kill_orphans(supervisors: dict[int, range], channel: socket.socket) -> None:
    """Kill what killed supervisors left, and send back what that was; nothing forks supervisors meanwhile."""
    killed = tree.kill(lambda: tree.orphans(supervisors))
    with channel, contextlib.suppress(OSError):
        channel.sendall(tree.packed(killed))


def _fork(control: socket.socket, descriptor: int, supervisors: dict[int, range]) -> None:
    before = tree.now()
    try:
        child = os.fork()
    except OSError as error:  # out of processes: the daemon sees the closed socket and retries later
        with contextlib.suppress(OSError):  # nobody reads it
            print(f"agentcron nursery: cannot fork: {error.strerror}", file=sys.stderr)  # noqa: T201
        child = -1
    if child == 0:
        control.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        code = 1
        try:
            supervise(socket.socket(fileno=descriptor))
            code = 0
        finally:
            os._exit(code)
    os.close(descriptor)
    if child > 0:
        supervisors[child] = range(before, tree.now() + 1)


def _forget_ended(supervisors: dict[int, range]) -> int:
    """Forget the supervisors that have ended; return how many may be remembered before this is worth a look again."""
    for pid, starts in list(supervisors.items()):
        if tree.start_of(pid) not in starts:
            del supervisors[pid]
    return max(_REMEMBERED, 2 * len(supervisors))
