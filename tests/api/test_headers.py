"""The count of header bytes, also where requests wait in the parser."""

import asyncio
import socket

from aiohttp import web
from aiohttp.web_protocol import MAX_MSG_QUEUE_SIZE

from daemon.api.connection import Connection, TimeLimits
from daemon.turns import Turns

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = 12_000


async def test_a_body_that_waited_in_the_parser_allows_no_longer_headers() -> None:
    free, arrived = asyncio.Event(), asyncio.Event()

    async def answer(request: web.BaseRequest) -> web.Response:
        await free.wait()
        if request.method == "POST":
            arrived.set()
        return web.Response()

    server = web.Server(answer)
    protocol = Connection(server, TimeLimits(60, 60), lambda: None, Turns())
    ours, theirs = socket.socketpair()
    with ours:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, theirs)
        post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % BODY + b"x" * BODY
        ours.sendall(GET * MAX_MSG_QUEUE_SIZE + post)
        free.set()
        async with asyncio.timeout(20):
            await arrived.wait()
        assert 0 <= protocol._headers < BODY
        protocol.force_close()
    await server.shutdown(1)
