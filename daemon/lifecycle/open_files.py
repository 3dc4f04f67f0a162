"""The limit on open files: the daemon raises its own, and agents keep the original one."""

import resource

from daemon.errors import RefusedError

_MOST = 65536
_LEAST = 64


def raise_open_files() -> int:
    """Raise this process's limit on open files, as systemd advises for servers; return the original soft limit.

    Raise RefusedError if the hard limit is too low to work at all.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _LEAST:
        raise RefusedError(
            f"this process may open only {hard} files, but agentcron needs at least {_LEAST}; "
            "raise the limit (LimitNOFILE= of the service, ulimit -n)"
        )
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(_MOST, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft
