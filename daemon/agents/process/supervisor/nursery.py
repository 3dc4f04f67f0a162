"""The nursery: a prewarmed interpreter without state that only forks supervisors.

It gets one end of a socketpair for each run over its control socket (standard input), and ends with the daemon that
started it. The supervisors live on.
"""

import gc
import os
import resource
import signal
import socket
import sys

from .supervisor import supervise


def serve(open_files: int) -> None:
    """Fork a supervisor for every descriptor that arrives, until the daemon is gone.

    `open_files` is the soft limit of RLIMIT_NOFILE for agents: the daemon's own is higher than what select(2) bears.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors that end are nobody's zombies
    control = socket.socket(fileno=0)
    gc.freeze()  # a collection in a supervisor would copy the pages that it shares with all others
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # noqa: FBT003 - the command must not get it
            _fork(control, descriptor)


def _fork(control: socket.socket, descriptor: int) -> None:
    try:
        child = os.fork()
    except OSError as error:  # no process to be had: the daemon sees the closed socket and tries again later
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
