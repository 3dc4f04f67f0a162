"""Pauses of pools and of everything, through the API and the command line."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemon.units import format_instant
from tests.support.api import call
from tests.support.configs import SELDOM, config_text
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.runs import ended, triggered
from tests.support.waiting import wait_until

QUICK = {"command": ["true"], "schedules": {"s": {"every": SELDOM}, "other": {"every": "1h", "paused": True}}}
CONFIG = config_text(
    agents={"in": {**QUICK, "pools": ["max"]}, "out": QUICK},
    pools={"max": {"max_concurrent": 2}},
    control={"socket": "c.sock"},
)


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> DaemonProcess:
    return start_daemon(CONFIG)


def pools(daemon: DaemonProcess) -> dict[str, dict[str, Any]]:
    return {pool["pool"]: pool for pool in call(daemon, "GET", "/pools").body["pools"]}


def test_pauses_hold_back_runs_and_leave_every_schedule_as_it_was(daemon: DaemonProcess) -> None:
    tables = ("schedules", "schedule_revisions")

    def rows() -> list[list[tuple[object, ...]]]:
        return [[tuple(row) for row in daemon.query(f"SELECT * FROM {table}")] for table in tables]

    before = rows()
    assert "until `agentcron resume max`; running" in daemon.cli("pause", "max", "--note", "new contract").stdout
    held = triggered(daemon, "in/s")
    assert ended(daemon, triggered(daemon, "out/s"))["status"] == "completed"
    assert daemon.cli("pause").returncode == 0
    everything = triggered(daemon, "out/s")
    listed = {run["id"]: run["waiting_for"] for run in json.loads(daemon.cli("runs", "list", "--json").stdout)["runs"]}
    assert listed[everything].startswith("everything is paused by ")
    shown = daemon.cli("status").stdout
    assert "new contract" in shown
    assert "everything" in shown
    daemon.wait_for_log("[run] Run waits", run_id=everything)
    assert daemon.cli("resume", "max").stdout == "max is resumed.\n"
    assert daemon.query("SELECT status FROM runs WHERE id = ?", held)[0]["status"] == "pending"
    assert daemon.cli("resume").stdout == "Everything is resumed.\n"
    assert [ended(daemon, run)["status"] for run in (held, everything)] == ["completed"] * 2
    assert daemon.cli("resume").stdout == "Nothing was paused.\n"
    assert rows() == before


def test_a_pause_ends_by_itself_and_says_until_when(daemon: DaemonProcess) -> None:
    until = format_instant(datetime.now(UTC) + timedelta(seconds=1))
    answer = call(daemon, "POST", "/pools/max/pause", {"until": until, "note": "soon"})
    assert answer.status == 200
    [pause] = answer.body["closures"]
    assert (pause["cause"], pause["until"], pause["reason"]) == ("pause", until, "soon")
    assert pools(daemon)["max"]["state"] == "paused"
    run = triggered(daemon, "in/s")
    assert call(daemon, "GET", f"/runs/{run}").body["waiting_for"].endswith(f" until {until}: soon")
    assert str(ended(daemon, run)["started_at"]) >= until
    assert pools(daemon)["max"] == {
        "pool": "max",
        "state": "open",
        "closures": [],
        "max_concurrent": 2,
        "reserve": 0,
        "running": 0,
        "pending": 0,
    }


def test_the_private_pool_of_an_agent_can_be_paused(daemon: DaemonProcess) -> None:
    assert daemon.cli("pause", "agent:out").returncode == 0
    run = triggered(daemon, "out/s")
    ended(daemon, triggered(daemon, "in/s"))
    assert pools(daemon)["agent:out"]["pending"] == 1
    assert daemon.cli("resume", "agent:out").returncode == 0
    assert ended(daemon, run)["status"] == "completed"


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/pools/none/pause", None, 404, "no pool 'none'; pools of the config: max"),
        ("/pools/agent:none/resume", None, 404, "no pool 'agent:none'"),
        ("/pools/*/pause", None, 404, "no pool"),
        ("/pools/max/pause", {"until": "2020-01-01T00:00:00Z"}, 400, "is past; leave it out"),
        ("/pools/pause", {"until": "tomorrow"}, 400, "not an RFC 3339 time"),
        ("/pools/pause", {"note": "x" * 1001}, 422, ""),
    ],
)
def test_what_makes_no_sense_is_refused(
    daemon: DaemonProcess, path: str, body: object, status: int, words: str
) -> None:
    answer = call(daemon, "POST", path, body)
    assert (answer.status, words in answer.body["message"]) == (status, True), answer.body


def test_a_reload_changes_the_places_and_the_agents_of_a_pool(daemon: DaemonProcess) -> None:
    assert daemon.cli("pause", "max").returncode == 0
    run = triggered(daemon, "in/s")
    daemon.config.write_text(
        CONFIG.replace('pools = ["max"]\n', "").replace("max_concurrent = 2", "max_concurrent = 5")
    )
    assert daemon.cli("reload").returncode == 0
    assert ended(daemon, run)["status"] == "completed"
    assert pools(daemon)["max"]["max_concurrent"] == 5
    daemon.config.write_text(CONFIG.replace("pools.max", "pools.min").replace('"max"', '"min"'))
    assert daemon.cli("reload").returncode == 0
    wait_until(lambda: "min" in pools(daemon))
    assert daemon.cli("resume").returncode == 0  # also what is no longer in the config
    assert [*pools(daemon)] == ["min"]
