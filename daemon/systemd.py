"""The service manager's notification protocol (sd_notify(3)): a datagram to `$NOTIFY_SOCKET`."""

import os
import socket


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


def watchdog_interval() -> float | None:
    """Return the seconds between two watchdog messages (half of what systemd allows), None if it asks for none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2e6
