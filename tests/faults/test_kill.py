"""Promises 1 to 3 and 6 under kill -9: of the daemon alone, and of any process of a run."""

import random
import signal
from pathlib import Path

import pytest

from daemon.agents.process.supervisor import tree
from tests.support.daemon_process import DaemonProcess, StartDaemon, processes_of
from tests.support.ledger import assert_no_run_started_twice, assert_the_ledger_is_exact
from tests.support.waiting import pause, wait_until

CONFIG = '''\
[daemon]
state_dir = "state"
max_concurrent_runs = 50
[agents.a]
command = ["sh", "-c", """
echo $AGENTCRON_RUN_ID >> {folder}/started; sleep 0.$(($AGENTCRON_RUN_ID % 10)); exit $(($AGENTCRON_RUN_ID % 7))"""]
max_concurrent = 50
[agents.a.schedules.s]
every = "1s"
overlap = "allow_all"
'''


def stop_schedule_and_settle(start_daemon: StartDaemon, text: str) -> DaemonProcess:
    daemon = start_daemon(text.replace("[agents.a.schedules.s]", "[agents.a.schedules.s]\npaused = true"))
    unsettled = "SELECT 1 FROM runs WHERE status IN ('pending', 'running') LIMIT 1"
    wait_until(lambda: not daemon.query(unsettled), deadline=60, what="all runs ended")
    return daemon


@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_kill_9_of_the_daemon_loses_nothing_and_starts_nothing_twice(
    start_daemon: StartDaemon, tmp_path: Path, rounds: int
) -> None:
    text = CONFIG.format(folder=tmp_path)
    chance = random.Random(rounds)
    acknowledged: set[str] = set()
    for _ in range(rounds):
        daemon = start_daemon(text)
        pause(chance.uniform(0.05, 2.5))
        seen = {row["scheduled_for"] for row in daemon.query("SELECT scheduled_for FROM fires")}
        daemon.kill()
        assert acknowledged <= seen
        acknowledged = seen
        pause(chance.uniform(0, 0.5))
    daemon = stop_schedule_and_settle(start_daemon, text)
    assert_the_ledger_is_exact(daemon)
    assert_no_run_started_twice(tmp_path)
    runs = daemon.query("SELECT * FROM runs")
    assert {run["status"] for run in runs} <= {"completed", "failed"}
    assert all(run["exit_code"] == run["id"] % 7 for run in runs)
    assert acknowledged <= {row["scheduled_for"] for row in daemon.query("SELECT scheduled_for FROM fires")}
    assert [process for run in runs for process in processes_of(run["idempotency_key"])] == []


@pytest.mark.parametrize("rounds", [10, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_kill_9_of_anything_around_a_run_starts_nothing_twice_and_leaves_nothing(
    start_daemon: StartDaemon, tmp_path: Path, rounds: int
) -> None:
    text = CONFIG.format(folder=tmp_path).replace("sleep 0.$(($AGENTCRON_RUN_ID % 10))", "(setsid sleep 5 &); sleep 1")
    chance = random.Random(rounds)
    daemon = start_daemon(text)
    for _ in range(rounds):
        pause(chance.uniform(0.1, 1.0))
        victims = tree.descendants(daemon.process.pid)
        victims += [
            tree.Process(r["pid"], r["pid_started"])
            for r in daemon.query("SELECT * FROM runs WHERE status = 'running' AND pid IS NOT NULL")
        ]
        victims += [child for process in list(victims) for child in tree.descendants(process.pid)]
        if victims:
            tree.send(chance.choice(sorted(set(victims))), signal.SIGKILL)
    daemon.kill()
    daemon = stop_schedule_and_settle(start_daemon, text)
    assert_the_ledger_is_exact(daemon)
    assert_no_run_started_twice(tmp_path)
    runs = daemon.query("SELECT * FROM runs")
    assert {run["status"] for run in runs} <= {"completed", "failed", "interrupted"}
    assert [process for run in runs for process in processes_of(run["idempotency_key"])] == []
