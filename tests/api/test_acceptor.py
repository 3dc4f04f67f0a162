"""Accepting connections: errors of one connection, of all, and a queue that is full."""

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from daemon.api import acceptor, untaken
from daemon.api.acceptor import Acceptor
from daemon.api.admission import Admission, Holder, Rank
from daemon.cli.connection import Connection
from tests.support.api import CONFIG, call
from tests.support.daemon_process import StartDaemon
from tests.support.waiting import wait_until


class Greeting(asyncio.Protocol):
    """Says hello and closes."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()

    def connection_lost(self, _: BaseException | None) -> None:
        self._ended()


def greet(_: socket.socket, ended: Callable[[], None]) -> Greeting:
    return Greeting(ended)


class Exhausted(socket.socket):
    """A listening socket that runs out of files once."""

    failures = 1

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_a_lack_of_files_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "_WAIT_IF_SCARCE", 0.01)
    with Exhausted(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen()
        listener.settimeout(0)
        admission = Admission(64, lambda _: Rank.ANYBODY)
        accepting = Acceptor(listener, admission, greet, lambda *_: None)
        accepting.start()
        try:
            for _ in range(20):  # more than one user's share, one after the other
                reader, writer = await asyncio.open_unix_connection(listener.getsockname())
                async with asyncio.timeout(20):
                    assert await reader.read() == b"hello"
                writer.close()
        finally:
            accepting.close()
    assert listener.failures == 0


class Speech(Greeting):
    """Says so much that the kernel holds it until the client reads."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"x" * 100_000)
        transport.close()


@contextlib.asynccontextmanager
async def speaking(family: socket.AddressFamily) -> AsyncIterator[tuple[socket.socket, Admission]]:
    """Accept connections, a share of which may hold what was said and not heard."""
    with socket.socket(family) as listener:
        listener.bind("" if family == socket.AF_UNIX else ("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0)
        admission = Admission(64, lambda _: Rank.ANYBODY)
        accepting = Acceptor(listener, admission, lambda _, ended: Speech(ended), lambda *_: None)
        accepting.start()
        try:
            yield listener, admission
        finally:
            accepting.close()


def connected(listener: socket.socket) -> socket.socket:
    connection = socket.socket(listener.family)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(listener.getsockname())
    return connection


def heard(connection: socket.socket) -> int:
    """Return how many bytes come until the end."""
    with connection.makefile("rb") as stream:
        return len(stream.read())


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not look():  # noqa: ASYNC110 - the kernel sends no signal
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET], ids=["unix", "tcp"])
async def test_a_connection_keeps_its_place_until_its_answer_is_taken(
    family: socket.AddressFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(untaken, "_LOOK_EVERY", 0.01)
    holder = Holder(os.getuid(), None) if family == socket.AF_UNIX else Holder(None, "127.0.0.1")
    async with speaking(family) as (listener, admission), contextlib.AsyncExitStack() as stack:
        connections = [stack.enter_context(connected(listener)) for _ in range(8)]  # one user's share
        await until(lambda: admission.held(holder) == 8)
        for _ in range(50):
            await asyncio.sleep(0)  # what was said is with the kernel, and the transports are closed
        assert admission.held(holder) == 8
        assert b"503" in (await asyncio.to_thread(connected(listener).recv, 100))
        assert await asyncio.to_thread(heard, connections[0]) == 100_000
        await until(lambda: admission.held(holder) == 7)
        connections[1].close()
        await until(lambda: admission.held(holder) == 6)


async def test_a_tcp_connection_whose_answer_is_never_taken_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untaken, "_LOOK_EVERY", 0.01)
    monkeypatch.setattr(untaken, "_LONGEST", 0.1)
    holder = Holder(None, "127.0.0.1")
    async with speaking(socket.AF_INET) as (listener, admission):
        with connected(listener) as connection:
            await until(lambda: admission.held(holder) == 1)
            await until(lambda: admission.held(holder) == 0)
            with pytest.raises(ConnectionResetError):
                await asyncio.to_thread(heard, connection)


async def test_a_client_that_closes_frees_its_place_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untaken, "_LOOK_EVERY", 3600.0)
    holder = Holder(os.getuid(), None)
    async with speaking(socket.AF_UNIX) as (listener, admission):
        with connected(listener):
            await until(lambda: admission.held(holder) == 1)
        await until(lambda: admission.held(holder) == 0)


async def test_a_connection_that_was_about_to_begin_is_closed_with_the_acceptor() -> None:
    taken: list[socket.socket] = []

    async def find() -> Greeting:
        raise AssertionError

    def serve(connection: socket.socket, _: Callable[[], None]) -> Callable[[], Awaitable[Greeting]]:
        taken.append(connection)
        asyncio.get_running_loop().call_soon(begun.close)  # before the first step of the task that calls `find`
        return find

    with listening() as listener:
        listener.settimeout(0)
        admission = Admission(8, lambda _: Rank.ANYBODY)
        begun = Acceptor(listener, admission, serve, lambda *_: None)
        begun.start()
        reader, writer = await asyncio.open_unix_connection(listener.getsockname())
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()
    assert taken[0].fileno() == -1
    assert admission.held(Holder(os.geteuid(), None)) == 0


@contextlib.asynccontextmanager
async def accepting(
    listener: socket.socket, most: int, serve: Callable[[socket.socket, Callable[[], None]], Any]
) -> AsyncIterator[Admission]:
    """Accept connections in the block, of which anybody may have an eighth of `most`; yield who has how many."""
    listener.settimeout(0)
    admission = Admission(most, lambda _: Rank.ANYBODY)
    accepting = Acceptor(listener, admission, serve, lambda *_: None)
    accepting.start()
    try:
        yield admission
    finally:
        accepting.close()


def listening() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("")
    listener.listen(256)
    return listener


def client(listener: socket.socket, data: bytes) -> socket.socket:
    """Return a client that has sent something, although nobody accepts yet."""
    connected = socket.socket(socket.AF_UNIX)
    connected.connect(listener.getsockname())
    connected.sendall(data)
    return connected


async def test_clients_that_have_gone_without_a_request_take_no_place() -> None:
    served: list[bytes] = []

    def serve(connection: socket.socket, ended: Callable[[], None]) -> Greeting:
        with contextlib.suppress(BlockingIOError):
            served.append(connection.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        return Greeting(ended)

    with listening() as listener:
        for data in (bytes(10), b"", b"GET / HTTP/1.1\r\nHost: x\r\n") * 20:
            client(listener, data).close()
        left = b"POST /hooks/x HTTP/1.1\r\nHost: x\r\n\r\n"
        client(listener, left).close()  # it does not wait for the answer, but wants what it asked for
        async with accepting(listener, 8 * 100, serve) as admission, asyncio.timeout(20):
            reader, writer = await asyncio.open_unix_connection(listener.getsockname())
            assert await reader.read() == b"hello"
            writer.close()
            assert served == [left]
            us = Holder(os.getuid(), None)
            await asyncio.to_thread(wait_until, lambda: not admission.held(us), what="free places")


@pytest.mark.parametrize("stay", [False, True])
async def test_each_rejected_client_gets_an_answer_however_many_there_are(*, stay: bool) -> None:
    def serve(*_: object) -> acceptor.Begin:
        return asyncio.get_running_loop().create_future  # it never ends

    with listening() as listener, contextlib.ExitStack() as others:
        for number in range(4 + acceptor._MOST_LINGERING + 20):  # 4 of them are served
            other = client(listener, b"GET")
            if stay or number < 4:
                others.enter_context(other)
            else:
                other.close()
        async with accepting(listener, 8, serve), asyncio.timeout(20):
            reader, writer = await asyncio.open_unix_connection(listener.getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.read(100)).startswith(b"HTTP/1.1 503 ")
            writer.close()


async def test_a_connection_that_begins_late_holds_up_no_other() -> None:
    asked, allowed = asyncio.Event(), asyncio.Event()

    def serve(_: socket.socket, ended: Callable[[], None]) -> acceptor.Begin:
        async def greet_later() -> Greeting:
            await allowed.wait()
            return Greeting(ended)

        if asked.is_set():
            return Greeting(ended)
        asked.set()
        return greet_later

    with listening() as listener:
        async with accepting(listener, 64, serve), asyncio.timeout(20):
            first, writer = await asyncio.open_unix_connection(listener.getsockname())
            await asked.wait()
            other, others = await asyncio.open_unix_connection(listener.getsockname())
            assert await other.read() == b"hello"
            allowed.set()
            assert await first.read() == b"hello"
            writer.close()
            others.close()


def test_an_error_with_one_connection_ends_that_one_only(start_daemon: StartDaemon) -> None:
    fails_once = """\
from daemon.api import server
class Failing(server.Connection):
    failures = 1
    def __init__(self, *arguments, **named):
        if Failing.failures:
            Failing.failures -= 1
            raise RuntimeError("injected")
        super().__init__(*arguments, **named)
server.Connection = Failing
"""
    daemon = start_daemon(CONFIG, slowed=fails_once)
    with pytest.raises(ConnectionError):
        call(daemon, "GET", "/healthz")
    assert daemon.wait_for_log("[control] Unexpected error")
    assert call(daemon, "GET", "/healthz").status == 200
    assert daemon.stop() == 0


def test_many_ancestors_of_who_connects_are_read_beside_the_event_loop(start_daemon: StartDaemon) -> None:
    only_in_threads = """\
import threading
from daemon.agents.process.supervisor import tree
from daemon.api import server
server.ORDINARY = 0
real = tree.parent_of
def parent_of(pid):
    if threading.current_thread() is threading.main_thread():
        raise RuntimeError("up to 1,000 reads would delay due times")
    return real(pid)
tree.parent_of = parent_of
"""
    daemon = start_daemon(CONFIG, slowed=only_in_threads)
    assert call(daemon, "GET", "/status").status == 200
    assert daemon.stop() == 0


def test_the_command_line_waits_while_the_queue_of_connections_is_full(tmp_path: Path) -> None:
    path, errors = tmp_path / "c.sock", list[BaseException]()

    def connect() -> None:
        with contextlib.closing(Connection(path, 20)) as connection:
            try:
                connection.connect()
            except OSError as error:
                errors.append(error)

    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as queued:
        listener.bind(str(path))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                client = queued.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(0)
                client.connect(str(path))
        waiting = threading.Thread(target=connect)
        waiting.start()
        waiting.join(0.3)  # long enough to fail, if it does
        while waiting.is_alive():
            with contextlib.suppress(TimeoutError):
                listener.settimeout(0.1)
                listener.accept()[0].close()
    assert not errors
