"""A pool under kill -9: one run meets the limit, nothing starts before it is reset, and then all start in due order."""

import time
from pathlib import Path

import pytest

from tests.support.configs import SELDOM, config_text
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.runs import triggered
from tests.support.waiting import wait_until

AGENTS = [f"a{number}" for number in range(8)]
SCRIPT = """
echo "$(date +%s.%N) $AGENTCRON_AGENT" >> {folder}/calls
left=$(awk -v until="$(cat {folder}/until)" -v now="$(date +%s.%N)" 'BEGIN {{ print until - now }}')
case $left in -*) exit 0;; esac
sleep 0.4
printf '{{"kind": "quota", "message": "usage limit reached", "retry_after": %s}}' "$left" > $AGENTCRON_RESULT
exit 1
"""
ONE_AT_A_TIME = {"max": {"max_concurrent": 1}}


def config(folder: Path) -> str:
    agent = {
        "command": ["sh", "-c", SCRIPT.format(folder=folder)],
        "pools": ["max"],
        "retry_delay": "1s",
        "schedules": {"s": {"every": SELDOM}},
    }
    return config_text(agents=dict.fromkeys(AGENTS, agent), pools=ONE_AT_A_TIME)


def calls(folder: Path) -> list[tuple[float, str]]:
    file = folder / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(float(line.split()[0]), line.split()[1]) for line in lines]


def unfinished(daemon: DaemonProcess) -> int:
    return int(daemon.query("SELECT count(*) AS n FROM runs WHERE completed_at IS NULL")[0]["n"])


@pytest.mark.parametrize("rounds", [2, pytest.param(10, marks=pytest.mark.soak)])
def test_a_limit_costs_one_call_and_all_start_in_due_order_after_it_whatever_is_killed(
    start_daemon: StartDaemon, tmp_path: Path, rounds: int
) -> None:
    text, reset = config(tmp_path), time.time() + 3.0 + 1.2 * rounds
    (tmp_path / "until").write_text(str(reset))
    daemon = start_daemon(text)
    assert daemon.cli("pause").returncode == 0
    for agent in AGENTS:
        triggered(daemon, f"{agent}/s")
    daemon.kill()
    daemon = start_daemon(text)
    assert calls(tmp_path) == []  # the pause survives it
    assert daemon.cli("resume").returncode == 0
    wait_until(lambda: calls(tmp_path), what="the call that is refused")
    for _ in range(rounds):  # the first time while that call is under way
        daemon.kill()
        daemon = start_daemon(text)
    assert daemon.stop() == 0
    daemon = start_daemon(text)
    daemon.wait_for_row("SELECT 1 FROM pool_closures WHERE cause = 'limit'")
    assert time.time() < reset
    waits = daemon.cli("runs", "list").stdout
    assert waits.count("pending: pool max is closed until ") == len(AGENTS)
    wait_until(lambda: unfinished(daemon) == 0, deadline=40, what="the end of all runs")
    made = calls(tmp_path)
    assert [agent for at, agent in made if at < reset] == ["a0"]
    assert [agent for at, agent in made if at >= reset] == AGENTS
    assert made[1][0] < reset + 0.2 + 2.0  # the jitter, and what the host takes
    assert daemon.query("SELECT count(*) AS n FROM runs WHERE status = 'completed'")[0]["n"] == len(AGENTS)


@pytest.mark.parametrize("runs", [40, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_agents_that_share_one_place_never_overlap(start_daemon: StartDaemon, tmp_path: Path, runs: int) -> None:
    script = f"""
    mkdir {tmp_path}/busy || echo $AGENTCRON_RUN_ID >> {tmp_path}/overlaps
    echo $AGENTCRON_AGENT >> {tmp_path}/calls; rmdir {tmp_path}/busy"""
    agent = {
        "command": ["sh", "-c", script],
        "pools": ["site"],
        "max_concurrent": 50,
        "schedules": {"s": {"every": SELDOM}},
    }
    daemon = start_daemon(config_text(agents={"a": agent, "b": agent}, pools={"site": {"max_concurrent": 1}}))
    for number in range(runs):
        triggered(daemon, f"{'ab'[number % 2]}/s")
    wait_until(lambda: unfinished(daemon) == 0, deadline=300, what="the end of all runs")
    assert not (tmp_path / "overlaps").exists()
    assert (tmp_path / "calls").read_text().split() == ["a", "b"] * (runs // 2)
