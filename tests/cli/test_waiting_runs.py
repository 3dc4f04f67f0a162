"""Commands that hold waiting runs back, or cancel them: what they say and what happens."""

import json
import re

from tests.support.api import call
from tests.support.configs import EACH_SECOND, config_text
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.runs import ended, triggered

SLEEPY = {"command": ["sh", "-c", "sleep 300"], "max_concurrent": 9}
TEXT = config_text(
    control={"socket": "c.sock"},
    agents={
        "a": {**SLEEPY, "schedules": {"s": {**EACH_SECOND["s"], "overlap": "buffer_all"}}},
        "b": {**SLEEPY, "schedules": {"seldom": {"every": "36500d"}}},
    },
)
WAITING = "SELECT 1 FROM (SELECT count(*) AS n FROM runs WHERE status = 'pending' AND schedule_id = ?) WHERE n >= 2"
UNDER_WAY = "SELECT * FROM runs WHERE delivered_at IS NOT NULL AND schedule_id = ?"


def said(daemon: DaemonProcess, *arguments: str) -> str:
    answer = daemon.cli(*arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def number_of(daemon: DaemonProcess, address: str) -> int:
    agent, _, name = address.partition("/")
    return int(daemon.query("SELECT id FROM schedules WHERE agent = ? AND name = ?", agent, name)[0]["id"])


def wait_for_backlog(daemon: DaemonProcess, address: str) -> None:
    schedule = number_of(daemon, address)
    daemon.wait_for_row(UNDER_WAY, schedule)
    daemon.wait_for_row(WAITING, schedule)


def started_of(daemon: DaemonProcess, address: str) -> set[int]:
    sql = "SELECT id FROM runs WHERE schedule_id = ? AND started_at IS NOT NULL"
    return {row["id"] for row in daemon.query(sql, number_of(daemon, address))}


def test_a_pause_holds_back_what_waits_and_says_so(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TEXT)
    wait_for_backlog(daemon, "a/s")
    assert re.fullmatch(
        r"a/s is paused; \d+ runs wait until it is resumed, 1 run continues\.\n",
        said(daemon, "schedules", "pause", "a/s"),
    )
    waiting = len(daemon.query("SELECT 1 FROM runs WHERE status = 'pending'"))
    assert f"{waiting} runs, {waiting} of them because their schedules are paused" in said(daemon, "status")
    assert "pending: its schedule is paused" in said(daemon, "runs", "list")
    view = json.loads(said(daemon, "schedules", "show", "a/s", "--json"))
    assert (view["waiting_runs"], view["running_runs"]) == (waiting, 1)

    [running] = started_of(daemon, "a/s")
    assert re.search(
        r"; \d+ runs wait until it is resumed, 1 run is cancelled\.",
        said(daemon, "schedules", "pause", "a/s", "--cancel"),
    )
    assert ended(daemon, running)["error"] == "cancelled by root: its schedule was paused"
    passing = triggered(daemon, "a/s")  # it passes the pause, and shows that the queue has looked
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND delivered_at IS NOT NULL", passing)
    assert started_of(daemon, "a/s") == {running, passing}

    other = triggered(daemon, "b/seldom")
    assert f"Cancelling {waiting + 1} runs" in said(daemon, "runs", "cancel", "--schedule", "a/s")
    assert ended(daemon, passing)["status"] == "cancelled"
    assert daemon.query("SELECT 1 FROM runs WHERE status = 'pending'") == []
    assert daemon.query("SELECT 1 FROM fires WHERE outcome = 'buffered'") == []
    assert "Cancelling 1 run." in said(daemon, "runs", "cancel", "--agent", "b")
    assert ended(daemon, other)["status"] == "cancelled"
    neither = daemon.cli("runs", "cancel", "--agent", "b", "--all")
    assert (neither.returncode, "give one of" in neither.stderr) == (2, True)


def test_a_deletion_cancels_what_waits_and_says_so(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TEXT)
    for name, option, rest in (("t", (), "1 run continues"), ("u", ("--cancel",), "")):
        said(daemon, "schedules", "create", f"b/{name}", "--every", "1s", "--overlap", "buffer_all")
        wait_for_backlog(daemon, f"b/{name}")
        text = said(daemon, "schedules", "delete", f"b/{name}", *option)
        assert re.fullmatch(rf"b/{name} was deleted; \d+ runs were cancelled{f', {rest}' if rest else ''}\.\n", text)
        [running] = started_of(daemon, f"b/{name}")
        assert daemon.query("SELECT 1 FROM runs WHERE status = 'pending' AND agent = 'b'") == []
        if option:
            assert ended(daemon, running)["error"] == "cancelled by root: its schedule was deleted"
        else:
            assert daemon.query("SELECT status FROM runs WHERE id = ?", running)[0]["status"] == "running"


def test_runs_of_a_schedule_are_cancelled_without_a_daemon(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TEXT)
    wait_for_backlog(daemon, "a/s")
    other = triggered(daemon, "b/seldom")
    daemon.kill()
    active = len(daemon.query("SELECT 1 FROM runs WHERE agent = 'a' AND completed_at IS NULL"))
    assert f"Cancelling {active} runs when the daemon starts." in said(daemon, "runs", "cancel", "--schedule", "a/s")
    flagged = daemon.query("SELECT count(*) AS n, max(run_id) AS last FROM cancellation_flags")[0]
    assert flagged["n"] == active
    assert daemon.query("SELECT 1 FROM cancellation_flags WHERE run_id = ?", other) == []


def test_the_api_cancels_what_runs_only_on_request(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(TEXT)
    wait_for_backlog(daemon, "a/s")
    paused = call(daemon, "POST", "/agents/a/schedules/s/pause").body
    assert (paused["state"], paused["running_runs"], paused["cancelled_runs"]) == ("paused", 1, 0)
    assert paused["waiting_runs"] >= 2
    ending = call(daemon, "POST", "/agents/a/schedules/s/pause", {"cancel": True}).body
    assert (ending["running_runs"], ending["cancelled_runs"]) == (1, 1)
    assert call(daemon, "DELETE", "/agents/a/schedules/s?cancel=perhaps").status == 422


def test_waiting_for_a_run_says_what_its_next_attempt_waits_for(start_daemon: StartDaemon) -> None:
    script = (
        '[ $AGENTCRON_ATTEMPT = 2 ] || echo \'{"kind": "quota", "message": "Out of quota", "retry_after": 2}\' '
        "> $AGENTCRON_RESULT"
    )
    agent = {"command": ["sh", "-c", script], "retry_delay": "1s"}
    done = start_daemon(config_text(control={"socket": "c.sock"}, agents={"a": agent})).cli(
        "runs", "start", "a", "--wait"
    )
    said = done.stderr.splitlines()
    assert said[:2] == ["Following run 1", "Run 1 failed, and is tried again: Out of quota"]
    assert re.fullmatch(r"Following run 2, which waits: agent a is closed until \S+: Out of quota", said[2])
    assert (said[3:], done.returncode) == (["Run 2 completed"], 0)


def test_large_runs_that_a_deletion_leaves_to_the_queue_are_cancelled(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(config_text(control={"socket": "c.sock"}, agents={"c": {**SLEEPY, "max_concurrent": 1}}))
    large = {"type": "text", "author": "user", "content": "x" * 1_000_000}
    new = {"name": "large", "interval_seconds": 86_400, "initial_input": large}
    assert call(daemon, "POST", "/agents/c/schedules", new).status == 201
    for _ in range(9):
        assert call(daemon, "POST", "/agents/c/schedules/large/trigger").status < 300
    daemon.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    assert call(daemon, "DELETE", "/agents/c/schedules/large").body["cancelled_runs"] == 8
    cancelled = "SELECT 1 FROM (SELECT count(*) AS n FROM runs WHERE status = 'cancelled') WHERE n = 8"
    daemon.wait_for_row(cancelled)
