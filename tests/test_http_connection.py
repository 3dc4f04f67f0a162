"""Answers of peers that cost more to parse than their bytes: they are bounded, and parsed in turns."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp.helpers import TimerNoop

from daemon.http_client import CallError, HttpCall, Reply, calling, open_session
from daemon.http_connection import PeerConnection

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunks(size: int, count: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size, b"x" * size) * count


@asynccontextmanager
async def answering(*pieces: bytes) -> AsyncIterator[Reply]:
    """Yield an answer that a server sends in these pieces."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, open_session() as session:
        port = server.sockets[0].getsockname()[1]
        async with calling(session, HttpCall("call", f"http://127.0.0.1:{port}/")) as reply:
            yield reply


async def answered(*pieces: bytes) -> bytes:
    """Return the body of an answer that a server sends in these pieces."""
    async with answering(*pieces) as reply:
        return await reply.read()


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + chunks(1, 1 << 18) + END,
        HEAD + chunks(10, 1 << 15) + END,
        b"HTTP/1.1 100 Continue\r\n\r\n" * (1 << 13) + HEAD + END,
        HEAD[:-2] + b"X: %s\r\n" % (b"x" * 30_000) * 3 + b"\r\n" + END,
    ],
    ids=["chunks of a byte", "chunks of 10 bytes", "interim responses", "a long head"],
)
async def test_an_answer_that_is_mostly_framing_is_refused(answer: bytes) -> None:
    with pytest.raises(CallError) as raised:
        await answered(answer)
    assert str(raised.value) == "the answer has too long a head, or comes in too many small chunks"
    assert raised.value.is_malformed


async def test_words_that_are_streamed_one_by_one_are_read() -> None:
    count = 20_000  # with more than 64 KiB around them
    assert len(await answered(HEAD, chunks(60, count), END)) == 60 * count


async def test_a_large_answer_is_read() -> None:
    body = b"x" * 3_000_000
    assert await answered(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body) == body
    assert await answered(HEAD, chunks(1 << 20, 3), END) == b"x" * (3 << 20)
    assert await answered(b"HTTP/1.1 200 OK\r\n\r\n", body) == body


async def test_nothing_is_parsed_while_the_reader_has_enough_to_read() -> None:
    works: list[Callable[[], None]] = []
    made, peers = await connection(works)
    with peers:
        assert made.transport is not None
        made.data_received(HEAD + chunks(1024, 800) + END)
        for work in works:
            work()
        _, payload = await made.read()
        assert payload.total_bytes < 600_000
        assert not made.transport.is_reading()
        body, asked = b"", len(works)
        while len(body) < payload.total_bytes:
            body += await payload.readany()
        assert not made.transport.is_reading()
        for work in works[asked:]:
            work()
        assert len(body + await payload.read()) == 800 * 1024
        made.transport.abort()


async def connection(works: list[Callable[[], None]]) -> tuple[PeerConnection, socket.socket]:
    """Return a connection that waits for an answer, with the peer's end; `works` gets what is to be done in turns."""
    ours, peers = socket.socketpair()
    made = PeerConnection(works.append)
    await asyncio.get_running_loop().create_connection(lambda: made, sock=ours)
    made.set_response_params(timer=TimerNoop())
    return made, peers


async def test_each_piece_waits_for_its_turn_and_no_more_is_received() -> None:
    works: list[Callable[[], None]] = []
    made, peers = await connection(works)
    with peers:
        assert made.transport is not None
        made.data_received(HEAD + chunks(100, 2000))
        assert len(works) > 10
        assert not made.transport.is_reading()
        for number, work in enumerate(works):
            assert made.transport.is_reading() is False, number
            work()
        assert made.transport.is_reading()
        _, payload = await made.read()
        assert payload.total_bytes == 200_000
        made.transport.abort()


@pytest.mark.parametrize("count", [500, 8_000])
async def test_what_has_arrived_is_parsed_although_the_connection_ends_first(count: int) -> None:
    works: list[Callable[[], None]] = []
    made, peers = await connection(works)
    with peers:
        assert made.transport is not None
        made.data_received(HEAD + chunks(100, count) + END)
        for work in works[: len(works) // 4 * 3]:  # of 8,000 chunks, more than the reader gets at once
            work()
        made.transport.abort()
        await asyncio.sleep(0)
        for work in works:
            work()
        _, payload = await made.read()
        assert len(await payload.read()) == 100 * count


async def test_lines_that_arrive_together_come_together_in_bounded_numbers() -> None:
    body = b"".join(b"%d\n\n" % number for number in range(200)) + b"last"
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)) as reply:
        batches = [lines async for lines in reply.lines()]
    assert [line for lines in batches for line in lines] == [*(b"%d" % number for number in range(200)), b"last"]
    assert len(batches) < 20
    assert max(map(len, batches)) <= 50
