"""The client of the control API, against what listens there without a daemon's answers."""

import socket
from pathlib import Path

import pytest

from daemon.cli.client import Client
from daemon.config.loading import load_config
from daemon.errors import DaemonUnreachableError


def test_nothing_is_sent_to_a_daemon_that_hangs_but_whether_it_responds(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[agents.a]\ncommand = ['true']\n")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        client = Client(load_config(tmp_path / "config.toml"), 1, tmp_path / "s")
        with pytest.raises(DaemonUnreachableError, match="does not respond, and nothing was changed"):
            client.ask("POST", "/agents/a/schedules/s/trigger")
        asked = listener.accept()[0].recv(4096)
        assert asked.startswith(b"GET /healthz ")
