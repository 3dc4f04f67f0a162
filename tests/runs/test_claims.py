"""Claims within the places of pools: those that are reserved, and those that a run holds whatever a reload changes."""

import os
from pathlib import Path

from tests.support.configs import SELDOM, config_text
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.runs import ended, triggered


def running(daemon: DaemonProcess) -> list[int]:
    return [row["id"] for row in daemon.query("SELECT id FROM runs WHERE status = 'running' ORDER BY id")]


def waiting_for(gate: Path) -> list[str]:
    return ["sh", "-c", f"cat {gate} > /dev/null"]


def open_for_all(gate: Path) -> None:
    with gate.open("w"):
        pass


def test_reserved_places_are_for_what_a_person_asks_for(start_daemon: StartDaemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    agent = {
        "command": waiting_for(gate),
        "pools": ["max"],
        "max_concurrent": 9,
        "schedules": {"due": {"every": "1s", "overlap": "allow_all"}, "asked": {"every": SELDOM}},
    }
    other = {"command": ["true"], "schedules": {"s": {"every": SELDOM}}}
    pools = {"max": {"max_concurrent": 2, "reserve": 1}}
    daemon = start_daemon(config_text(agents={"a": agent, "b": other}, pools=pools))
    daemon.wait_for_row("SELECT 1 FROM (SELECT count(*) AS n FROM runs WHERE status = 'pending') WHERE n > 2")
    assert len(running(daemon)) == 1
    asked = triggered(daemon, "a/asked")
    daemon.wait_for_run("running", number=asked)
    more = triggered(daemon, "a/asked")
    assert ended(daemon, triggered(daemon, "b/s"))["status"] == "completed"  # it is behind none of those that wait
    assert daemon.query("SELECT status FROM runs WHERE id = ?", more)[0]["status"] == "pending"
    assert running(daemon) == [1, asked]


def test_a_run_holds_its_places_until_it_ends_whatever_a_reload_changes(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    schedules = {"s": {"every": SELDOM}}
    holding = {"command": waiting_for(gate), "schedules": schedules}
    agents = {
        "a": {**holding, "pools": ["site"]},
        "b": {"command": ["true"], "pools": ["site"], "schedules": schedules},
    }
    pools = {"site": {"max_concurrent": 1}}
    daemon = start_daemon(config_text(agents=agents, pools=pools))
    held = triggered(daemon, "a/s")
    daemon.wait_for_run("running", number=held)
    daemon.config.write_text(config_text(agents={**agents, "a": holding}, pools=pools))
    assert daemon.cli("reload").returncode == 0
    waiting = triggered(daemon, "b/s")
    daemon.wait_for_log("[run] Run waits", run_id=waiting, waiting_for="pool site has no free place")
    daemon.kill()
    daemon = start_daemon(daemon.config.read_text())
    daemon.wait_for_log("[run] Run waits", run_id=waiting)
    open_for_all(gate)
    assert ended(daemon, held)["completed_at"] <= ended(daemon, waiting)["started_at"]
