"""The client of the control API, against what listens there without a daemon's answers."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.cli import connection as connection_module
from daemon.cli.client import Client
from daemon.config.loading import load_config
from daemon.errors import AgentcronError, DaemonUnreachableError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
PIECES = {
    "one byte of the status": (b"", b"H"),
    "1xx": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers": (HEAD, b"X"),
    "body": (HEAD + b"Content-Length: 1000\r\n\r\n{", b" "),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: y\r\n"),
    "body of a refusal": (b"HTTP/1.1 409 Conflict\r\nContent-Length: 1000\r\n\r\n{", b" "),
}
"""What a hostile daemon sends first, then again and again."""


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        yield listener


@pytest.fixture
def client_of(tmp_path: Path) -> Callable[[float], Client]:
    (tmp_path / "config.toml").write_text("[agents.a]\ncommand = ['true']\n")
    return lambda timeout: Client(load_config(tmp_path / "config.toml"), timeout, tmp_path / "s")


@contextlib.contextmanager
def sending(listener: socket.socket, first: bytes, then: bytes, pause: float) -> Iterator[None]:
    """Send something to whoever connects first, then more until they leave or the test has waited long enough."""
    ended = threading.Event()

    def serve() -> None:
        with listener.accept()[0] as connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            connection.sendall(first)
            for _ in itertools.takewhile(lambda _: not ended.wait(pause), range(30 if pause else 10_000)):
                connection.sendall(then)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_nothing_is_sent_to_a_daemon_that_hangs_but_whether_it_responds(
    listener: socket.socket, client_of: Callable[[float], Client]
) -> None:
    with pytest.raises(DaemonUnreachableError, match="does not respond, and nothing was changed"):
        client_of(1).ask("POST", "/agents/a/schedules/s/trigger")
    asked = listener.accept()[0].recv(4096)
    assert asked.startswith(b"GET /healthz ")


@pytest.mark.parametrize("kind", PIECES)
def test_a_daemon_that_sends_piece_by_piece_is_given_up_in_time(
    listener: socket.socket, client_of: Callable[[float], Client], kind: str
) -> None:
    started = time.monotonic()
    expected = r"timed out|the daemon returned 409"
    with sending(listener, *PIECES[kind], pause=0.1), pytest.raises(AgentcronError, match=expected):
        client_of(0.5).get("/status")
    assert time.monotonic() - started < 2  # the daemon sends for 3 s


def test_nothing_is_sent_to_a_daemon_that_never_ends_to_say_whether_it_responds(
    listener: socket.socket, client_of: Callable[[float], Client]
) -> None:
    with (
        sending(listener, *PIECES["body"], pause=0.1),
        pytest.raises(DaemonUnreachableError, match="does not respond, and nothing was changed"),
    ):
        client_of(0.5).ask("POST", "/runs/1/cancel")


@pytest.mark.parametrize("kind", ["1xx", "chunks", "trailers"])
def test_a_daemon_that_sends_without_end_is_given_up_before_much_has_come(
    listener: socket.socket, client_of: Callable[[float], Client], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "_LARGEST_RESPONSE", 100_000)
    first, then = PIECES[kind]
    with (
        sending(listener, first, then * 100, pause=0),
        pytest.raises(DaemonUnreachableError, match="sent more than"),
    ):
        client_of(60).get("/status")


def test_a_stream_takes_any_time_once_it_has_begun(
    listener: socket.socket, client_of: Callable[[float], Client]
) -> None:
    with sending(listener, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", pause=0.1):
        output = client_of(0.3).stream("/runs/1/output?follow=true")
        assert b"".join(itertools.islice(output, 8)) == b" " * 8
