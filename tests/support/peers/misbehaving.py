"""An HTTP peer whose behaviour the first part of the path names: `POST /MODE/api`. Everything it is sent is logged.

`misbehaving.py PORT [LATE_PORT]`; the file $PEER_LOG gets a JSON line for each request: mode, headers, body. At
LATE_PORT it listens only from SIGUSR1 on.
"""

import asyncio
import contextlib
import gzip
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

HEAD = "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{more}"
MEGABYTE = 1024 * 1024


class Exchange:
    """One request, and how many came before it in the same mode."""

    def __init__(
        self, writer: asyncio.StreamWriter, mode: str, number: int, headers: dict[str, str], body: dict[str, Any]
    ) -> None:
        self.writer = writer
        self.headers = headers
        self.hook_url = body.get("params", {}).get("task", {}).get("task_metadata", {}).get("hook_url")
        self.mode = mode
        self.number = number
        self.id = body.get("id")

    async def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)
        await self.writer.drain()

    async def answer(
        self, body: bytes | str, *, status: int = 200, kind: str = "application/json", more: str = ""
    ) -> None:
        data = body.encode() if isinstance(body, str) else body
        more += f"Content-Length: {len(data)}\r\n\r\n"
        await self.send(HEAD.format(status=status, kind=kind, more=more).encode() + data)

    def update(self, text: str, **values: object) -> str:
        content = {"type": "text", "author": "agent", "content": text}
        answer = {"jsonrpc": "2.0", "id": self.id, "result": {"type": "full", "index": 0, "content": content}}
        return json.dumps({**answer, **values})

    async def well(self) -> None:
        await self.answer(self.update("well done") + "\n", kind="application/x-ndjson")

    async def begin_stream(self) -> None:
        more = "Transfer-Encoding: chunked\r\n\r\n"
        await self.send(HEAD.format(status=200, kind="application/x-ndjson", more=more))

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))


async def hang(_: Exchange) -> None:
    await asyncio.sleep(3600)


async def hang_in_headers(exchange: Exchange) -> None:
    await exchange.send("HTTP/1.1 200 OK\r\nContent-Ty")
    await hang(exchange)


async def drop(_: Exchange) -> None:
    """Close the connection without a word."""


async def drop_after_headers(exchange: Exchange) -> None:
    await exchange.send(HEAD.format(status=200, kind="application/json", more="Content-Length: 100\r\n\r\n"))


async def drop_in_body(exchange: Exchange) -> None:
    await exchange.begin_stream()
    await exchange.chunk(exchange.update("half of it").encode() + b"\n")
    await asyncio.sleep(0.5)  # what comes together with the end of the connection is lost


async def stall(exchange: Exchange) -> None:
    """Acknowledge the input and say no more."""
    await exchange.begin_stream()
    await exchange.chunk(exchange.update("begun").encode() + b"\n")
    await hang(exchange)


async def slow(exchange: Exchange) -> None:
    await asyncio.sleep(1)
    await exchange.well()


async def slow_drop(_: Exchange) -> None:
    """Close the connection without a word, after a while."""
    await asyncio.sleep(2)


async def slow_body(exchange: Exchange) -> None:
    await exchange.begin_stream()
    await exchange.chunk(exchange.update("begun ").encode() + b"\n")
    await asyncio.sleep(0.5)
    await exchange.chunk(b"")


async def hang_once(exchange: Exchange) -> None:
    await (hang(exchange) if exchange.number == 1 else exchange.well())


async def two_responses(exchange: Exchange) -> None:
    await exchange.well()
    await exchange.answer(exchange.update("another"))


async def two_answers(exchange: Exchange) -> None:
    await exchange.answer(exchange.update("one") + exchange.update("two"))


async def byte_a_second(exchange: Exchange) -> None:
    await exchange.begin_stream()
    while True:
        await exchange.chunk(b" ")
        await asyncio.sleep(1)


async def endless(exchange: Exchange) -> None:
    await exchange.begin_stream()
    while True:
        await exchange.chunk(b" " * MEGABYTE)


async def gzip_bomb(exchange: Exchange) -> None:
    bomb = await asyncio.to_thread(gzip.compress, b" " * (32 * MEGABYTE), 1)
    await exchange.answer(bomb, more="Content-Encoding: gzip\r\n")


async def unavailable_for_years(exchange: Exchange) -> None:
    await exchange.answer("", status=503, more="Retry-After: 1000000000\r\n")


async def unavailable_for_a_second(exchange: Exchange) -> None:
    if exchange.number == 1:
        await exchange.answer("", status=503, more="Retry-After: 1\r\n")
    else:
        await exchange.well()


async def drop_once(exchange: Exchange) -> None:
    if exchange.number > 1:
        await exchange.well()


async def too_many_once(exchange: Exchange) -> None:
    await (exchange.well() if exchange.number > 1 else exchange.answer("slow down", status=429))


async def redirect_in_a_circle(exchange: Exchange) -> None:
    await exchange.answer("", status=307, more=f"Location: /{exchange.mode}/api\r\n")


async def redirect_to_a_file(exchange: Exchange) -> None:
    await exchange.answer("", status=307, more="Location: file:///etc/passwd\r\n")


async def redirect_elsewhere(exchange: Exchange) -> None:
    await exchange.answer("", status=308, more="Location: http://localhost:1/api\r\n")


async def redirect_nearby(exchange: Exchange) -> None:
    await exchange.answer("", status=308, more="Location: /well/api\r\n")


async def see_other(exchange: Exchange) -> None:
    await exchange.answer("", status=303, more="Location: /well/api\r\n")


async def error_inside(exchange: Exchange) -> None:
    error = {"code": -32603, "message": "no such flow"}
    await exchange.answer(json.dumps({"jsonrpc": "2.0", "id": exchange.id, "error": error}))


async def tell_secrets(exchange: Exchange) -> None:
    """Repeat the key and the hook's URL wherever a peer may speak."""
    secrets = f"{exchange.headers.get('x-agent-api-key')} {exchange.hook_url}"
    if exchange.number == 1:
        await exchange.send(f"HTTP/1.1 500 {secrets}\r\nContent-Length: {len(secrets)}\r\n\r\n{secrets}")
    else:
        await exchange.answer(json.dumps({"jsonrpc": "2.0", "id": exchange.id, "error": {"message": secrets}}))


def fully_escaped(text: str) -> str:
    return "".join(f"\\u{ord(character):04x}" for character in text)


async def tell_escaped_secrets(exchange: Exchange) -> None:
    """Repeat the key with all its letters escaped, and in JSON within JSON."""
    key = str(exchange.headers.get("x-agent-api-key"))
    nested = json.dumps(json.dumps({"key": key.replace("/", "\\/")}))
    error = f'{{"message": "{fully_escaped(key)}", "data": [{nested}, "{key.replace("/", chr(92) + "/")}"]}}'
    if exchange.number == 1:
        await exchange.answer(f'{{"error": {error}}}', status=500)
    else:
        await exchange.answer(f'{{"jsonrpc": "2.0", "id": "{exchange.id}", "error": {error}}}')


async def tell_secrets_at_a_cut(exchange: Exchange) -> None:
    """Repeat the key where texts are cut: after 1000, 2048 and 4000 characters, less a few."""
    key = str(exchange.headers.get("x-agent-api-key"))
    fillers = ["x" * 980, "x" * 2035, " " * 2035, " " * 2028]
    if exchange.number <= len(fillers):
        await exchange.answer(fillers[exchange.number - 1] + key, status=500)
    else:
        await exchange.answer(exchange.update("x" * 3990 + key))


async def tell_secrets_in_a_redirect(exchange: Exchange) -> None:
    place = f"http://localhost:1/{'x' * 270}{exchange.headers.get('x-agent-api-key')}"
    await exchange.answer("", status=307, more=f"Location: {place}\r\n")


async def tell_secrets_in_an_id(exchange: Exchange) -> None:
    await exchange.answer(exchange.update("x", id="x" * 90 + str(exchange.headers.get("x-agent-api-key"))))


async def unavailable_beyond_time(exchange: Exchange) -> None:
    await exchange.answer("", status=503, more="Retry-After: Mon, 01 Jan 2024 00:00:00 +9999999999999999\r\n")


async def unavailable_then_stall(exchange: Exchange) -> None:
    await (exchange.answer("", status=503) if exchange.number == 1 else stall(exchange))


def failing_once(status: int) -> "Mode":
    async def answer(exchange: Exchange) -> None:
        await (exchange.answer("", status=status) if exchange.number == 1 else exchange.well())

    return answer


async def empty_lines(exchange: Exchange) -> None:
    """Send as many lines as there is room for, and nothing in them."""
    await exchange.begin_stream()
    for _ in range(15):
        await exchange.chunk(b"\n" * MEGABYTE)
    await exchange.chunk(exchange.update("at last").encode() + b"\n")
    await exchange.chunk(b"")


async def wide_json(exchange: Exchange) -> None:
    await exchange.answer('{"jsonrpc": "2.0", "x": [' + "[]," * (MEGABYTE // 3) + "[]]}")


async def unavailable_until_1999(exchange: Exchange) -> None:
    await exchange.answer("", status=503, more="Retry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n")


async def no_http(exchange: Exchange) -> None:
    await exchange.send(b"\x00\x01 SSH-2.0 hello\r\n\r\n")


def answering(body: str, **how: object) -> "Mode":
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(body, **how)  # type: ignore[arg-type]

    return answer


async def wrong_id(exchange: Exchange) -> None:
    await exchange.answer(exchange.update("not yours", id="another"))


def with_result(result: object, kind: str = "application/json") -> "Mode":
    async def answer(exchange: Exchange) -> None:
        await exchange.answer(exchange.update("", result=result) + "\n", kind=kind)

    return answer


async def nan(exchange: Exchange) -> None:
    await exchange.answer(exchange.update("nan").replace('"index": 0', '"index": NaN'))


async def cut_off_at_once(exchange: Exchange) -> None:
    """Send the answer's head, a line of it and the end of the connection together."""
    head = HEAD.format(status=200, kind="application/x-ndjson", more="Content-Length: 5000\r\n\r\n")
    await exchange.send(head + exchange.update("last words") + "\n")


async def malformed_at_once(exchange: Exchange) -> None:
    head = HEAD.format(status=200, kind="application/x-ndjson", more="Transfer-Encoding: chunked\r\n\r\n")
    await exchange.send(head + "no chunk\r\n")


async def malformed_later(exchange: Exchange) -> None:
    await exchange.begin_stream()
    await exchange.chunk(exchange.update("half of it").encode() + b"\n")
    await asyncio.sleep(0.5)  # so that it is not in the same packet
    await exchange.send(b"no chunk\r\n")
    await hang(exchange)


async def large_headers(exchange: Exchange) -> None:
    cookie = f"Set-Cookie: {'a' * 9000}\r\n"
    others = "".join(f"X-{number}: 1\r\n" for number in range(200))
    await exchange.answer(exchange.update("well done"), more=cookie + others)


async def huge_header(exchange: Exchange) -> None:
    await exchange.answer(exchange.update("well done"), more=f"Set-Cookie: {'a' * 40_000}\r\n")


Mode = Callable[[Exchange], Awaitable[None]]
MODES: dict[str, Mode] = {
    "well": Exchange.well,
    "hang": hang,
    "hang-once": hang_once,
    "stall": stall,
    "slow": slow,
    "slow-body": slow_body,
    "hang-in-headers": hang_in_headers,
    "error-500": answering("it broke", status=500),
    "not-found": answering("nothing here", status=404),
    "unavailable-for-years": unavailable_for_years,
    "unavailable-for-a-second": unavailable_for_a_second,
    "too-many-once": too_many_once,
    "drop": drop,
    "drop-once": drop_once,
    "slow-drop": slow_drop,
    "drop-after-headers": drop_after_headers,
    "drop-in-body": drop_in_body,
    "tell-secrets": tell_secrets,
    "tell-escaped-secrets": tell_escaped_secrets,
    "tell-secrets-at-a-cut": tell_secrets_at_a_cut,
    "tell-secrets-in-a-redirect": tell_secrets_in_a_redirect,
    "tell-secrets-in-an-id": tell_secrets_in_an_id,
    "unavailable-beyond-time": unavailable_beyond_time,
    "unavailable-then-stall": unavailable_then_stall,
    "timeout-once": failing_once(408),
    "too-early-once": failing_once(425),
    "empty-lines": empty_lines,
    "wide-json": wide_json,
    "unavailable-until-1999": unavailable_until_1999,
    "two-responses": two_responses,
    "two-answers": two_answers,
    "byte-a-second": byte_a_second,
    "endless": endless,
    "gzip-bomb": gzip_bomb,
    "brotli": answering("x", more="Content-Encoding: br\r\n"),
    "bad-json": answering("{nonsense"),
    "deep-json": answering("[" * 200_000),
    "nan": nan,
    "null-result": with_result(None),
    "null-result-in-lines": with_result(None, "application/x-ndjson"),
    "odd-result": with_result({"type": "full", "content": {"type": "text", "content": None}}),
    "no-lines": answering("", kind="application/x-ndjson"),
    "wrong-id": wrong_id,
    "no-content": answering("", status=204),
    "redirect-in-a-circle": redirect_in_a_circle,
    "redirect-to-a-file": redirect_to_a_file,
    "redirect-elsewhere": redirect_elsewhere,
    "redirect-nearby": redirect_nearby,
    "see-other": see_other,
    "error-inside": error_inside,
    "no-http": no_http,
    "cut-off-at-once": cut_off_at_once,
    "malformed-at-once": malformed_at_once,
    "malformed-later": malformed_later,
    "large-headers": large_headers,
    "huge-header": huge_header,
}


async def main(port: int, late_port: int | None, log: Path) -> None:
    numbers: Counter[str] = Counter()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            body = json.loads(await reader.readexactly(int(headers.get("content-length", 0))) or b"{}")
            mode = head[0].split("/")[1]
            numbers[mode] += 1
            with log.open("a") as stream:
                stream.write(json.dumps({"at": time.time(), "mode": mode, "headers": headers, "body": body}) + "\n")
            await MODES[mode](Exchange(writer, mode, numbers[mode], headers, body))
        with contextlib.suppress(ConnectionError):
            writer.close()

    late = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, late.set)
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        if late_port is not None:
            await late.wait()
            await asyncio.start_server(serve, "127.0.0.1", late_port)
        await server.serve_forever()


if __name__ == "__main__":
    ports = [int(port) for port in sys.argv[1:]]
    asyncio.run(main(ports[0], ports[1] if len(ports) > 1 else None, Path(os.environ["PEER_LOG"])))
