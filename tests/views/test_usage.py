"""Tokens and cost that runs report, summed in the status and in the metrics."""

import http.client
import json
from datetime import timedelta
from pathlib import Path

from daemon.config.schema import Config
from daemon.metrics import Metrics, Visible
from daemon.store.fires import count_recorded
from daemon.store.schedules import get_schedule_by_id
from daemon.store.workspaces import count_workspaces
from daemon.views.schedules import schedule_view
from daemon.views.status import status_view
from tests.support.api import call
from tests.support.daemon_process import StartDaemon
from tests.support.ledger import START, Ledger
from tests.support.peers.processes import free_port

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
        lambda c: status_view(c, ledger.folder / "state", None, TODAY, Config(), problems=None)
    )
    assert (view["tokens_today"], view["cost_today_usd"]) == (6 * 10**12, 3e9)
    assert (await ledger.database.read(count_workspaces))["site"] == (3, HUGE)
    row = await ledger.database.read(lambda c: get_schedule_by_id(c, 1))
    assert row is not None
    shown = await ledger.database.read(lambda c: schedule_view(c, row, Config(), TODAY))
    assert shown["missed_count"] == HUGE
    everything = START - timedelta(days=1), START + timedelta(days=1)
    assert await ledger.database.write(lambda tx: count_recorded(tx, 1, *everything)) == HUGE  # type: ignore[arg-type]


TOKENS = {"scraper": "scraper-0123456789abcdef", "reader": "reader-0123456789abcdef", "all": "all-0123456789abcdef0"}


def test_metrics_name_the_agents_that_the_scraper_may_read(start_daemon: StartDaemon, tmp_path: Path) -> None:
    port = free_port()
    for name, token in TOKENS.items():
        (tmp_path / name).write_text(token)
    tokens = ", ".join(f'{{ name = "{name}", file = "{name}" }}' for name in TOKENS)
    control = f'[control]\nlisten = "127.0.0.1:{port}"\ntokens = [{tokens}]\n'
    agent = CONFIG[CONFIG.index("[agents.a]") :].replace("agents.a", "agents.hidden")
    daemon = start_daemon(
        '[access]\nadmins = ["root", "token:all"]\n'
        + CONFIG.replace("[control]\n", control).replace("[agents.a]\n", '[agents.a]\nread = ["token:reader"]\n')
        + agent
    )
    for name in ("a", "hidden"):
        daemon.cli("schedules", "trigger", f"{name}/s", "--wait")

    def figures(name: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKENS[name]}"})
        response = connection.getresponse()
        assert response.status == 200
        return response.read().decode()

    for name, named in (("scraper", set()), ("reader", {"a"}), ("all", {"a", "hidden"})):
        text = figures(name)
        assert {
            agent for agent in ("a", "hidden") if f'agentcron_cost_usd_total{{agent="{agent}"}} 0.25' in text
        } == named
        assert {agent for agent in ("a", "hidden") if f'"{agent}"' in text or f'"{agent}/s"' in text} == named
        ended = 'agentcron_schedule_runs_total{{agent="{0}",schedule="{0}/s",status="completed"}} 1.0'
        assert {agent for agent in ("a", "hidden") if ended.format(agent) in text} == named
        assert ('schedule="(other)"' in text) == (name == "all")
        assert 'agentcron_run_changes_total{status="completed"} 2.0' in text


def test_metrics_name_the_environments_that_are_visible() -> None:
    metrics = Metrics()
    workspaces, saved = {"seen": (2, 10), "hidden": (3, 20)}, {"seen": (1, 5), "hidden": (1, 6)}
    text = metrics.text({}, workspaces, saved, {}, Visible(frozenset(), frozenset({"seen"}))).decode()
    assert 'agentcron_workspaces{environment="seen"} 2.0' in text
    assert 'agentcron_saved_work_bytes{environment="seen"} 5.0' in text
    assert "hidden" not in text
    assert 'agentcron_workspaces{environment="hidden"} 3.0' in metrics.text({}, {"hidden": (3, 20)}, {}, {}).decode()
