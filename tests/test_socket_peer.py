"""The process at the other end of a Unix socket: it is never confused with a later one that got its pid."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from daemon import socket_peer
from daemon.socket_peer import SocketPeer
from tests.support.pids import can_choose_pids, reused

NOBODY = 65534
needs_pids = pytest.mark.skipif(not can_choose_pids, reason="choosing a pid needs root and ns_last_pid")
UNKNOWN_OPTION = 9999


@pytest.fixture(params=["pidfd", "old kernel"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "old kernel":
        monkeypatch.setattr(socket_peer, "_SO_PEERPIDFD", UNKNOWN_OPTION)
    return str(request.param)


@contextlib.contextmanager
def connected(user: int | None = None) -> Iterator[tuple[socket.socket, int]]:
    """A connection that a child made before it ended, and the pid of the child; we hold both ends."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("")  # the kernel chooses an abstract address, which needs no folder
        listener.listen()
        child = os.fork()
        if child == 0:
            try:
                if user is not None:
                    os.setresuid(user, user, user)
                client.connect(listener.getsockname())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        accepted, _ = listener.accept()
        with accepted:
            yield accepted, child


@pytest.mark.usefixtures("kernel")
def test_a_living_process_is_alive() -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("")
        listener.listen()
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        for end in (accepted, client):
            with end, SocketPeer(end) as peer:
                assert (peer.pid, peer.uid, peer.is_elsewhere) == (os.getpid(), os.geteuid(), False)
                assert peer.is_alive()


@pytest.mark.usefixtures("kernel")
def test_an_ended_process_is_not_alive() -> None:
    with connected() as (connection, child), SocketPeer(connection) as peer:
        assert peer.pid == child
        assert not peer.is_alive()


@needs_pids
def test_a_later_process_with_its_pid_is_not_taken_for_it() -> None:
    with connected() as (connection, child), reused(child), SocketPeer(connection) as peer:
        assert peer.pid == child
        assert not peer.is_alive()


@needs_pids
@pytest.mark.usefixtures("kernel")
def test_a_later_process_of_another_user_is_not_taken_for_it_on_any_kernel() -> None:
    with connected(NOBODY) as (connection, child), reused(child), SocketPeer(connection) as peer:
        assert (peer.pid, peer.uid) == (child, NOBODY)
        assert not peer.is_alive()
