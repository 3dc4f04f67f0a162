"""200 real processes due in one second: how late they start, against stock APScheduler and yacron.

Each process is `touch FILE`; the time of its file, less the due time, is how late it came. Ours records each due time,
its run and each step of it durably, and supervises the process; the peers only start it. All are due at the turn of a
minute, the finest that yacron knows. Rounds are interleaved.

Run: pip install 'agentcron[benchmarks]'; python tests/benchmarks/processes_at_once.py [COUNT [ROUNDS]]
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

AHEAD = 8.0  # seconds before the minute at which a scheduler is started
DEADLINE = 30.0

STOCK = """\
import asyncio, sys
from apscheduler.schedulers.asyncio import AsyncIOScheduler

async def job(file):
    process = await asyncio.create_subprocess_exec("touch", file, stdin=asyncio.subprocess.DEVNULL)
    await process.wait()

async def main():
    scheduler = AsyncIOScheduler(timezone="UTC", job_defaults={"misfire_grace_time": None})
    for number in range(int(sys.argv[1])):
        scheduler.add_job(job, "cron", args=[f"{sys.argv[2]}/{number}"], minute="*")
    scheduler.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


def ours(folder: Path, count: int) -> list[str]:
    lines = ["[daemon]", f"max_concurrent_runs = {count}", 'state_dir = "state"']
    for number in range(count):
        lines += [f"[agents.a{number}]", f"command = ['touch', '{folder}/started/{number}']"]
        lines += [f"[agents.a{number}.schedules.s]", 'cron = "* * * * *"']
    file = folder / "config.toml"
    file.write_text("\n".join(lines))
    return [sys.executable, "-m", "daemon", "--config", str(file), "run"]


def stock(folder: Path, count: int) -> list[str]:
    return [sys.executable, "-c", STOCK, str(count), str(folder / "started")]


def yacron(folder: Path, count: int) -> list[str]:
    lines = ["jobs:"]
    for number in range(count):
        lines += [f"  - name: j{number}", "    command:", "      - touch", f"      - {folder}/started/{number}"]
        lines += ['    schedule: "* * * * *"', "    captureStderr: false"]
    file = folder / "yacron.yaml"
    file.write_text("\n".join(lines))
    return [sys.executable, "-m", "yacron", "-c", str(file)]


def lateness(way: Callable[[Path, int], list[str]], count: int) -> list[float]:
    """Return by how many seconds each process came late, the earliest first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = folder / "started"
        started.mkdir()
        command = way(folder, count)
        due = (time.time() + AHEAD) // 60 * 60 + 60
        rest = threading.Event()
        rest.wait(due - AHEAD - time.time())
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as scheduler:
            while len(list(started.iterdir())) < count and time.time() < due + DEADLINE:
                rest.wait(0.25)
            times = sorted(file.stat().st_mtime - due for file in started.iterdir())
            scheduler.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                scheduler.wait(10)
            scheduler.kill()
    assert len(times) == count, f"{way.__name__} started {len(times)} of {count}"
    return times


def main() -> None:
    words = [int(word) for word in sys.argv[1:]]
    count, rounds = words + [200, 3][len(words) :]
    ways = (ours, stock, yacron)
    measured = [[lateness(way, count) for way in ways] for _ in range(rounds)]
    for index, way in enumerate(ways):
        middle = statistics.median(statistics.median(single[index]) for single in measured)
        last = statistics.median(single[index][-1] for single in measured)
        print(
            f"{way.__name__:8} {count} processes: median {middle * 1000:6.0f} ms late, the last {last * 1000:6.0f} ms"
        )


if __name__ == "__main__":
    main()
