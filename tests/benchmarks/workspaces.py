"""Workspaces of a large repository: their making against `git clone --local`, their removal against `rm -rf`.

Told besides: how soon a workspace is seen as gone, the CPU that the daemon's own process spends on a removal against
that of a walk inside it, the time of a measurement against `du -s`, and how far the event loop falls behind meanwhile.
Rounds are interleaved.

Run: python tests/benchmarks/workspaces.py [FILES]
"""

import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from daemon.workspaces.clean import no_log
from daemon.workspaces.client import workspace_helper
from daemon.workspaces.jobs import Author, MeasureWorkspaces, PrepareWorkspace, Source
from daemon.workspaces.removal import discard

ROUNDS = 3
TASKS = ("environments", "site", "tasks")


def repository(folder: Path, files: int) -> Path:
    place = folder / "origin"
    for number in range(files):
        if number % 100 == 0:
            (place / f"d{number // 1000}" / f"e{number // 100}").mkdir(parents=True)
        (place / f"d{number // 1000}" / f"e{number // 100}" / f"{number}.txt").write_text(f"{number}\n" * 20)
    run(place, "git", "init", "-q", "-b", "main")
    run(place, "git", "config", "gc.auto", "0")
    run(place, "git", "add", ".")
    run(place, "git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "all")
    run(place, "git", "gc", "-q")
    return place


def run(place: Path, *command: str) -> None:
    subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)


def taken(work: Callable[..., object], *arguments: object) -> float:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


class Stalls:
    """By how much the event loop comes late while something is done."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def during(self, work: Awaitable[object]) -> float:
        """Return the seconds that the work takes."""
        task = asyncio.ensure_future(work)
        began = time.perf_counter()
        while not task.done():
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self.late.append(time.perf_counter() - before - 0.001)
        await task
        return time.perf_counter() - began

    @property
    def p99_ms(self) -> float:
        return statistics.quantiles(self.late, n=100)[98] * 1000


async def measure(folder: Path, files: int) -> dict[str, float]:
    origin, state = repository(folder, files), folder / "state"
    state.mkdir()
    source = Source("site", str(origin), None, 3600.0, require_fetch=False, fetch_timeout=60.0)
    author = Author("x", "x@x", is_name_set=True, is_email_set=True)
    figures: dict[str, list[float]] = {}
    stalls = {name: Stalls() for name in ("making", "removal", "size")}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    async def make(number: int) -> None:
        async with workspace_helper(state, no_log) as helper:
            await helper.prepare_workspace(
                PrepareWorkspace(source, author, number, umask=0o022, timeout=600.0, fetches=True)
            )

    await make(99)  # which fetches the mirror
    mirror = state / "environments" / "site" / "mirror"
    for number in range(1, ROUNDS + 1):
        peer, ours = folder / f"peer-{number}", state.joinpath(*TASKS, str(number))
        note("git clone --local", taken(run, folder, "git", "clone", "-q", "--local", str(mirror), str(peer)))
        note("making", await stalls["making"].during(make(number)))
        note("du -s", taken(run, folder, "du", "-s", str(peer)))
        async with workspace_helper(state, no_log) as helper:
            await helper.list_workspaces()  # as a sweep does before it measures
            measured = helper.measure_workspaces(MeasureWorkspaces("site", {number: str(number)}))
            note("size", await stalls["size"].during(measured))
            shutil.copytree(peer, folder / f"walk-{number}", symlinks=True)
            note("rm -rf", taken(run, folder, "rm", "-rf", str(peer)))
            note("gone", taken(discard, state, TASKS, str(number)))
            assert not ours.exists()
            before = time.process_time()
            await helper.delete_leftovers()
            note("removal, CPU here", time.process_time() - before)
            await make(number)
            discard(state, TASKS, str(number))
            note("removal", await stalls["removal"].during(helper.delete_leftovers()))
        before = time.process_time()
        shutil.rmtree(folder / f"walk-{number}")
        note("walk, CPU here", time.process_time() - before)
    middle = {name: statistics.median(values) for name, values in figures.items()}
    return {
        "files": files,
        "making / git clone --local": middle["making"] / middle["git clone --local"],
        "gone after, ms": middle["gone"] * 1000,
        "removal / rm -rf": middle["removal"] / middle["rm -rf"],
        "CPU of a removal / of a walk": middle["removal, CPU here"] / middle["walk, CPU here"],
        "size / du -s": middle["size"] / middle["du -s"],
        **{f"loop late during {name}, p99, ms": stall.p99_ms for name, stall in stalls.items()},
    }


def main() -> None:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    with tempfile.TemporaryDirectory() as name:
        found = asyncio.run(measure(Path(name), files))
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=1))


if __name__ == "__main__":
    main()
