"""Stopping where it is hard: before the daemon is ready, and with many runs waiting."""

import signal

import pytest

from tests.conftest import StartDaemon
from tests.daemon_process import wait_until

WAITING = 500
PENDING = "SELECT id FROM runs WHERE status = 'pending'"


def test_a_stop_during_the_start_is_clean_and_loses_nothing(start_daemon: StartDaemon) -> None:
    schedules = "".join(f'[agents.a.schedules.s{number}]\nevery = "1h"\n' for number in range(3000))
    text = '[daemon]\nstate_dir = "state"\n[retention]\ndays = 3\n[agents.a]\ncommand = ["true"]\n' + schedules
    first = start_daemon(text, ready=False)
    first.wait_for_log("[config] Not yet active")  # the schedules are being declared
    assert first.stop() == 0
    assert "[daemon] Ready" not in first.log_text()
    second = start_daemon(text)
    assert second.query("SELECT count(*) AS n FROM schedules")[0]["n"] == 3000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_waiting_runs_to_the_next_daemon(start_daemon: StartDaemon, number: int) -> None:
    schedules = "".join(f'[agents.a.schedules.s{n}]\nevery = "1s"\n' for n in range(WAITING))
    text = '[daemon]\nstate_dir = "state"\nmax_concurrent_runs = 1\n'
    text += '[agents.a]\ncommand = ["sleep", "300"]\n' + schedules
    first = start_daemon(text)
    wait_until(lambda: len(first.query(PENDING)) == WAITING - 1, what="waiting runs")
    before = {row["id"] for row in first.query(PENDING)}
    assert first.stop(number, deadline=10) == 0
    second = start_daemon(text)
    assert before <= {row["id"] for row in second.query("SELECT id FROM runs WHERE completed_at IS NULL")}
    assert len(before) == WAITING - 1
