"""A schedule whose agent goes on with one session: nothing is told twice, whatever is killed, lost or refused."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import acp_client
from tests.support.api import call
from tests.support.configs import SELDOM, config_text
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.runs import ended, finished, triggered
from tests.support.sessions import Reporter
from tests.support.waiting import wait_until


def config(reporter: Reporter, place: Path, **schedule: object) -> str:
    place.mkdir(exist_ok=True)
    return config_text(
        environments={"home": {"mode": "local", "path": str(place)}},
        agents={
            "a": {
                "command": reporter.command,
                "environment": "home",
                "schedules": {"s": {"every": SELDOM, "session": "continue", **schedule}},
            }
        },
    )


def told(daemon: DaemonProcess) -> list[str]:
    """Return everything that completed runs told, in order."""
    rows = daemon.query("SELECT message FROM runs WHERE status = 'completed' AND message <> 'nothing new' ORDER BY id")
    return [name for row in rows for name in row["message"].split()]


def events(daemon: DaemonProcess, run: int) -> Sequence[str]:
    rows = daemon.query("SELECT type FROM events WHERE run_id = ? AND type LIKE 'session%' ORDER BY number", run)
    return [row["type"] for row in rows]


@pytest.mark.parametrize("rounds", [6, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
def test_each_thing_is_told_once_although_the_daemon_is_killed(
    start_daemon: StartDaemon, tmp_path: Path, rounds: int
) -> None:
    reporter, chance = Reporter(tmp_path / "site"), random.Random(rounds)
    text = config(reporter, tmp_path / "home")
    daemon = start_daemon(text)
    for number in range(1, rounds + 1):
        reporter.add(f"thing-{number:02}")
        run = triggered(daemon, "a/s")
        if chance.random() < 0.6:
            daemon.kill()
            daemon = start_daemon(text)
        assert ended(daemon, run)["status"] == "completed"
    assert told(daemon) == [f"thing-{number:02}" for number in range(1, rounds + 1)]
    assert len({row["session"] for row in daemon.query("SELECT session FROM runs")}) == 1


def test_a_refused_session_begins_anew_and_says_so(start_daemon: StartDaemon, tmp_path: Path) -> None:
    reporter = Reporter(tmp_path / "site")
    reporter.add("fire")
    daemon = start_daemon(config(reporter, tmp_path / "home"))
    assert finished(daemon, "a/s")["message"] == "fire"
    reporter.forget()
    refused = finished(daemon, "a/s")
    assert refused["status"] == "continued_as_new"
    assert "No conversation found with session ID" in refused["error"]
    again = ended(daemon, refused["next_run_id"])
    assert (again["status"], again["message"], again["resumed_session"]) == ("completed", "fire", None)
    assert events(daemon, refused["id"]) == ["session_continued", "session_refused"]
    assert events(daemon, again["id"]) == ["session_begun"]
    assert daemon.wait_for_log("[run] Agent did not continue its session", run_id=refused["id"])
    last = finished(daemon, "a/s")
    assert (last["message"], last["resumed_session"]) == ("nothing new", again["session"])
    shown = call(daemon, "GET", f"/runs/{last['id']}").body
    assert shown["resumed_session"] == again["session"]
    line = f"cd {tmp_path / 'home'} && claude --resume {last['session']}"
    assert shown["resume_command"] == line
    assert line in daemon.cli("runs", "show", str(last["id"])).stdout


def test_a_run_beside_another_begins_a_session_of_its_own(start_daemon: StartDaemon, tmp_path: Path) -> None:
    reporter = Reporter(tmp_path / "site")
    gate = tmp_path / "gate"
    slow = f'while [ -e {gate} ]; do sleep 0.02; done; exec {reporter.program} \\"$@\\"'
    text = config(reporter, tmp_path / "home").replace(f'"{reporter.program}"', f'"sh", "-c", "{slow}", "claude"')
    text = text.replace("[agents.a]\n", '[agents.a]\nmax_concurrent = 2\nresult_format = "claude"\n')
    daemon = start_daemon(text)
    first = finished(daemon, "a/s")
    gate.touch()
    runs = [triggered(daemon, "a/s") for _ in range(2)]
    wait_until(lambda: len(daemon.query("SELECT 1 FROM runs WHERE status = 'running'")) == 2, what="both run")
    daemon.kill()
    daemon = start_daemon(text)
    gate.unlink()
    given = [ended(daemon, run)["resumed_session"] for run in runs]
    assert given == [first["session"], None]


def test_schedules_of_the_api_continue_sessions_too(start_daemon: StartDaemon, tmp_path: Path) -> None:
    reporter = Reporter(tmp_path / "site")
    daemon = start_daemon(config(reporter, tmp_path / "home"))
    wanted: dict[str, Any] = {"session": "continue", "session_max_runs": 3, "session_max_age_seconds": 3600}
    body = {"name": "t", "interval_seconds": 10**8, **wanted}
    made = call(daemon, "POST", "/agents/a/schedules", body)
    assert {key: made.body[key] for key in wanted} == wanted
    assert [finished(daemon, "a/t")["resumed_session"] is None for _ in range(2)] == [True, False]
    refused = call(daemon, "PATCH", "/agents/a/schedules/t", {"overlap_policy": "allow_all"})
    assert (refused.status, "two runs would write into one session" in refused.body["message"]) == (400, True)
    done = daemon.cli("schedules", "update", "a/t", "--session", "new", "--clear", "session_max_runs")
    assert done.returncode == 0, done.stderr
    assert finished(daemon, "a/t")["resumed_session"] is None


def test_acp_agents_load_their_session_or_begin_anew_in_the_same_run(start_daemon: StartDaemon) -> None:
    schedule = {"every": SELDOM, "session": "continue"}
    agents = {
        name: {"type": "acp", "command": [*acp_client.PLAIN, name], "schedules": {"s": schedule}}
        for name in ("load", "lists")
    }
    daemon = start_daemon(config_text(agents=agents))
    for name in agents:
        assert finished(daemon, f"{name}/s")["resumed_session"] is None
    loaded, anew = finished(daemon, "load/s"), finished(daemon, "lists/s")
    assert [run["resumed_session"] for run in (loaded, anew)] == ["s-1", "s-1"]
    assert daemon.output(loaded["id"]) == "and so on\n"
    assert events(daemon, loaded["id"]) == ["session_continued"]
    assert (anew["status"], events(daemon, anew["id"])) == ("completed", ["session_continued", "session_refused"])
