"""What happens after a run: further attempts, a pause, a cancellation; and how many run at once."""

import os
from datetime import UTC, datetime
from pathlib import Path

from tests.support.configs import one_agent
from tests.support.daemon_process import StartDaemon, processes_of
from tests.support.runs import ended


def test_a_failing_agent_gets_its_attempts_as_new_runs(start_daemon: StartDaemon) -> None:
    script = 'echo "attempt $AGENTCRON_ATTEMPT $AGENTCRON_TRIGGER"; exit 1'
    daemon = start_daemon(one_agent(script, attempts=3, retry_delay="1s"))
    ended(daemon, 3, deadline=40)
    runs = daemon.query("SELECT * FROM runs ORDER BY id LIMIT 3")
    assert [run["status"] for run in runs] == ["continued_as_new", "continued_as_new", "failed"]
    assert [run["next_run_id"] for run in runs] == [2, 3, None]
    assert [run["previous_run_id"] for run in runs] == [None, 1, 2]
    assert [run["name"] for run in runs] == [runs[0]["name"], f"{runs[0]['name']}:2", f"{runs[0]['name']}:3"]
    assert {run["scheduled_for"] for run in runs} == {runs[0]["scheduled_for"]}
    assert daemon.output(3) == "attempt 3 retry\n"
    waited = datetime.fromisoformat(runs[2]["started_at"]) - datetime.fromisoformat(runs[1]["completed_at"])
    assert waited.total_seconds() >= 1.8  # the second delay is doubled


def test_retry_after_delays_the_next_attempt(start_daemon: StartDaemon) -> None:
    script = """echo '{"status": "failed", "retry_after": 3600}' > $AGENTCRON_RESULT"""
    daemon = start_daemon(one_agent(script, attempts=2))
    ended(daemon)
    waiting = daemon.wait_for_row("SELECT * FROM runs WHERE id = 2")
    delay = datetime.fromisoformat(waiting["not_before"]) - datetime.now(UTC)
    assert waiting["status"] == "pending"
    assert 3500 < delay.total_seconds() <= 3600


def test_pause_on_failure(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("exit 1", schedule={"pause_on_failure": True}))
    ended(daemon)
    row = daemon.wait_for_row("SELECT * FROM schedules WHERE paused = 1")
    assert row["pause_note"] == "run 1 failed (pause_on_failure)"
    assert row["version"] == 2
    shown = daemon.cli("status").stdout
    assert "paused by a failure" in shown
    assert "run 1 failed (pause_on_failure)" in shown


# cancellation


def test_a_running_run_is_cancelled_with_its_whole_tree(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("sleep 300 & sleep 300"))
    run = daemon.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    answer = daemon.cli("runs", "cancel", "1")
    assert answer.returncode == 0, answer.stderr
    cancelled = ended(daemon)
    assert cancelled["status"] == "cancelled"
    assert str(cancelled["error"]).startswith("cancelled by ")
    assert processes_of(run["idempotency_key"]) == []
    assert daemon.query("SELECT * FROM cancellation_flags WHERE run_id = 1") == []
    again = daemon.cli("runs", "cancel", "1")
    assert again.returncode == 1
    assert "already ended (cancelled)" in again.stderr


def test_a_flag_set_while_no_daemon_runs_is_applied_at_the_next_start(start_daemon: StartDaemon) -> None:
    text = one_agent("sleep 300")
    first = start_daemon(text)
    first.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    first.kill()
    assert "when the daemon starts" in first.cli("runs", "cancel", "1").stdout
    assert ended(start_daemon(text))["status"] == "cancelled"


def test_the_steps_and_events_of_a_run_are_kept(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("true"))
    ended(daemon)
    steps = daemon.query("SELECT * FROM steps WHERE run_id = 1 ORDER BY started_at")
    assert {step["name"] for step in steps} == {"workspace", "deliver", "work", "record"}
    assert all(step["completed_at"] for step in steps)
    events = daemon.query("SELECT type FROM events WHERE run_id = 1 ORDER BY number")
    assert [event["type"] for event in events] == ["created", "status", "status"]


def test_limits_across_agents_and_per_agent(start_daemon: StartDaemon, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    agents = "".join(
        f"[agents.{name}]\ncommand = ['sh', '-c', 'cat {gate} > /dev/null']\nmax_concurrent = 2\n"
        f"[agents.{name}.schedules.s]\nevery = '1s'\noverlap = 'allow_all'\n"
        for name in ("a", "b")
    )
    daemon = start_daemon('[daemon]\nstate_dir = "state"\nmax_concurrent_runs = 3\n' + agents)
    daemon.wait_for_row("SELECT 1 FROM (SELECT count(*) AS n FROM runs WHERE status = 'pending') WHERE n > 4")
    by_agent = daemon.query("SELECT agent, count(*) AS n FROM runs WHERE status = 'running' GROUP BY 1 ORDER BY 2")
    assert [row["n"] for row in by_agent] == [1, 2]
    pending = daemon.query("SELECT min(id) AS first FROM runs WHERE status = 'pending' GROUP BY agent")
    started = daemon.query("SELECT max(id) AS last FROM runs WHERE status = 'running'")
    assert started[0]["last"] < max(row["first"] for row in pending)
