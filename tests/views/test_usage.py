"""Tokens and cost that runs report, summed in the status and in the metrics."""

import json
from datetime import timedelta

from daemon.config.schema import Config
from daemon.store.fires import count_recorded
from daemon.store.schedules import get_schedule_by_id
from daemon.store.workspaces import count_workspaces
from daemon.views.schedules import schedule_view
from daemon.views.status import status_view
from tests.support.api import call
from tests.support.daemon_process import StartDaemon
from tests.support.ledger import START, Ledger

RESULT = json.dumps({"usage": {"input_tokens": 5, "output_tokens": 7, "cost_usd": 0.25}})
CONFIG = f"""\
[daemon]
state_dir = "state"
[control]
socket = "c.sock"
[agents.a]
command = ["sh", "-c", '''echo '{RESULT}' > $AGENTCRON_RESULT''']
[agents.a.schedules.s]
every = "36500d"
"""


def test_tokens_and_cost_are_summed(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(CONFIG)
    for _ in range(2):
        daemon.cli("schedules", "trigger", "a/s", "--wait")
    status = call(daemon, "GET", "/status").body
    assert (status["tokens_today"], status["cost_today_usd"]) == (24, 0.5)
    shown = daemon.cli("status").stdout
    assert "0.50 USD" in shown
    assert "24" in shown
    figures = call(daemon, "GET", "/metrics").data.decode().splitlines()
    assert 'agentcron_tokens_total{agent="a",direction="input"} 10.0' in figures
    assert 'agentcron_tokens_total{agent="a",direction="output"} 14.0' in figures
    assert 'agentcron_cost_usd_total{agent="a"} 0.5' in figures


HUGE = 2**63 - 1
TODAY = START + timedelta(minutes=1)


async def _poisoned(ledger: Ledger) -> None:
    """Write rows whose numbers no version writes any more, or that somebody edited."""
    await ledger.declare('overlap = "allow_all"')
    for seconds in (10, 20, 30):
        await ledger.decide(START + timedelta(seconds=seconds))
    spent = f"cost_usd = 1e308, input_tokens = {HUGE}, output_tokens = {HUGE}"
    missed = f"outcome = 'skipped_missed', run_id = NULL, covers_until = scheduled_for, covers_count = {HUGE}"
    workspaces = f"SELECT id, 'site', '/', 'present', created_at, {HUGE} FROM runs"
    for change in (
        f"UPDATE runs SET status = 'completed', started_at = created_at, completed_at = created_at, {spent}",
        f"INSERT INTO workspaces (run_id, environment, path, state, created_at, bytes) {workspaces}",
        f"UPDATE fires SET {missed}",
    ):
        await ledger.database.write(lambda tx, sql=change: tx.execute(sql).fetchall())  # type: ignore[misc]


async def test_no_sum_over_huge_numbers_fails(ledger: Ledger) -> None:
    await _poisoned(ledger)
    view = await ledger.database.read(
        lambda c: status_view(c, ledger.folder / "state", None, TODAY, "UTC", problems=None)
    )
    assert (view["tokens_today"], view["cost_today_usd"]) == (6 * 10**12, 3e9)
    assert (await ledger.database.read(count_workspaces))["site"] == (3, HUGE)
    row = await ledger.database.read(lambda c: get_schedule_by_id(c, 1))
    assert row is not None
    shown = await ledger.database.read(lambda c: schedule_view(c, row, Config(), TODAY))
    assert shown["missed_count"] == HUGE
    everything = START - timedelta(days=1), START + timedelta(days=1)
    assert await ledger.database.write(lambda tx: count_recorded(tx, 1, *everything)) == HUGE  # type: ignore[arg-type]
