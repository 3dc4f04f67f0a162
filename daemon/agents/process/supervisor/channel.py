"""The socketpair between the daemon and a supervisor: the hello, the spec, and what the supervisor reports."""

import contextlib
import json
import socket
import struct
from typing import Any

LENGTH = struct.Struct(">I")  # length prefix of the spec; after a partial message nothing is started
STARTED = b"s"  # sent before the command is started
ENDED = b"e"  # sent after the exit record, if no process of the run is left
_LARGEST_SPEC = 64 * 1024 * 1024
_CHUNK = 64 * 1024


def receive_spec(channel: socket.socket) -> dict[str, Any] | None:
    """Return the spec, None if the daemon ended before it was complete."""
    header = _read_exactly(channel, LENGTH.size)
    if header is None or LENGTH.unpack(header)[0] > _LARGEST_SPEC:
        return None
    body = _read_exactly(channel, LENGTH.unpack(header)[0])
    spec: dict[str, Any] | None = None if body is None else json.loads(body)
    return spec


def _read_exactly(channel: socket.socket, length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        try:
            part = channel.recv(min(_CHUNK, length - len(data)))
        except OSError:
            return None
        if not part:
            return None
        data += part
    return bytes(data)


def tell(channel: socket.socket, what: bytes) -> None:
    """Report STARTED or ENDED to the daemon, if there is one."""
    with contextlib.suppress(OSError):  # no daemon; the next one adopts the run
        channel.sendall(what)
