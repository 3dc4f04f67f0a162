"""What connections may do in one turn of the event loop, and bodies that cost more than their bytes."""

import asyncio
import socket
from collections import Counter
from collections.abc import Callable

from aiohttp import web

from daemon.api.connection import Connection, TimeLimits, TooManyChunksError
from daemon.turns import Turns

POST = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
TINY = b"1\r\n \r\n"


class Ticks:
    """A clock by which everything takes 3 ms, and the number of the event loop's turn."""

    def __init__(self) -> None:
        self.number = 0
        self._time = 0.0
        self._count()

    def __call__(self) -> float:
        self._time += 0.003
        return self._time

    def _count(self) -> None:
        self.number += 1
        asyncio.get_running_loop().call_soon(self._count)


def on_turn(ticks: Ticks, done: list[int]) -> Callable[[], None]:
    return lambda: done.append(ticks.number)


async def test_a_turn_does_little_and_that_of_administrators_first() -> None:
    ticks = Ticks()
    turns, others, urgent = Turns(ticks), list[int](), list[int]()
    for _ in range(10):
        turns.do(on_turn(ticks, others), urgent=False)
    for _ in range(4):
        turns.do(on_turn(ticks, urgent), urgent=True)
    async with asyncio.timeout(20):
        await turns.request(urgent=False)
    assert len(others) == 10
    assert max(Counter([*others, *urgent]).values()) == 2
    assert max(urgent) < others[2]


async def test_an_error_of_one_piece_of_work_ends_no_turns_of_others() -> None:
    ticks = Ticks()
    turns, done, errors = Turns(ticks), list[int](), list[object]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))

    def fail() -> None:
        raise LookupError

    for work in (*[on_turn(ticks, done)] * 4, fail, on_turn(ticks, done)):
        turns.do(work, urgent=False)
    async with asyncio.timeout(20):
        await turns.request(urgent=False)
    assert len(done) == 5
    assert [type(error) for error in errors] == [LookupError]


async def test_many_connections_that_send_at_the_same_time_are_served_in_several_turns() -> None:
    ticks = Ticks()
    turns, parsed, clients = Turns(ticks), Counter[int](), 30
    all_parsed = asyncio.Event()

    class Counting(Connection):
        def _parse(self, data: bytes) -> None:
            parsed[ticks.number] += 1
            super()._parse(data)

    async def answer(_: web.BaseRequest) -> web.Response:
        if parsed.total() >= clients:
            all_parsed.set()
        return web.Response()

    server = web.Server(answer)
    loop, ends = asyncio.get_running_loop(), []
    for _ in range(clients):
        ours, theirs = socket.socketpair()
        ends.append(ours)
        await loop.connect_accepted_socket(lambda: Counting(server, TimeLimits(60, 60), lambda: None, turns), theirs)
    for ours in ends:
        ours.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(20):
        await all_parsed.wait()
    assert max(parsed.values()) <= 2
    for ours in ends:
        ours.close()
    await server.shutdown(1)


async def exchange(handler: Callable[[web.BaseRequest], object], body: bytes) -> tuple[bytes, bytes]:
    """Send a body in two parts to a handler; return the head of the answer, and what came after it."""
    server = web.Server(handler)  # type: ignore[arg-type]
    ours, theirs = socket.socketpair()
    turns = Turns()
    protocol = Connection(server, TimeLimits(60, 60), lambda: None, turns)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    async with asyncio.timeout(60):
        writer.write(POST + body[:100])
        sending = asyncio.ensure_future(send(writer, body[100:]))
        head = await reader.readuntil(b"\r\n\r\n")
        await sending
        rest = await reader.read()
    writer.close()
    await server.shutdown(1)
    return head, rest


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def test_a_body_in_tiny_chunks_is_refused() -> None:
    refused = []

    async def read(request: web.BaseRequest) -> web.Response:
        try:
            await request.read()
        except TooManyChunksError as error:
            refused.append(error)
            return web.Response(status=400)
        return web.Response()

    head, _ = await exchange(read, TINY * 30_000 + b"0\r\n\r\n")
    assert len(refused) == 1
    assert b" 400 " in head
    assert b"Connection: close" in head
    head, _ = await exchange(
        read, b"400\r\n" + b" " * 1024 + b"\r\n" + TINY * 1000 + b"0\r\n\r\nGET / HTTP/1.0\r\n\r\n"
    )
    assert b" 200 " in head
    assert len(refused) == 1


async def test_the_rest_of_a_chunked_body_that_nobody_wants_is_not_parsed() -> None:
    bodies = []

    async def refuse(request: web.BaseRequest) -> web.Response:
        bodies.append(request.content)
        return web.Response(status=401)

    head, rest = await exchange(refuse, TINY * 9000)
    assert b" 401 " in head
    assert b"Connection: close" in head
    assert rest == b""
    assert bodies[0].total_bytes < 9000


async def test_a_request_whose_client_is_gone_takes_nothing_of_a_turn() -> None:
    turns = Turns(Ticks())
    for _ in range(20):
        turns.do(lambda: None, urgent=False)
    waiting = asyncio.ensure_future(turns.request(urgent=False))
    await asyncio.sleep(0)
    waiting.cancel()
    async with asyncio.timeout(20):
        await turns.request(urgent=False)
    assert waiting.cancelled()
