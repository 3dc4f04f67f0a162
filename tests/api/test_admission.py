"""Connections: each user and address has a share of them, and some are kept for administrators."""

import contextlib
import http.client
import json
import os
import pwd
import socket
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.api.admission import Admission, Holder, Place, Rank, network_of
from tests.support.api import CONFIG, TOKEN, call, start_on_tcp
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.waiting import wait_until

FEW = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))"  # 64 connections for each socket
SHARE, FOR_ALL = 8, 48
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="connecting as other users needs root")
PEOPLE = [2000, 2001, 2002, 2003, 2004, 2005, 2006]  # user ids without a name


@contextlib.contextmanager
def held(
    address: str | tuple[str, int], count: int, *, user: int | None = None, at: str | None = None
) -> Iterator[list[socket.socket]]:
    """Connections that a user made, or that come from an address."""
    with contextlib.ExitStack() as stack:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        clients = [stack.enter_context(socket.socket(family)) for _ in range(count)]
        for client in clients:
            client.settimeout(20)
            if at is not None:
                client.bind((at, 0))
        child = os.fork() if user is not None else -1
        if child <= 0:
            try:
                if user is not None and isinstance(address, str):
                    os.chdir(Path(address).parent)  # the folders above are closed to others
                    address = Path(address).name
                    os.setresuid(user, user, user)
                for client in clients:
                    client.connect(address)
            finally:
                if child == 0:
                    os._exit(0)
        else:
            os.waitpid(child, 0)
        yield clients


def answers(clients: list[socket.socket], headers: str = "") -> list[int]:
    """Ask whether the daemon answers on each connection; return the statuses, 0 for a connection that was closed."""
    found = []
    for client in clients:
        with contextlib.suppress(BrokenPipeError):  # it was rejected, and has its response
            client.sendall(f"GET /healthz HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())
        response = http.client.HTTPResponse(client)
        try:
            response.begin()
            response.read()
            found.append(response.status)
        except ConnectionError:  # there were too many others to be rejected
            found.append(0)
    return found


@needs_root
def test_no_user_and_no_group_of_users_can_lock_out_others_or_administrators(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    admin = pwd.getpwnam("nobody")
    daemon = start_daemon(CONFIG + f'[access]\nadmins = ["root", "{admin.pw_name}"]\n', slowed=FEW)
    path = str(tmp_path / "c.sock")
    tmp_path.chmod(0o711)
    (tmp_path / "c.sock").chmod(0o666)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(held(path, 3 * SHARE, user=PEOPLE[0]))
        assert answers(first) == [200] * SHARE + [503] * 2 * SHARE
        line = daemon.wait_for_log("[control] Connection rejected: too many connections", uid=PEOPLE[0])
        assert line["connections"] == SHARE
        statuses = [
            status for user in PEOPLE[1:] for status in answers(stack.enter_context(held(path, SHARE, user=user)))
        ]
        assert statuses.count(200) == FOR_ALL - SHARE
        assert statuses[:SHARE] == [200] * SHARE
        assert answers(stack.enter_context(held(path, 5, user=admin.pw_uid))) == [200] * 5
        assert answers(stack.enter_context(held(path, 5))) == [200] * 5
        figures = call(daemon, "GET", "/metrics").data.decode()
        rejected = 2 * SHARE + len(PEOPLE[1:]) * SHARE - (FOR_ALL - SHARE)
        assert f'agentcron_connections_rejected_total{{socket="unix"}} {rejected}.0' in figures
    wait_until(lambda: _all_admitted(path))


def _all_admitted(path: str) -> bool:
    with held(path, SHARE, user=PEOPLE[0]) as clients:
        return answers(clients) == [200] * SHARE


def test_a_rejected_client_is_told_so_even_if_it_sends_its_request_first(
    start_daemon: StartDaemon, tmp_path: Path, port: int
) -> None:
    start_on_tcp(start_daemon, tmp_path, port, slowed=FEW)
    with held(("127.0.0.1", port), SHARE), held(("127.0.0.1", port), 1) as [client]:
        client.sendall(b"POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000\r\n\r\n" + b"x" * 20_000)
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        assert json.loads(response.read()) == {
            "message": "too many connections of this user or address, or of all; close some, or try again in a moment",
            "code": "unavailable",
            "data": {},
        }
        assert client.recv(1) == b""


def test_no_address_can_lock_out_another(start_daemon: StartDaemon, tmp_path: Path, port: int) -> None:
    daemon = start_on_tcp(start_daemon, tmp_path, port, listen="0.0.0.0", slowed=FEW)  # noqa: S104 - reached over loopback
    with held(("127.0.0.1", port), 3 * SHARE, at="127.0.0.2") as clients:
        assert answers(clients) == [200] * SHARE + [503] * 2 * SHARE
        with held(("127.0.0.1", port), 1, at="127.0.0.3") as others:
            assert answers(others, f"Authorization: Bearer {TOKEN}\r\n") == [200]
    assert daemon.wait_for_log("[control] Connection rejected", address="127.0.0.2")


@pytest.mark.parametrize("before", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "second"])
def test_headers_are_bounded_in_total(daemon: DaemonProcess, before: bytes) -> None:
    with held(str(daemon.folder / "c.sock"), 1) as [client]:
        if before:
            assert answers([client]) == [200]
        client.sendall(
            before + b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X: %s\r\n" % (b"y" * 8000) for _ in range(5))
        )
        data = b""
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65536):
                data += part
    if not before:  # else the response to the request before may be under way
        assert data.startswith(b"HTTP/1.1 431 ")
    assert daemon.wait_for_log("[control] Malformed request", status=431)
    assert call(daemon, "GET", "/healthz").status == 200


def test_shares_and_what_is_kept() -> None:
    places: defaultdict[int, list[Place]] = defaultdict(list)
    ranks = {Holder(0, None): Rank.ROOT, Holder(1, None): Rank.ADMIN}
    admission = Admission(64, lambda holder: ranks.get(holder, Rank.ANYBODY))

    def fill(user: int) -> int:
        count = 0
        while (place := admission.admit(Holder(user, None))) is not None:
            places[user].append(place)
            count += 1
        return count

    assert [fill(user) for user in (10, 11, 12, 13)] == [8, 8, 8, 8]
    assert fill(1) == 56 - 32
    assert fill(14) == 0
    assert fill(0) == 8
    for place in places[10]:
        place.release()
        place.release()  # once is enough
    assert fill(14) == 0
    assert fill(0) == 8


@pytest.mark.parametrize(
    ("peername", "network"),
    [
        (("10.1.2.3", 80), "10.1.2.3"),
        (("::ffff:10.1.2.3", 80, 0, 0), "10.1.2.3"),
        (("2001:db8:1:2:3:4:5:6", 80, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 80, 0, 2), "fe80::/64"),
        (None, ""),
    ],
)
def test_an_ipv6_network_counts_as_one_address(peername: tuple[str, ...] | None, network: str) -> None:
    assert network_of(peername) == network
