"""What the daemon reports to systemd over its socket (sd_notify(3)), in which order and when."""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.config.live import LiveConfig
from daemon.config.schema import Config
from daemon.errors import DiskFullError
from daemon.lifecycle import startup
from daemon.lifecycle.signals import Stop
from daemon.store.database import Database
from daemon.store.state_dir import open_state
from daemon.units import utc_now
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.waiting import wait_until

AGENT = "[agents.a]\ncommand = ['sleep', '300']\n[agents.a.schedules.s]\nevery = '1s'\n"
TICKING = "[agents.a]\ncommand = ['true']\n[agents.a.schedules.s]\nevery = '1s'\n"
WATCHDOG = "1000000"  # microseconds; the daemon reports twice as often


class Manager:
    """Hears what a service manager would."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify.sock")
        self._channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._channel.bind(self.address)
        self.heard: list[tuple[float, str]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            message = self._channel.recv(4096).decode()
            self.heard += [(time.monotonic(), line) for line in message.splitlines()]

    def lines(self, *, without: str = "WATCHDOG") -> list[str]:
        return [line for _, line in self.heard if not line.startswith((without, "STATUS"))]

    def times(self, line: str) -> list[float]:
        return [at for at, heard in self.heard if heard == line]

    def wait_for(self, look: Callable[[], object]) -> None:
        wait_until(look, what=f"{self.lines()}")


@pytest.fixture
def manager(tmp_path: Path) -> Manager:
    return Manager(tmp_path)


def started(start_daemon: StartDaemon, manager: Manager, text: str = AGENT, **more: object) -> DaemonProcess:
    return start_daemon(text, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC=WATCHDOG, **more)


def test_the_sequence_of_start_reload_bad_reload_and_stop(start_daemon: StartDaemon, manager: Manager) -> None:
    daemon = started(start_daemon, manager)
    manager.wait_for(lambda: manager.lines() == ["READY=1"])
    ready = next(n for n, (_, line) in enumerate(manager.heard) if line == "READY=1")
    assert ready == 0  # nothing, and above all no WATCHDOG=1, is said before
    manager.wait_for(lambda: any(line.startswith("STATUS=") for _, line in manager.heard))
    for text in (daemon.config.read_text() + "# changed\n", "[daemon]\nnonsense = 1\n"):
        daemon.config.write_text(text)
        before = len(manager.lines())
        asked = time.monotonic()
        daemon.process.send_signal(signal.SIGHUP)
        manager.wait_for(lambda before=before: manager.lines()[before:][-1:] == ["READY=1"])  # type: ignore[misc]
        reloading, stamp, _ = manager.lines()[before:]
        assert (reloading, stamp.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
        assert asked < int(stamp.partition("=")[2]) / 1e6 < manager.times("READY=1")[-1]
    before = len(manager.lines())
    assert daemon.stop() == 0
    assert manager.lines()[before:] == ["STOPPING=1", f"EXTEND_TIMEOUT_USEC={70 * 10**6}"]


async def test_a_start_that_waited_for_a_full_disk_keeps_the_watchdog_quiet_while_it_opens_the_database(
    tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    monkeypatch.setattr(startup, "_AGAIN_AFTER", 0.01)
    attempts = itertools.count()

    def opening() -> Database:
        if next(attempts) == 0:
            raise DiskFullError("no room")
        said = len(manager.times("WATCHDOG=1"))
        manager.wait_for(lambda: len(manager.times("WATCHDOG=1")) > said + 1)
        return open_state(tmp_path, utc_now(), accept_data_loss=False)

    assert await startup.open_patiently(opening, Stop(LiveConfig(Config()))) is not None
    assert manager.lines()[0] == "READY=1"


def test_the_status_reports_problems_until_they_are_fixed(start_daemon: StartDaemon, manager: Manager) -> None:
    daemon = started(start_daemon, manager)
    good = daemon.config.read_text()

    def last_status() -> str:
        return next((line for _, line in reversed(manager.heard) if line.startswith("STATUS=")), "")

    daemon.config.write_text(good + "bogus = 1\nworse = 2\n")
    daemon.process.send_signal(signal.SIGHUP)
    manager.wait_for(lambda: last_status().endswith("; config not reloaded (2 errors), see the log"))
    assert "problem  config not reloaded (2 errors)" in daemon.cli("status").stdout
    daemon.config.write_text(good)
    daemon.process.send_signal(signal.SIGHUP)
    manager.wait_for(lambda: "not reloaded" not in last_status())
    manager.wait_for(lambda: last_status().endswith(", nothing changed"))
    assert "; config reloaded 20" in last_status()
    with contextlib.closing(sqlite3.connect(daemon.state / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        manager.wait_for(lambda: "; the database cannot be written now: database is locked" in last_status())
    manager.wait_for(lambda: "locked" not in last_status())


def test_the_watchdog_is_notified_in_time_even_during_a_stop(start_daemon: StartDaemon, manager: Manager) -> None:
    text = "[daemon]\nstate_dir = 'state'\non_stop = 'drain'\nstop_timeout = '3s'\n" + AGENT
    daemon = started(start_daemon, manager, text)
    daemon.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    daemon.stop()
    ends = [*manager.times("READY=1"), *manager.times("WATCHDOG=1"), time.monotonic()]
    assert max(later - earlier for earlier, later in itertools.pairwise(ends)) < 2


@pytest.fixture
def freezable(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that can be frozen, which is how a disk that hangs looks to a program."""
    place, image = tmp_path / "disk", tmp_path / "image"
    place.mkdir()
    image.touch()
    os.truncate(image, 96 * 1024**2)
    if shutil.which("fsfreeze") is None or shutil.which("mkfs.ext4") is None:
        pytest.skip("fsfreeze and mkfs.ext4 are needed")
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    if subprocess.run(["mount", "-o", "loop", image, place], check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system needs root and a loop device")
    yield place
    subprocess.run(["fsfreeze", "-u", str(place)], check=False, capture_output=True)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_hangs_silences_the_watchdog_and_no_run_is_lost(
    start_daemon: StartDaemon, manager: Manager, freezable: Path
) -> None:
    text = f"[daemon]\nstate_dir = '{freezable}/state'\n{TICKING}"
    daemon = started(start_daemon, manager, text, state=freezable / "state")
    daemon.wait_for_run("completed")
    manager.wait_for(lambda: manager.times("WATCHDOG=1"))
    subprocess.run(["fsfreeze", "-f", str(freezable)], check=True, timeout=20)
    try:
        quiet_for = 3.0
        wait_until(lambda: time.monotonic() - manager.times("WATCHDOG=1")[-1] > quiet_for, what="a silent watchdog")
        daemon.process.send_signal(signal.SIGABRT)  # which is what systemd does then
    finally:
        subprocess.run(["fsfreeze", "-u", str(freezable)], check=True, timeout=20)
    assert daemon.process.wait(20) == -signal.SIGABRT
    assert "Current thread" in daemon.log_text()  # where it hung
    again = started(start_daemon, manager, text, state=freezable / "state")
    [known] = again.query("SELECT max(id) AS id FROM runs")
    again.wait_for_row("SELECT 1 FROM runs WHERE status = 'completed' AND id > ?", known["id"])
    statuses = {row["status"] for row in again.query("SELECT DISTINCT status FROM runs")}
    assert statuses <= {"completed", "running", "pending"}
    lost = "SELECT 1 FROM fires LEFT JOIN runs ON runs.id = run_id WHERE outcome = 'launched' AND runs.id IS NULL"
    assert not again.query(lost)


@pytest.mark.parametrize("address", ["/nowhere/socket", "@nobody", "nonsense", ""])
def test_a_missing_service_manager_is_no_trouble(start_daemon: StartDaemon, address: str) -> None:
    assert start_daemon(AGENT, NOTIFY_SOCKET=address).stop() == 0
