"""How many files the daemon may have open, and what its agents get instead."""

import resource

_MOST = 65536


def most_connections() -> int:
    """Return how many clients one socket may have at once: runs, the database and the other socket need files, too."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4


def raise_open_files() -> int:
    """Let this process open many files, as systemd advises for servers; return the limit that programs expect."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(_MOST, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft
