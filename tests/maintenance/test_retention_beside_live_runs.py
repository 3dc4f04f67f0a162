"""A long sweep beside schedules that fire each second: none is late, none is lost, and the files stay small."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from daemon.units import format_instant, parse_instant
from tests.support.api import call
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.histories import fill

SCHEDULES = 20
TEXT = """\
[daemon]
state_dir = "state"
max_concurrent_runs = 40
[control]
socket = "c.sock"
[retention]
days = 30
every = "100d"
[agents.a]
command = ["true"]
max_concurrent = 40
"""
EACH = '[agents.a.schedules.s{}]\nevery = "1s"\n'


class Watch:
    """Looks at a daemon while it works: how soon it answers, how large its log and its memory become."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.log = 0
        self.slowest = 0.0
        self.memory = 0
        self._daemon = daemon
        self._done = threading.Event()

    def look(self) -> None:
        while not self._done.wait(0.01):
            began = perf_counter()
            call(self._daemon, "GET", "/healthz")
            self.slowest = max(self.slowest, perf_counter() - began)
            self.log = max(self.log, (self._daemon.state / "state.db-wal").stat().st_size)
            self.memory = max(self.memory, resident(self._daemon))

    @contextmanager
    def looking(self) -> Iterator[None]:
        thread = threading.Thread(target=self.look)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()


def resident(daemon: DaemonProcess) -> int:
    """Return the bytes of memory that a daemon takes."""
    return int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]) * 4096


def sweep(daemon: DaemonProcess) -> dict[str, Any]:
    command = [sys.executable, "-m", "daemon", "--config", str(daemon.config), "retention", "run", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200)
    return dict(json.loads(done.stdout))


def lateness(daemon: DaemonProcess, began: datetime, ended: datetime) -> list[float]:
    """Return by how many seconds the due times between two instants were decided late."""
    span = format_instant(began), format_instant(ended)
    decided = "outcome IN ('launched', 'skipped_overlap') AND decided_at BETWEEN ? AND ?"
    rows = daemon.query(f"SELECT * FROM fires WHERE {decided}", *span)
    return [(parse_instant(row["decided_at"]) - parse_instant(row["scheduled_for"])).total_seconds() for row in rows]


@pytest.mark.parametrize("runs", [20_000, pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_a_sweep_delays_no_run(start_daemon: StartDaemon, runs: int) -> None:
    text = TEXT + "".join(EACH.format(number) for number in range(SCHEDULES))
    daemon = start_daemon(text)
    daemon.wait_for_run("completed")
    daemon.stop()
    fill(daemon.state / "state.db", runs)
    size = (daemon.state / "state.db").stat().st_size
    daemon = start_daemon(text)
    daemon.wait_for_log("[run] Run completed")
    memory, began, watch = resident(daemon), datetime.now(UTC), Watch(daemon)
    with watch.looking():
        swept = sweep(daemon)
    ended = datetime.now(UTC)
    assert swept["deleted"] == runs * 9 // 10
    assert daemon.query("SELECT count(*) AS n FROM events WHERE run_id NOT IN (SELECT id FROM runs)")[0]["n"] == 0
    assert (daemon.state / "state.db").stat().st_size < size / 2
    assert watch.log < 16_000_000
    assert watch.memory - memory < 30_000_000
    late = lateness(daemon, began, ended)
    assert len(late) >= SCHEDULES * int((ended - began).total_seconds() - 1)
    figures = f"latest fire {max(late, default=0):.3f} s, slowest answer {watch.slowest:.3f} s"
    sizes = f"log {watch.log / 1e6:.1f} MB, memory {(watch.memory - memory) / 1e6:+.1f} MB"
    sys.stderr.write(f"{runs} runs: {swept['duration_ms']} ms, {figures}, {sizes}\n")
    assert daemon.query("PRAGMA integrity_check")[0][0] == "ok"
