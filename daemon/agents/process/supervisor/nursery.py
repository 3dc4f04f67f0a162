"""The nursery: a prewarmed interpreter without state that only forks supervisors.

Over its control socket (standard input) it gets one end of a socketpair for each run. It ends with the daemon that
started it; the supervisors continue.
"""

import gc
import os
import resource
import signal
import socket
import sys

from .supervisor import supervise


def serve(open_files: int) -> None:
    """Fork a supervisor for every descriptor that arrives, until the daemon has ended.

    `open_files` is the soft limit of RLIMIT_NOFILE for agents: the daemon's own is more than select(2) can handle.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies of supervisors that end
    control = socket.socket(fileno=0)
    gc.freeze()  # a collection in a supervisor would copy the pages that all of them share
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # noqa: FBT003 - the command must not inherit it
            _fork(control, descriptor)


def _fork(control: socket.socket, descriptor: int) -> None:
    try:
        child = os.fork()
    except OSError as error:  # out of processes: the daemon sees the closed socket and retries later
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
