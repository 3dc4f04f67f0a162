"""An input that is longer than agentcron ever writes, in a database that somebody else changed, starts no agent."""

import pytest

from tests.support.configs import config_text, triggered_agent
from tests.support.daemon_process import StartDaemon
from tests.support.database import change_database
from tests.support.runs import finished

LONG = "printf('%.*c', 16 * 1024 * 1024 + 1, 'x')"


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [("input_content", LONG, "input"), ("task_params", f"""'{{"a": "' || {LONG} || '"}}'""", "params")],
    ids=["input", "params"],
)
def test_it_fails_with_the_reason_and_is_not_cut(start_daemon: StartDaemon, column: str, value: str, name: str) -> None:
    agent = triggered_agent({"x": "go"}, command=["touch", "started"], attempts=3)
    daemon = start_daemon(config_text(agents={"a": agent}))
    change_database(daemon, f"UPDATE schedules SET {column} = {value}")
    run = finished(daemon, "a/x")
    assert run["status"] == "failed"
    assert run["error"] == f"its {name} in the database is longer than 16 MiB, which agentcron never writes"
    assert not (daemon.state / "runs/1/output.log").exists()
