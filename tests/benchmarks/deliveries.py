"""Deliveries per second to a local agent through the whole pipeline, against a bare aiohttp client, 32 at a time.

The pipeline commits the row, the start, the beginning of the delivery, the marker and the outcome of each run, under
`synchronous=FULL`; the bare client posts the same bodies and reads the same answers. The agent is a process of its own.
Then the memory that 1,000 runs in flight take.

Run: python -m tests.benchmarks.deliveries [RUNS]
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import aiohttp
import structlog
from aiohttp import web

from daemon.config.loading import load_config
from daemon.fires.run_of_fire import run_of_fire
from daemon.model import DueTime, Trigger
from daemon.runs.queue import Queue
from daemon.schedules.declared import sync_declared
from daemon.store.connection import Transaction
from daemon.store.database import Database
from daemon.store.runs import create_run
from daemon.store.schedules import get_schedule
from daemon.store.state_dir import open_state
from daemon.store.unfinished_runs import count_active
from daemon.units import utc_now
from tests.support.parts import queue_on

AT_ONCE = 32
ROUNDS = 3
IN_FLIGHT = 1000
CONFIG = """\
[daemon]
max_concurrent_runs = {at_once}
[agents.a]
type = "agentex"
acp_type = "sync"
url = "http://127.0.0.1:{port}/{mode}"
max_concurrent = {at_once}
[agents.a.schedules.s]
every = "1h"
input = "go"
"""


# the agent


async def echo(request: web.Request) -> web.Response:
    body = await request.json()
    content = body["params"]["content"]
    return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": {"type": "full", "content": content}})


async def hold(request: web.Request) -> web.Response:
    await request.read()
    await asyncio.sleep(3600)
    return web.Response()


def serve(port: int) -> None:
    app = web.Application()
    app.router.add_post("/echo/api", echo)
    app.router.add_post("/hold/api", hold)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


@asynccontextmanager
async def agent() -> AsyncIterator[int]:
    """Run the agent as a process; give its port."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __spec__.name, "serve", str(port))
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            break
        yield port
    finally:
        process.kill()
        await process.wait()


# the two ways


@asynccontextmanager
async def pipeline(folder: Path, port: int, mode: str, at_once: int) -> AsyncIterator[tuple[Database, Queue]]:
    """Give an open database and a queue that serves it."""
    file = folder / "config.toml"
    file.write_text(CONFIG.format(port=port, mode=mode, at_once=at_once))
    config = load_config(file)
    (folder / "runs").mkdir()
    async with open_state(folder, utc_now(), accept_data_loss=False) as database:
        await database.write(lambda tx: sync_declared(tx, config, utc_now()))
        async with queue_on(database, folder, config) as queue:
            yield database, queue


async def enqueue(database: Database, count: int) -> None:
    def add(tx: Transaction, number: int) -> None:
        row = get_schedule(tx, "a", "s")
        assert row is not None
        due = DueTime(utc_now() + timedelta(milliseconds=number))
        create_run(tx, run_of_fire(row, due, Trigger.MANUAL, "instance"), utc_now())

    await asyncio.gather(*(database.write(lambda tx, n=n: add(tx, n)) for n in range(count)))  # type: ignore[misc]


async def through_the_pipeline(count: int, port: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        async with pipeline(Path(folder), port, "echo", AT_ONCE) as (database, queue):
            began = time.perf_counter()
            await enqueue(database, count)
            while await database.read(count_active):
                await queue.until_none(lambda: queue.under_way)
                await asyncio.sleep(0.005)
            took = time.perf_counter() - began
            done = await database.read(lambda c: c.execute("SELECT count(*) AS n FROM runs WHERE status = 'completed'"))
            assert done.fetchone()["n"] == count
    return count / took


async def bare(count: int, port: int) -> float:
    content = {"type": "text", "content": "go"}
    body = {"jsonrpc": "2.0", "id": "x", "method": "message/send", "params": {"content": content}}
    room = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one() -> None:
            async with room, session.post(f"http://127.0.0.1:{port}/echo/api", json=body) as response:
                assert json.loads(await response.read())["id"] == "x"

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(count)))
        return count / (time.perf_counter() - began)


async def memory(port: int) -> tuple[float, int]:
    """Return the MiB that so many runs in flight take, and how many there were."""
    with tempfile.TemporaryDirectory() as folder:
        async with pipeline(Path(folder), port, "hold", IN_FLIGHT) as (database, queue):
            await enqueue(database, IN_FLIGHT)
            before = resident()
            await asyncio.sleep(IN_FLIGHT / 100)
            return resident() - before, len(queue.under_way)


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


async def measure(count: int) -> None:
    async with agent() as port:
        await bare(count, port)
        rounds = [(await through_the_pipeline(count, port), await bare(count, port)) for _ in range(ROUNDS)]
        ours, theirs = (statistics.median(figures) for figures in zip(*rounds, strict=True))
        print(f"pipeline {ours:7.0f} deliveries/s, bare aiohttp {theirs:7.0f} calls/s, ratio {ours / theirs:.2f}")
        took, flying = await memory(port)
        print(f"{flying} runs in flight take {took:.1f} MiB")


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]))
        return
    with Path("/dev/null").open("w") as nowhere:
        structlog.configure(
            processors=[structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory(nowhere)
        )
        asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))


if __name__ == "__main__":
    main()
