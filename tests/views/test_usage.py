"""Tokens and cost that runs report, summed in the status and in the metrics."""

import json

from tests.support.api import call
from tests.support.daemon_process import StartDaemon

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
