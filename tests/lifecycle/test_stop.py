"""Stopping where it is hard: before the daemon is ready, and with many runs waiting."""

import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest

from daemon.units import format_instant, parse_instant, utc_now
from tests.support.api import call
from tests.support.configs import one_agent
from tests.support.daemon_process import StartDaemon, processes_of
from tests.support.waiting import DEADLINE, wait_until

WAITING = 500
DECLARING = """
import asyncio, sys
import daemon.lifecycle.service as service
prepare = service.prepare_database
async def told(*arguments):
    print('{"event": "declaring"}', file=sys.stderr, flush=True)
    await asyncio.sleep(1)  # so that the stop is asked for in the midst of it
    return await prepare(*arguments)
service.prepare_database = told
"""
PENDING = "SELECT id FROM runs WHERE status = 'pending'"


def test_a_stop_during_the_start_is_clean_and_loses_nothing(start_daemon: StartDaemon) -> None:
    schedules = "".join(f'[agents.a.schedules.s{number}]\nevery = "36500d"\n' for number in range(3000))
    text = '[daemon]\nstate_dir = "state"\n[agents.a]\ncommand = ["true"]\n' + schedules
    first = start_daemon(text, ready=False, slowed=DECLARING)
    first.wait_for_log("declaring")  # the schedules are being declared
    assert first.stop() == 0
    assert "[daemon] Ready" not in first.log_text()
    second = start_daemon(text)
    assert second.query("SELECT count(*) AS n FROM schedules")[0]["n"] == 3000


def test_ctrl_c_during_the_start_ends_the_agents_that_run(start_daemon: StartDaemon) -> None:
    text = '[daemon]\nstate_dir = "state"\n[agents.a]\ncommand = ["sleep", "300"]\n'
    first = start_daemon(text + '[agents.a.schedules.s]\nevery = "1s"\n')
    run = first.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    assert first.stop() == 0
    schedules = "".join(f'[agents.a.schedules.s{number}]\nevery = "36500d"\n' for number in range(3000))
    second = start_daemon(text + schedules, ready=False, slowed=DECLARING)
    second.wait_for_log("declaring")
    assert second.stop(signal.SIGINT) == 0
    assert "[daemon] Ready" not in second.log_text()
    assert processes_of(run["idempotency_key"]) == []
    assert second.query("SELECT status FROM runs WHERE id = ?", run["id"])[0]["status"] == "cancelled"


STOPPED_BY_ADOPTION = """
import os, signal
import daemon.lifecycle.service as service
adopt = service.adopt_runs
async def stopped(home, queue):
    os.kill(os.getpid(), signal.SIGTERM)
    await adopt(home, queue)
service.adopt_runs = stopped
"""


def test_a_run_that_was_cancelled_meanwhile_is_ended_by_a_daemon_that_stops_at_its_start(
    start_daemon: StartDaemon,
) -> None:
    text = one_agent("sleep 300", kill_grace="1s", daemon={"on_stop": "drain", "stop_timeout": "30s"})
    first = start_daemon(text)
    first.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    first.kill()
    assert first.cli("runs", "cancel", "1").returncode == 0
    second = start_daemon(text, ready=False, slowed=STOPPED_BY_ADOPTION)
    assert second.process.wait(15) == 0
    assert second.query("SELECT status FROM runs WHERE id = 1")[0]["status"] == "cancelled"


def test_what_a_start_records_is_counted_and_logged(start_daemon: StartDaemon) -> None:
    text = '[daemon]\nstate_dir = "state"\n[control]\nsocket = "c.sock"\n[agents.a]\ncommand = ["true"]\n'
    schedule = '[agents.a.schedules.s]\nevery = "{0}"\ncatchup = "none"\n'
    first = start_daemon(text + schedule.format("1s"))
    first.wait_for_run("completed")
    first.stop()
    covered = first.query("SELECT max(scheduled_for) AS at FROM fires")[0]["at"]
    wait_until(lambda: format_instant(utc_now() - timedelta(seconds=2)) > covered, what="a due time that is missed")
    second = start_daemon(text + schedule.format("36500d"))
    missed = second.query(
        "SELECT coalesce(sum(coalesce(covers_count, 1)), 0) AS n FROM fires WHERE outcome = 'skipped_missed'"
    )
    assert missed[0]["n"] > 0
    assert (
        f'agentcron_fires_total{{outcome="skipped_missed"}} {missed[0]["n"]}.0'
        in call(second, "GET", "/metrics").data.decode()
    )


@pytest.mark.parametrize("step", ["prepare_database", "adopt_runs"])
def test_a_stop_does_not_wait_for_a_database_that_cannot_be_written(start_daemon: StartDaemon, step: str) -> None:
    text = '[daemon]\nstate_dir = "state"\nstop_timeout = "1s"\n[agents.a]\ncommand = ["true"]\n'
    start_daemon(text).stop()
    locked = "import daemon.store.connection as c\nc._BUSY_TIMEOUT = 0.1\n"
    locked += "import daemon.lifecycle.service as service\nimport sqlite3\n"
    locked += f"begin = service.{step}\n"
    locked += "async def late(home, *others):\n"
    locked += "    holder = sqlite3.connect(home.database.path, isolation_level=None)\n"
    locked += "    holder.execute('BEGIN IMMEDIATE')\n    return await begin(home, *others)\n"
    locked += f"service.{step} = late"
    second = start_daemon(text, ready=False, slowed=locked)
    second.wait_for_log("The database cannot be written; retrying")
    assert second.stop(deadline=10) == 0
    assert "Traceback" not in second.log_text()


def test_a_stop_does_not_wait_for_a_database_that_cannot_be_read(start_daemon: StartDaemon) -> None:
    text = '[daemon]\nstate_dir = "state"\nstop_timeout = "1s"\n[agents.a]\ncommand = ["true"]\n'
    unreadable = "import daemon.lifecycle.service as service\nfrom daemon.errors import StoreUnavailableError\n"
    unreadable += "def fail(connection):\n    raise StoreUnavailableError('disk I/O error')\n"
    unreadable += "service.instance_id = fail"
    daemon = start_daemon(text, ready=False, slowed=unreadable)
    daemon.wait_for_log("The database cannot be read; retrying")
    assert daemon.stop(deadline=10) == 0
    assert "Traceback" not in daemon.log_text()


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


def test_no_due_time_is_launched_while_the_daemon_stops(start_daemon: StartDaemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    daemon = start_daemon(
        '[daemon]\nstate_dir = "state"\non_stop = "drain"\n'
        f'[agents.slow]\ncommand = ["cat", "{tmp_path}/gate"]\n[agents.slow.schedules.s]\nevery = "1s"\n'
        '[agents.a]\ncommand = ["true"]\n[agents.a.schedules.s]\nevery = "1s"\n'
    )
    daemon.wait_for_row("SELECT 1 FROM runs WHERE agent = 'slow' AND delivered_at IS NOT NULL")
    daemon.process.send_signal(signal.SIGTERM)
    began = parse_instant(daemon.wait_for_log("[daemon] Stopping")["timestamp"])
    wait_until(lambda: utc_now() > began + timedelta(seconds=2.5), what="two due times during the stop")
    (tmp_path / "gate").write_text("")
    assert daemon.process.wait(DEADLINE) == 0
    since = format_instant(began + timedelta(seconds=0.5))
    assert daemon.query("SELECT * FROM fires WHERE scheduled_for > ?", since) == []
