"""Calls of the control API over its Unix socket, as a client of any kind makes them."""

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.daemon_process import DaemonProcess, StartDaemon

CONFIG = """\
[daemon]
state_dir = "state"
[control]
socket = "c.sock"
[agents.a]
command = ["sh", "-c", "echo hello; cat"]
max_concurrent = 100
[agents.a.schedules.declared]
every = "1h"
"""
SCHEDULES = "/agents/a/schedules"
HOURLY = {"name": "s", "interval_seconds": 3600}


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(str(self.path))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    data: bytes

    @property
    def body(self) -> Any:  # noqa: ANN401 - any JSON value
        return json.loads(self.data)

    @property
    def code(self) -> str:
        return str(self.body["code"])


def call(
    daemon: DaemonProcess,
    method: str,
    path: str,
    body: object = None,
    *,
    data: bytes | None = None,
    **headers: str,
) -> Answer:
    """Ask for something; `headers` have underscores for hyphens."""
    own = daemon.folder / "c.sock"
    connection = UnixConnection(own if own.exists() else daemon.state / "control.sock")
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        data = json.dumps(body).encode()
    if data is not None:
        sent.setdefault("Content-Type", "application/json")
    connection.request(method, path, body=data, headers=sent)
    response = connection.getresponse()
    answer = Answer(response.status, dict(response.getheaders()), response.read())
    connection.close()
    return answer


def create(daemon: DaemonProcess, **keys: object) -> dict[str, Any]:
    """Create a schedule, hourly and called `s` unless told otherwise."""
    answer = call(daemon, "POST", SCHEDULES, {**({} if "cron_expression" in keys else HOURLY), "name": "s", **keys})
    assert answer.status == 201, answer.data
    return dict(answer.body)


TOKEN = "sesame-street-123456"  # noqa: S105 - of these tests


def start_on_tcp(
    start_daemon: StartDaemon, folder: Path, port: int, listen: str = "127.0.0.1", slowed: str = ""
) -> DaemonProcess:
    (folder / "ci.token").write_text(f"{TOKEN}\n")
    control = f'[control]\nlisten = "{listen}:{port}"\ntokens = [{{ name = "ci", file = "ci.token" }}]\n'
    text = CONFIG.replace("[control]\n", control).replace("max_conc", 'allow = ["token:ci"]\nmax_conc')
    return start_daemon(text, slowed=slowed)
