"""Talk to the service manager: sd_notify(3) datagrams to `$NOTIFY_SOCKET`, and what it sets in the environment."""

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator

_EXTEND_EVERY = 20.0  # seconds
_EXTEND_BY = 60.0  # seconds
_LONGEST_SEND = 0.2  # seconds that a service manager with a full queue may hold us up

_said_ready = threading.Event()
"""Set by the first `READY=1`, from which on systemd's watchdog expects to hear from us."""


def notify(*assignments: str) -> None:
    """Send each `NAME=value` to systemd; do nothing outside a service; never raise."""
    if "READY=1" in assignments:
        _said_ready.set()
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "@/":
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.settimeout(_LONGEST_SEND)
        try:
            channel.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
            channel.send("\n".join(assignments).encode())
        except OSError:  # a failing service manager must not stop the daemon
            return


def more_time(seconds: float) -> str:
    """Return the assignment that extends systemd's timeout for a start or a stop to so many seconds from now."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


@contextlib.asynccontextmanager
async def starting() -> AsyncIterator[None]:
    """Keep extending systemd's start timeout during the block: migrating a large database takes long.

    After the first `READY=1`, as of a start that waits for a full disk, also keep its watchdog quiet; before that,
    `WATCHDOG=1` would arm it.
    """
    pause = min(_EXTEND_EVERY, watchdog_interval() or _EXTEND_EVERY)

    async def extend() -> None:
        while True:
            if _said_ready.is_set():
                notify("WATCHDOG=1")
            await asyncio.sleep(pause)
            notify(more_time(_EXTEND_BY))

    extending = asyncio.create_task(extend())
    try:
        yield
    finally:
        extending.cancel()


def watchdog_interval() -> float | None:
    """Return the seconds between two watchdog messages (half of what systemd allows), None if it expects none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2e6


def is_journal(descriptor: int) -> bool:
    """Return whether a descriptor is connected to the journal (systemd.exec(5), `$JOURNAL_STREAM`)."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
