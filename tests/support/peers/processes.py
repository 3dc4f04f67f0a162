"""Peers as real processes on loopback."""

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.waiting import wait_until

_IMPORTS = 60.0  # seconds; some SDKs take a while


_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
_PORTS = itertools.count(20_000 + 1000 * (_WORKER % 10) + os.getpid() % 700)


def free_port() -> int:
    """Return a TCP port that nobody listens on, of this worker's own and none that the kernel gives away by itself."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError


@dataclass
class Peer:
    """A server under test conditions, and what it was sent."""

    port: int
    log: Path
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def requests(self) -> list[dict[str, Any]]:
        """Return what was logged so far, a JSON object a request."""
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait(20)


@contextlib.contextmanager
def peer(
    folder: Path, module: str, *arguments: str, python: str = sys.executable, port: int | None = None, **env: str
) -> Iterator[Peer]:
    """Run `tests/support/peers/MODULE.py PORT ...` until the end of the block; give it once it listens."""
    port = port or free_port()
    log = folder / f"peer-{module}-{port}.jsonl"
    script = Path(__file__).parent / f"{module}.py"
    process = subprocess.Popen(
        [python, str(script), str(port), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=(folder / f"peer-{module}-{port}.log").open("wb"),
        env={**os.environ, "PEER_LOG": str(log), **env},
    )
    found = Peer(port, log, process)
    try:
        wait_until(lambda: _listens(found), deadline=_IMPORTS, what=f"{module} listens")
        yield found
    finally:
        if process.poll() is None:
            found.end()


def _listens(found: Peer) -> bool:
    if found.process.poll() is not None:
        raise AssertionError(f"the peer ended with status {found.process.returncode}")
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", found.port)) == 0
