"""Promise 7: an error in one part of the daemon, or about one schedule, run or target, costs that one only."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.configs import config_text, shell_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.database import change_database
from tests.support.ledger import assert_no_run_started_twice, assert_the_ledger_is_exact
from tests.support.waiting import wait_until

LOOPS = (
    "Clock.serve",
    "ClockWatch.serve",
    "Queue.serve",
    "Cleanup.serve",
    "MirrorMaintenance.serve",
    "Retention.serve",
    "Notifier.serve",
    "DeadManSwitches.serve",
    "Watchdog.serve",
    "Database._drain",
)
TASKS = ("Notifier._send_safely", "DeadManSwitches._ping_safely", "Pipeline.execute")
OFTEN = """
from pathlib import Path
from tests.support.injection import inject
import daemon.clock.watch, daemon.lifecycle.watchdog, daemon.notify.dead_man_switch, daemon.problems, daemon.runs.queue
daemon.clock.watch._HEARTBEAT = daemon.lifecycle.watchdog._EVERY = daemon.notify.dead_man_switch._PING_EVERY = 0.2
daemon.problems._FIRST_PAUSE, daemon.problems._LONGEST_PAUSE = 0.01, 0.2
inject({names}, {most}, Path("{report}"), late={late})
"""


def config(folder: Path) -> str:
    script = f"echo $AGENTCRON_RUN_ID >> {folder}/started"
    return config_text(
        agents={"a": shell_agent(script, schedule={"overlap": "allow_all"}, max_concurrent=50)},
        cleanup={"every": "1s"},
        retention={"every": "1s", "days": 1},
        notify={"ops": {"on": ["completed"], "command": ["true"], "ping": "http://127.0.0.1:9/x"}},
        environments={"site": {"quota": "1GiB"}},
    )


def settled(daemon: DaemonProcess) -> None:
    """Wait until the daemon has no problems and no run that waits or runs longer than a moment."""

    def is_healthy() -> bool:
        status = json.loads(daemon.cli("status", "--json").stdout)
        unanswered = "dead-man's switches", "ops"  # nobody listens where it pings
        left = [one for one in status["problems"] if (one["part"], one["subject"]) != unanswered]
        return not left and status["daemon"]["amiss"] in {None, "errors in dead-man's switches (1)"}

    wait_until(is_healthy, deadline=60, what=f"a healthy daemon\n{daemon.log_text()[-3000:]}")
    last = daemon.query("SELECT max(id) AS id FROM runs")[0]["id"] or 0
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id > ? AND status = 'completed'", last, deadline=60)
    unended = "SELECT 1 FROM runs WHERE id <= ? AND completed_at IS NULL"
    wait_until(lambda: not daemon.query(unended, last), deadline=60, what="an end of all earlier runs")


@pytest.mark.parametrize("most", [3, pytest.param(40, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_an_error_at_each_wait_of_each_loop_stops_nothing(
    start_daemon: StartDaemon, tmp_path: Path, most: int, *, late: bool
) -> None:
    report = tmp_path / "report"
    report.touch()
    names = {*LOOPS, *TASKS} - ({"ClockWatch.serve"} if late else set())  # whose waits all end in a timeout
    injection = OFTEN.format(names=names, most=most, report=report, late=late)
    daemon = start_daemon(config(tmp_path), slowed=injection)

    def is_done() -> bool:
        assert daemon.process.poll() is None, daemon.log_text()[-5000:]
        return Counter(report.read_text().split()) == dict.fromkeys(names, most)

    wait_until(is_done, deadline=60 if most < 10 else 3000, what=f"all errors: {Counter(report.read_text().split())}")
    settled(daemon)
    parts = {"clock", "queue", "notifier", "dead-man's switches", "watchdog", "retention", "cleanup", "mirrors"}
    events = daemon.log()
    said = {event["part"] for event in events if event["event"].startswith("[daemon] A part of the daemon failed")}
    failed_sweep = re.compile(r"\[(cleanup|retention)\] The (?:cleanup|sweep) failed")
    said |= {found[1] for event in events if (found := failed_sweep.match(event["event"]))}
    assert parts <= said
    daemon.wait_for_log("[daemon] The database writer failed; it continues")
    assert daemon.stop() == 0
    assert_the_ledger_is_exact(daemon)
    assert_no_run_started_twice(tmp_path)
    assert daemon.query("SELECT 1 FROM fires WHERE outcome = 'skipped_missed'") == []


SOON = "import daemon.runs.queue as q, daemon.runs.pipeline as p\nq._FIRST_PUT_OFF = p._FIRST_PAUSE = 0.2"
AGAIN_SOON = """
import datetime
import daemon.fires.decision as decision
decision.RETRY_AFTER = datetime.timedelta(seconds=0.5)
"""
OVERFLOW = "SELECT abs(-9223372036854775807 - 1)"  # fails as sums did


def poison(daemon: DaemonProcess, event: str, when: str) -> None:
    """Have each change of a table fail that meets a condition."""
    change_database(daemon, f"CREATE TRIGGER poison {event} WHEN {when} BEGIN {OVERFLOW}; END")


def two_agents(folder: Path, at_once: int = 1) -> str:
    agents = {name: shell_agent(f"echo $AGENTCRON_RUN_ID >> {folder}/started") for name in ("a", "b")}
    return config_text(agents=agents, daemon={"max_concurrent_runs": at_once})


def problem(daemon: DaemonProcess, subject: str) -> dict[str, object]:
    """Return a problem once the status shows it, for people and for programs."""

    def look() -> dict[str, object] | None:
        shown = json.loads(daemon.cli("status", "--json").stdout)["problems"]
        return next((one for one in shown if one["subject"] == subject), None)

    found = wait_until(look, what=f"the problem of {subject}\n{daemon.log_text()[-3000:]}")
    assert "integer overflow" in str(found["reason"])
    text = daemon.cli("status").stdout
    assert subject in text
    assert "integer overflow" in text
    return found


def test_a_schedule_that_cannot_be_decided_costs_that_one_only(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(two_agents(tmp_path), slowed=AGAIN_SOON)
    daemon.wait_for_run("completed")
    [a, b] = daemon.query("SELECT id FROM schedules ORDER BY agent")
    poison(daemon, "BEFORE INSERT ON fires", f"NEW.schedule_id = {a['id']}")
    daemon.wait_for_log("[clock] Due times cannot be decided", schedule="a/s")
    assert problem(daemon, "a/s")["part"] == "clock"
    last = daemon.query("SELECT max(scheduled_for) AS at FROM fires WHERE schedule_id = ?", b["id"])[0]["at"]
    daemon.wait_for_row("SELECT 1 FROM fires WHERE schedule_id = ? AND scheduled_for > ?", b["id"], last)
    change_database(daemon, "DROP TRIGGER poison")
    late = "SELECT 1 FROM fires WHERE schedule_id = ? AND scheduled_for > ? AND outcome != 'skipped_missed'"
    daemon.wait_for_row(late, a["id"], last)
    settled(daemon)
    daemon.stop()
    for schedule in (a, b):
        assert_the_ledger_is_exact(daemon, schedule["id"])


def test_a_run_that_cannot_be_claimed_costs_that_one_only(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(two_agents(tmp_path), slowed=SOON)
    daemon.wait_for_run("completed")
    poison(daemon, "BEFORE UPDATE OF status ON runs", "NEW.status = 'running' AND NEW.agent = 'a'")
    run = daemon.wait_for_row("SELECT id FROM runs WHERE agent = 'a' AND status = 'pending'")["id"]
    assert problem(daemon, f"run {run}")["part"] == "queue"
    newer = "SELECT 1 FROM runs WHERE agent = 'b' AND id > ? AND status = 'completed'"
    daemon.wait_for_row(newer, run)
    change_database(daemon, "DROP TRIGGER poison")
    daemon.wait_for_run("completed", number=run)
    settled(daemon)
    daemon.stop()
    assert_no_run_started_twice(tmp_path)


def test_a_run_whose_end_cannot_be_recorded_costs_that_one_only(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(two_agents(tmp_path, at_once=9), slowed=SOON)
    daemon.wait_for_run("completed")
    poison(daemon, "BEFORE UPDATE OF completed_at ON runs", "NEW.agent = 'a'")
    run = daemon.wait_for_row("SELECT id FROM runs WHERE agent = 'a' AND status = 'running'")["id"]
    assert problem(daemon, f"run {run}")["part"] == "runs"
    daemon.wait_for_row("SELECT 1 FROM runs WHERE agent = 'b' AND id > ? AND status = 'completed'", run)
    change_database(daemon, "DROP TRIGGER poison")
    ended = daemon.wait_for_run("failed", number=run)
    assert ended["error"] == "its outcome cannot be recorded: OperationalError"
    settled(daemon)


def test_a_flag_that_cannot_be_obeyed_costs_that_run_only(start_daemon: StartDaemon) -> None:
    text = config_text(
        agents={name: shell_agent("sleep 300") for name in ("a", "b", "c")}, daemon={"max_concurrent_runs": 1}
    )
    daemon = start_daemon(text)
    daemon.wait_for_run("running")
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = 3")
    daemon.stop()
    poison(daemon, "BEFORE UPDATE OF status ON runs", "NEW.status = 'cancelled' AND NEW.id = 2")
    for run in (2, 3):
        flag = "INSERT INTO cancellation_flags (run_id, requested_at, requested_by) VALUES (?, ?, 'x')"
        change_database(daemon, flag, run, "2026-01-01T00:00:00.000Z")
    second = start_daemon(text, slowed=SOON)
    second.wait_for_run("cancelled", number=3)
    problem(second, "run 2")
    change_database(second, "DROP TRIGGER poison")
    second.wait_for_run("cancelled", number=2)


def test_a_target_whose_notifications_fail_costs_that_one_only(start_daemon: StartDaemon, tmp_path: Path) -> None:
    text = two_agents(tmp_path).replace("[agents]", "")
    for name in ("ops", "other"):
        text += f"[notify.{name}]\non = ['completed']\ncommand = ['sh', '-c', 'echo >> {tmp_path}/{name}']\n"
    daemon = start_daemon(text)
    daemon.wait_for_log("[daemon] Notification sent", target="ops")
    poison(daemon, "BEFORE DELETE ON notifications", "OLD.target = 'ops'")
    found = problem(daemon, "ops")
    assert found["part"] == "notifier"
    sent = len((tmp_path / "other").read_text())
    wait_until(lambda: len((tmp_path / "other").read_text()) > sent + 1, what="events for the other target")
    waiting = daemon.query("SELECT min(id) AS id FROM notifications WHERE target = 'ops'")[0]["id"]
    change_database(daemon, "DROP TRIGGER poison")
    gone = "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM notifications WHERE id = ?)"
    daemon.wait_for_row(gone, waiting, deadline=60)
    change_database(daemon, "UPDATE notifications SET event = 'nonsense' WHERE target = 'ops'")
    settled(daemon)
    daemon.stop()


def test_a_run_that_cannot_be_deleted_costs_that_one_only(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(two_agents(tmp_path) + "[retention]\ndays = 1\n")
    daemon.wait_for_run("completed", number=4)
    poison(daemon, "BEFORE DELETE ON runs", "OLD.id = 2")
    change_database(daemon, "UPDATE runs SET updated_at = '2020-01-01T00:00:00.000Z' WHERE id < 4")
    assert daemon.cli("retention", "run").returncode == 0
    assert [row["id"] for row in daemon.query("SELECT id FROM runs WHERE id < 5")] == [2, 4]
    assert problem(daemon, "run 2")["part"] == "retention"
    change_database(daemon, "DROP TRIGGER poison")
    assert daemon.cli("retention", "run").returncode == 0
    assert [row["id"] for row in daemon.query("SELECT id FROM runs WHERE id < 5")] == [4]
    settled(daemon)


def test_a_workspace_that_cannot_be_recorded_costs_that_one_only(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(two_agents(tmp_path))
    daemon.wait_for_run("completed", number=4)
    lost = "SELECT id, 'site', '/x', 'present', created_at FROM runs WHERE id < 4"
    change_database(daemon, f"INSERT INTO workspaces (run_id, environment, path, state, created_at) {lost}")
    poison(daemon, "BEFORE UPDATE ON workspaces", "OLD.run_id = 2")
    assert daemon.cli("workspaces", "clean").returncode == 0
    states = "SELECT state FROM workspaces ORDER BY run_id"
    assert [row["state"] for row in daemon.query(states)] == ["removed", "present", "removed"]
    assert problem(daemon, "workspace 2")["part"] == "cleanup"
    change_database(daemon, "DROP TRIGGER poison")
    assert daemon.cli("workspaces", "clean").returncode == 0
    assert [row["state"] for row in daemon.query(states)] == ["removed"] * 3
    settled(daemon)


HUGE = 2**63 - 1
POISONED = f"""
UPDATE schedules SET cursor = 'nonsense' WHERE agent = 'a';
UPDATE schedules SET every_ms = {HUGE} WHERE agent = 'c';
UPDATE runs SET completed_at = 'nonsense', started_at = 'x', input_tokens = {HUGE}, output_tokens = {HUGE}
    WHERE id > 1 AND completed_at IS NOT NULL;
UPDATE runs SET status = 'pending', started_at = NULL, completed_at = NULL, not_before = 'zzz', updated_at = 'zzz',
    settings = 'x' WHERE id = 1;
INSERT INTO notifications (target, event, created_at, next_try_at) VALUES ('ops', '{{', 'x', 'y');
INSERT OR REPLACE INTO notify_states (subject, state, since, told_at, gap_ms)
    SELECT 'schedule:' || id, 'failed', 'x', 'y', {HUGE} FROM schedules;
INSERT INTO workspaces (run_id, environment, path, state, created_at, bytes)
    SELECT id, 'site', '/x', 'present', 'x', {HUGE} FROM runs WHERE id < 4;
UPDATE fires SET covers_until = 'zzz', covers_count = {HUGE}, outcome = 'skipped_missed', run_id = NULL
"""


@pytest.mark.parametrize("lost", [False, True], ids=["as usual", "after a loss"])
def test_a_start_on_poisoned_rows_succeeds(start_daemon: StartDaemon, *, lost: bool) -> None:
    agents = {name: shell_agent("true") for name in ("a", "b", "c")}
    text = config_text(agents=agents, retention={"days": 1, "every": "1s"}, cleanup={"every": "1s"})
    text += "[notify.ops]\non = ['completed', 'failed', 'recovered']\ncommand = ['true']\n"
    first = start_daemon(text)
    first.wait_for_row("SELECT 1 FROM runs WHERE id > 9 AND status = 'completed'")
    first.stop()
    for statement in POISONED.split(";"):
        change_database(first, statement)
    if lost:
        (first.state / "witness.json").unlink()
    second = start_daemon(text.replace("true", "exit"), arguments=("--accept-data-loss",) if lost else ())
    second.wait_for_log("[daemon] Ready")
    [b] = second.query("SELECT id FROM schedules WHERE agent = 'b'")
    last = second.query("SELECT max(id) AS id FROM runs")[0]["id"]
    second.wait_for_row(
        "SELECT 1 FROM runs WHERE schedule_id = ? AND id > ? AND completed_at IS NOT NULL", b["id"], last
    )
    status = second.cli("status", "--json")
    assert status.returncode == 0, status.stderr
    if not lost:
        assert {one["subject"] for one in json.loads(status.stdout)["problems"]} >= {"a/s"}
    for command in (("runs", "list"), ("workspaces", "list"), ("retention", "run")):
        shown = second.cli(*command)
        assert shown.returncode == 0, shown.stderr
    assert second.stop() == 0
