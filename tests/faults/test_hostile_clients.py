"""Clients that do not read, do not send, or send far too much: neither memory nor fires nor others suffer."""

import contextlib
import http.client
import json
import re
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api import SCHEDULES, call, create
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.ledger import assert_the_ledger_is_exact
from tests.support.peers.processes import free_port
from tests.support.waiting import wait_until

IMPATIENT = """
from daemon.api.flow import FlowControl
FlowControl._patience = 0.5
"""
UNKNOWN_KEYS = b"{" + b",".join(b'"%x":0' % number for number in range(104_000)) + b"}"
TOKEN = "a-token-of-these-tests-alone"  # noqa: S105 - of these tests
CONFIG = """\
[control]
socket = "c.sock"
listen = "127.0.0.1:{port}"
tokens = [{{ name = "t", file = "t" }}]
[agents.tick]
command = ["true"]
[agents.tick.schedules.s]
every = "1s"
[agents.a]
command = ["sleep", "60"]
allow = ["token:t"]
max_concurrent = 1
[agents.a.schedules.declared]
every = "7d"
"""


@pytest.fixture
def port(tmp_path: Path) -> int:
    (tmp_path / "t").write_text(TOKEN)
    return free_port()


@pytest.fixture
def clients() -> Iterator[contextlib.ExitStack]:
    """What holds the connections of a test open until its end."""
    with contextlib.ExitStack() as stack:
        yield stack


def head(method: str, path: str, size: int = 0, token: str | None = TOKEN) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += ["Content-Type: application/json", f"Content-Length: {size}"] if size else []
    return "\r\n".join([*lines, "", ""]).encode()


def unread(clients: contextlib.ExitStack, port: int, request: bytes) -> socket.socket:
    """Send as much of a request as the daemon takes, and read nothing."""
    client = clients.enter_context(contextlib.closing(socket.socket()))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that the daemon has to keep what is not read
    client.connect(("127.0.0.1", port))
    client.settimeout(2)
    with contextlib.suppress(OSError):
        client.sendall(request)
    return client


def memory(daemon: DaemonProcess) -> float:
    """Return the daemon's resident memory in MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{daemon.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def large_schedules(daemon: DaemonProcess, count: int) -> None:
    for number in range(count):
        create(daemon, name=f"large{number}", initial_input={"content": "x" * 1_000_000})


def is_over(client: socket.socket) -> bool:
    """Return whether the other side has closed a connection."""
    with contextlib.suppress(TimeoutError):
        try:
            return client.recv(65536) == b""
        except ConnectionError:
            return True
    return False


def test_a_client_that_does_not_take_its_answer_loses_the_connection(
    start_daemon: StartDaemon, clients: contextlib.ExitStack, port: int
) -> None:
    daemon = start_daemon(CONFIG.format(port=port), slowed=IMPATIENT)
    large_schedules(daemon, 1)
    client = unread(clients, port, head("GET", f"{SCHEDULES}/large0"))
    daemon.wait_for_log("[control] Connection closed: the client did not take its answer")
    wait_until(lambda: is_over(client))


def test_a_connection_that_is_being_closed_does_not_wait_for_its_client_for_ever(
    start_daemon: StartDaemon, clients: contextlib.ExitStack, port: int
) -> None:
    daemon = start_daemon(CONFIG.format(port=port), slowed=IMPATIENT)
    large_schedules(daemon, 1)
    closing = head("GET", f"{SCHEDULES}/large0").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    unread(clients, port, closing)
    daemon.wait_for_log("[control] Connection closed: the client did not take its answer")


def test_a_client_that_takes_its_answer_slowly_gets_all_of_it(
    start_daemon: StartDaemon, clients: contextlib.ExitStack, port: int
) -> None:
    daemon = start_daemon(CONFIG.format(port=port))
    large_schedules(daemon, 1)
    client = unread(clients, port, head("GET", f"{SCHEDULES}/large0"))
    client.settimeout(60)
    response = http.client.HTTPResponse(client)
    response.begin()
    assert response.headers["ETag"] == '"1"'
    parts = []
    while part := response.read(10_000):
        parts.append(part)
        select.select([], [], [], 0.01)  # the subject: a client that takes a little at a time
    assert len(json.loads(b"".join(parts))["initial_input"]["content"]) == 1_000_000


def test_answers_that_nobody_reads_hold_a_bounded_memory(
    start_daemon: StartDaemon, clients: contextlib.ExitStack, port: int
) -> None:
    daemon = start_daemon(CONFIG.format(port=port))
    large_schedules(daemon, 8)
    call(daemon, "GET", f"{SCHEDULES}?inputs=true&cursor=a/declared")
    before = memory(daemon)
    for _ in range(60):
        unread(clients, port, head("GET", f"{SCHEDULES}?inputs=true&cursor=a/declared"))
    daemon.wait_for_log("[control] Connection closed: too many answers wait for clients that do not take them")
    answer = call(daemon, "GET", f"{SCHEDULES}/large1")  # of somebody else, and as large
    assert len(answer.body["initial_input"]["content"]) == 1_000_000
    assert memory(daemon) - before < 60


def test_output_that_nobody_reads_is_not_held(
    start_daemon: StartDaemon, clients: contextlib.ExitStack, port: int
) -> None:
    flood = CONFIG.replace('["sleep", "60"]', '["sh", "-c", "yes | head -c 20000000"]')
    daemon = start_daemon(flood.format(port=port))
    run = call(daemon, "POST", f"{SCHEDULES}/declared/trigger").body["id"]
    daemon.wait_for_run("completed", number=run)
    before = memory(daemon)
    for _ in range(40):
        unread(clients, port, head("GET", f"/runs/{run}/output?follow=true"))
    assert len(call(daemon, "GET", f"/runs/{run}/output").data) == 20_000_000
    assert memory(daemon) - before < 60


@pytest.mark.parametrize("size", [1, pytest.param(5, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
def test_a_siege_neither_delays_fires_nor_keeps_an_administrator_from_acting(
    start_daemon: StartDaemon, clients: contextlib.ExitStack, port: int, size: int
) -> None:
    daemon = start_daemon(CONFIG.format(port=port))
    large_schedules(daemon, 3)
    before = memory(daemon)
    path = f"{SCHEDULES}/declared/trigger"
    for number in range(30 * size):
        unread(clients, port, b"")
        unread(clients, port, head("GET", "/status")[:-2])
        unread(clients, port, head("GET", "/status", token=f"wrong-{number}") * 20)
    for _ in range(6 * size):
        unread(clients, port, head("POST", "/hooks/unknown", len(UNKNOWN_KEYS), None) + UNKNOWN_KEYS)
        unread(clients, port, head("POST", path, len(UNKNOWN_KEYS)) + UNKNOWN_KEYS)
        unread(clients, port, head("GET", f"{SCHEDULES}?inputs=true&cursor=a/declared"))
    began = time.time()
    run = call(daemon, "POST", path)
    assert run.status == 201
    assert call(daemon, "POST", f"/runs/{run.body['id']}/cancel").status == 200
    assert call(daemon, "POST", "/reload").status == 200
    wait_until(lambda: time.time() > began + 2 and len(daemon.query("SELECT 1 FROM fires")) > 3)
    assert memory(daemon) - before < 60
    tick = daemon.query("SELECT id FROM schedules WHERE agent = 'tick'")[0]["id"]
    assert_the_ledger_is_exact(daemon, tick)
