"""Specs of processes: where the limits in them come from."""

from dataclasses import replace
from pathlib import Path

from daemon.agents.base import RunSettings, Work
from daemon.agents.process.acp import acp_spec
from daemon.agents.process.command import command_spec
from daemon.config.schema import AcpAgent, CommandAgent, Config
from daemon.runs.settings import settings_for

LATER = {"timeout": "1s", "idle_timeout": "1s", "kill_grace": "0s", "max_output": "1B"}
LIMITS = RunSettings(timeout_seconds=60, idle_timeout_seconds=30, kill_grace_seconds=8, max_output=1000)
WORK = Work(
    *(1, "run", "a", "a/s", "", 1, "manual", "key", "user", "", {}, {}, ""), Path("/run"), Path("/work"), LIMITS
)
WANTED = {"timeout": 60, "idle_timeout": 30, "kill_grace": 8, "max_output": 1000}


def test_a_spec_has_the_limits_that_the_run_started_with_whatever_the_config_says_later() -> None:
    command = CommandAgent(command=["true"], result_format="none", **LATER)  # type: ignore[arg-type]
    spec = command_spec(WORK, command, Config(), 0o077)
    assert {key: spec[key] for key in WANTED} == WANTED
    assert spec["result_format"] == "none"
    reads_result = replace(WORK, settings=replace(LIMITS, result_format="claude"))
    assert command_spec(reads_result, command, Config(), 0o077)["result_format"] == "claude"
    acp = AcpAgent(type="acp", command=["true"], **LATER)  # type: ignore[arg-type]
    spec = acp_spec(WORK, acp, Config(), 0o077)
    assert {key: spec[key] for key in WANTED} == WANTED
    assert spec["argv"][-2:] == ["4.0", "true"]


def test_a_run_takes_every_limit_from_the_config_when_it_starts() -> None:
    agent = CommandAgent(command=["true"], **LATER)  # type: ignore[arg-type]
    found = settings_for(Config(agents={"a": agent}), "a")
    assert (found.timeout_seconds, found.idle_timeout_seconds, found.kill_grace_seconds) == (1, 1, 0)
    assert found.max_output == 1
    defaults = settings_for(Config(agents={"a": CommandAgent(command=["true"])}), "a")
    runs_of_earlier_versions_lack = {
        "tasks_max": 4096,
        "signed_records": True,
        "on_bad_report": "fail",
        "on_denied": "fail",
    }
    assert defaults == RunSettings(**runs_of_earlier_versions_lack)  # type: ignore[arg-type]
