"""What hostile clients of the control API cost: memory of the daemon, lateness of fires, and answers to others.

All at once, over loopback: 60 posts of 1 MB of unknown keys without a token and 60 with one, none of whose answers is
read, 1,000 idle and 1,000 slow connections, 8 clients that send wrong tokens and 8 that send bodies in chunks of one
byte, both as fast as they are answered, and 8 lists of schedules with inputs of 1 MB that are not read. Meanwhile a
schedule fires each second, and an administrator triggers, cancels and reloads. The daemon may have enough files for all
these connections.

Run: python -m tests.benchmarks.hostile_clients [SECONDS]
"""

import asyncio
import contextlib
import http
import http.client
import json
import multiprocessing
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.support.api import UnixConnection

TOKEN, CHUNKERS_TOKEN = "a-token-of-this-benchmark-alone", "another-token-of-this-benchmark-alone"
FILES = 16_384
POSTS, IDLE, SLOW, GUESSERS, CHUNKERS, LISTS = 60, 1000, 1000, 8, 8, 8
MEGABYTE = 1_000_000
INPUTS = 20
TINY_CHUNKS = b"1\r\n0\r\n" * 2000
MOST_MEMORY, MOST_LATE, LONGEST_ANSWER = 60, 250, 1000  # MiB, milliseconds, milliseconds: what is acceptable
UNKNOWN = b"{" + b",".join(b'"%x":0' % number for number in range(104_000)) + b"}"
CONFIG = """\
[daemon]
state_dir = "state"
[control]
socket = "c.sock"
listen = "127.0.0.1:{port}"
tokens = [{{ name = "t", file = "t" }}, {{ name = "chunkers", file = "chunkers" }}]
[agents.tick]
command = ["true"]
[agents.tick.schedules.s]
every = "1s"
[agents.a]
command = ["sleep", "60"]
allow = ["token:t", "token:chunkers"]
max_concurrent = 1
[agents.a.schedules.s]
every = "7d"
"""


def ask(path: Path, method: str, what: str, body: object = None) -> dict[str, object]:
    """Ask as the administrator; raise RuntimeError if that is refused."""
    with contextlib.closing(UnixConnection(path)) as connection:
        data = None if body is None else json.dumps(body)
        connection.request(method, what, body=data, headers={"Content-Type": "application/json"} if data else {})
        response = connection.getresponse()
        text = response.read()
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise RuntimeError(f"{method} {what}: {response.status} {text[:200]!r}")
        found: dict[str, object] = json.loads(text)
        return found


# the hostile clients, in a process of their own


async def connected(port: int) -> socket.socket:
    client = socket.socket()
    client.setblocking(False)  # noqa: FBT003 - the method's own signature
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
    return client


def head(method: str, path: str, token: str | None, *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *more]
    lines += [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([*lines, "", ""]).encode()


def json_of(size: int) -> tuple[str, str]:
    return "Content-Type: application/json", f"Content-Length: {size}"


async def unread(port: int, request: bytes, end: float) -> None:
    """Send a request, and never read the answer."""
    client = await connected(port)
    with contextlib.closing(client):
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(end - time.monotonic()):
                await asyncio.get_running_loop().sock_sendall(client, request)
        await asyncio.sleep(end - time.monotonic())


async def idle(port: int, end: float) -> None:
    with contextlib.closing(await connected(port)):
        await asyncio.sleep(end - time.monotonic())


async def slow(port: int, end: float) -> None:
    """Send a request byte by byte, one each second."""
    client = await connected(port)
    with contextlib.closing(client), contextlib.suppress(OSError):
        for byte in head("GET", "/status", TOKEN):
            await asyncio.get_running_loop().sock_sendall(client, bytes([byte]))
            await asyncio.sleep(min(1, max(0, end - time.monotonic())))
            if time.monotonic() >= end:
                return


async def answered(reader: asyncio.StreamReader) -> int:
    """Read an answer; return its status."""
    lines = await reader.readuntil(b"\r\n\r\n")
    size = re.search(rb"Content-Length: (\d+)", lines)
    await reader.readexactly(int(size[1]) if size else 0)
    return int(lines.split(b" ", 2)[1])


Exchange = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[int]]


async def again_and_again(port: int, end: float, exchange: Exchange, statuses: Counter[int]) -> None:
    """Send requests one after the other, and count the answers; connect again whenever the connection is closed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(end - time.monotonic()):
            while True:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    with contextlib.closing(writer):
                        while True:
                            statuses[await exchange(reader, writer)] += 1
                await asyncio.sleep(0.01)


async def guess(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    writer.write(head("GET", "/status", f"wrong-{time.monotonic()}"))
    return await answered(reader)


async def chunk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Send a body that does not end, in chunks of one byte, until it is refused."""
    path = "/agents/a/schedules/s/trigger"  # which reads its body
    writer.write(head("POST", path, CHUNKERS_TOKEN, "Content-Type: application/json", "Transfer-Encoding: chunked"))
    answer = asyncio.ensure_future(answered(reader))
    try:
        while not answer.done():
            writer.write(TINY_CHUNKS)
            await writer.drain()
            await asyncio.wait([answer], timeout=0.001)
    except OSError:  # closed after the answer
        return await answer
    finally:
        answer.cancel()
    return answer.result()


async def besiege(port: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    post = head("POST", "/hooks/unknown", None, *json_of(len(UNKNOWN))) + UNKNOWN
    trigger = head("POST", "/agents/a/schedules/s/trigger", TOKEN, *json_of(len(UNKNOWN))) + UNKNOWN
    listing = head("GET", "/agents/a/schedules?inputs=true&limit=1000", TOKEN)
    guesses, chunked = Counter[int](), Counter[int]()
    work = [again_and_again(port, end, guess, guesses) for _ in range(GUESSERS)]  # these first: they must get in
    work += [again_and_again(port, end, chunk, chunked) for _ in range(CHUNKERS)]
    work += [unread(port, request, end) for request in (post, trigger) for _ in range(POSTS)]
    work += [unread(port, listing, end) for _ in range(LISTS)]
    work += [idle(port, end) for _ in range(IDLE)] + [slow(port, end) for _ in range(SLOW)]
    done = await asyncio.gather(*work, return_exceptions=True)
    failed = [repr(error) for error in done if isinstance(error, Exception) and not isinstance(error, OSError)]
    if failed:
        print(f"{len(failed)} clients failed, such as {failed[0]}", file=sys.stderr)
    for what, statuses in (("wrong tokens", guesses), ("bodies in tiny chunks", chunked)):
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items())) or "none"
        print(f"{what}: {answers} in {seconds:.0f} s")


def hostile(port: int, seconds: float) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    asyncio.run(besiege(port, seconds))


# what is measured


def memory(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


class Memory(threading.Thread):
    """Samples a process's memory until told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self.pid, self.most, self.over = pid, 0.0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.02):
            self.most = max(self.most, memory(self.pid))


def administer(path: Path, end: float) -> dict[str, float]:
    """Trigger, cancel and reload in turn; return the longest time that each took, in milliseconds."""
    longest = dict.fromkeys(("trigger", "cancel", "reload"), 0.0)

    def timed(what: str, method: str, where: str) -> dict[str, object]:
        began = time.perf_counter()
        found = ask(path, method, where)
        longest[what] = max(longest[what], (time.perf_counter() - began) * 1000)
        return found

    while time.monotonic() < end:
        run = timed("trigger", "POST", "/agents/a/schedules/s/trigger")
        timed("cancel", "POST", f"/runs/{run['id']}/cancel")
        timed("reload", "POST", "/reload")
        time.sleep(0.2)
    return longest


def lateness(state: Path, since: datetime) -> float:
    """Return the largest lateness of a fire that was due since then, in milliseconds."""
    with contextlib.closing(sqlite3.connect(f"file:{state}/state.db?mode=ro", uri=True)) as connection:
        row = connection.execute(
            "SELECT max((julianday(decided_at) - julianday(scheduled_for)) * 86400000) FROM fires "
            "WHERE scheduled_for > ?",
            (since.strftime("%Y-%m-%dT%H:%M:%S.000Z"),),
        ).fetchone()
    return float(row[0])


def use(token: str, port: int) -> None:
    """Use a token once, so that it remains valid from an address that then guesses others."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/status", headers={"Authorization": f"Bearer {token}"})
        status = connection.getresponse().status
        if status != http.HTTPStatus.OK:
            raise RuntimeError(f"GET /status with a token: {status}")


def judged(found: float, most: float) -> str:
    return f"(acceptable: {most})" if found <= most else f"(TOO MUCH, acceptable: {most})"


def measure(folder: Path, pid: int, port: int, seconds: float) -> None:
    path = folder / "c.sock"
    for number in range(INPUTS):
        body = {"name": f"large{number}", "interval_seconds": 604800, "initial_input": {"content": "x" * MEGABYTE}}
        ask(path, "POST", "/agents/a/schedules", body)
    for token in (TOKEN, CHUNKERS_TOKEN):
        use(token, port)
    began = datetime.now(UTC)
    quiet = administer(path, time.monotonic() + 3)
    quietly_late = lateness(folder / "state", began)
    before, began = memory(pid), datetime.now(UTC)
    sampled = Memory(pid)
    sampled.start()
    crowd = multiprocessing.get_context("spawn").Process(target=hostile, args=(port, seconds))
    crowd.start()
    longest = administer(path, time.monotonic() + seconds)
    crowd.join()
    sampled.over.set()
    sampled.join()
    grown = sampled.most - before
    print(
        f"memory: {before:.1f} MiB before, {grown:+.1f} MiB at most, {memory(pid):.1f} MiB after",
        judged(grown, MOST_MEMORY),
    )
    late = lateness(folder / "state", began)
    print(f"lateness of fires: {late:.0f} ms at most, {quietly_late:.0f} ms without them", judged(late, MOST_LATE))
    for what, most in longest.items():
        print(f"{what}: {most:.0f} ms at most, {quiet[what]:.0f} ms without them", judged(most, LONGEST_ANSWER))


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 25.0
    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        folder = Path(name)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        (folder / "t").write_text(TOKEN)
        (folder / "chunkers").write_text(CHUNKERS_TOKEN)
        (folder / "config.toml").write_text(CONFIG.format(port=port))
        command = [sys.executable, "-m", "daemon", "--config", str(folder / "config.toml"), "run"]
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
        with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as daemon:
            try:
                while not (folder / "c.sock").exists():
                    if daemon.poll() is not None:
                        raise SystemExit((folder / "log").read_text())
                    time.sleep(0.1)
                measure(folder, daemon.pid, port, seconds)
            finally:
                daemon.send_signal(signal.SIGINT)


if __name__ == "__main__":
    main()
