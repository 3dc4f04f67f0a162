"""The control API under load with 10,000 schedules, against aiohttp answering a constant on a socket of the same kind.

Each client keeps one connection and asks again as soon as it is answered. While ours are asked, a schedule fires each
second; how late its fires are recorded is told besides. Rounds are interleaved. Each `change` is committed.

Run: python tests/benchmarks/api_latency.py [SCHEDULES]
"""

import asyncio
import json
import multiprocessing
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from aiohttp import web

ROUNDS = 3
CLIENTS = 8
SECONDS = 4.0


def constant(path: str) -> None:
    """Answer everything with one short document."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text='{"answer": 42}', content_type="application/json")

    app = web.Application()
    app.router.add_get("/", answer)
    web.run_app(app, path=path, print=None, handle_signals=False, access_log=None)


def write_config(folder: Path, count: int) -> Path:
    lines = ["[daemon]", 'state_dir = "state"', "[control]", 'socket = "c.sock"', "[log]", 'level = "warning"']
    lines += ["[agents.tick]", 'command = ["true"]', "[agents.tick.schedules.s]", 'every = "1s"', "[agents.a]"]
    lines += ['command = ["true"]']
    for number in range(count):
        lines += [f"[agents.a.schedules.s{number:05}]", f'cron = "{number % 60} {number % 24} 1 1 *"']
    file = folder / "config.toml"
    file.write_text("\n".join(lines))
    return file


async def ask(socket: str, method: str, path: str) -> tuple[float, float, float]:
    """Return requests per second, and the median and 99th percentile of their latency in milliseconds.

    A POST sends another note each time.
    """
    taken: list[float] = []
    end = time.perf_counter() + SECONDS

    async def client() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket)) as session:
            while (began := time.perf_counter()) < end:
                body = None if method == "GET" else {"note": f"{began}"}
                async with session.request(method, f"http://x{path}", json=body) as answer:
                    assert answer.status == 200
                    await answer.read()
                taken.append((time.perf_counter() - began) * 1000)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    cuts = statistics.quantiles(taken, n=100)
    return len(taken) / SECONDS, cuts[49], cuts[98]


def lateness(state: Path, since: float) -> float:
    """Return the largest lateness of a fire that was due since then, in milliseconds."""
    with sqlite3.connect(f"file:{state}/state.db?mode=ro", uri=True) as connection:
        row = connection.execute(
            "SELECT max((julianday(decided_at) - julianday(scheduled_for)) * 86400000) FROM fires "
            "WHERE julianday(scheduled_for) > julianday(?, 'unixepoch')",
            (since,),
        ).fetchone()
    return float(row[0])


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer_socket, our_socket = str(folder / "peer.sock"), str(folder / "c.sock")
        peer = multiprocessing.get_context("spawn").Process(target=constant, args=(peer_socket,), daemon=True)
        peer.start()
        command = [sys.executable, "-m", "daemon", "--config", str(write_config(folder, count)), "run"]
        with subprocess.Popen(command) as daemon:
            while not (Path(peer_socket).exists() and asyncio.run(is_up(our_socket))):
                time.sleep(0.1)
            began = time.time()
            ways = {
                "constant": (peer_socket, "GET", "/"),
                "get": (our_socket, "GET", f"/agents/a/schedules/s{count // 2:05}"),
                "list of 100": (our_socket, "GET", "/agents/a/schedules?limit=100"),
                "change": (our_socket, "POST", f"/agents/a/schedules/s{count // 3:05}/pause"),
            }
            rounds = [{way: asyncio.run(ask(*place)) for way, place in ways.items()} for _ in range(ROUNDS)]
            late = lateness(folder / "state", began)
            daemon.send_signal(signal.SIGTERM)
        os.kill(peer.pid or 0, signal.SIGTERM)
    middle = {way: [statistics.median(single[way][figure] for single in rounds) for figure in range(3)] for way in ways}
    for way, (rate, half, worst) in middle.items():
        ratio = rate / middle["constant"][0]
        print(f"{way:11} {rate:7.0f} requests/s, ratio {ratio:5.3f}; p50 {half:6.2f} ms, p99 {worst:6.2f} ms")
    print(json.dumps({"schedules": count, "largest lateness of a fire meanwhile, ms": round(late, 1)}))


async def is_up(socket: str) -> bool:
    session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket))
    try:
        async with session, session.get("http://x/healthz") as answer:
            return answer.status == web.HTTPOk.status_code
    except aiohttp.ClientError:
        return False


if __name__ == "__main__":
    main()
