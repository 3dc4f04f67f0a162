"""The service manager's notification protocol (sd_notify(3)): a datagram to `$NOTIFY_SOCKET`."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

_ASK_EVERY = 20.0  # seconds
_AT_A_TIME = 60.0  # seconds


def notify(*assignments: str) -> None:
    """Tell systemd each `NAME=value`; do nothing outside a service, and never fail for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "@/":
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
            channel.send("\n".join(assignments).encode())
        except OSError:  # a manager that went away must not take the daemon with it
            return


def more_time(seconds: float) -> str:
    """Return the assignment that has systemd wait so many seconds from now for a start or a stop to end."""
    return f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}"


@contextlib.asynccontextmanager
async def starting() -> AsyncIterator[None]:
    """Have systemd wait as long as the block takes: a large database is migrated for as long as that needs."""

    async def ask() -> None:
        while True:
            await asyncio.sleep(_ASK_EVERY)
            notify(more_time(_AT_A_TIME))

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()


def watchdog_interval() -> float | None:
    """Return the seconds between two watchdog messages (half of what systemd allows), None if it asks for none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2e6


def is_journal(descriptor: int) -> bool:
    """Tell whether a descriptor leads to the journal (systemd.exec(5), `$JOURNAL_STREAM`)."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"
