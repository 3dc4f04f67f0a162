"""Specs of processes: where the limits in them come from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon.agents.base import RunSettings, Work
from daemon.agents.process.acp import acp_spec
from daemon.agents.process.agent import UnfitError
from daemon.agents.process.command import command_spec
from daemon.config.loading import load_config
from daemon.config.schema import AcpAgent, CommandAgent, Config
from daemon.errors import SecretError
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
    assert options_in(spec)["patience"] == 4.0


def options_in(spec: dict[str, Any]) -> dict[str, Any]:
    """Return what the spec of an acp run tells the client."""
    found: dict[str, Any] = json.loads(spec["env"]["AGENTCRON_ACP"])
    return found


def loaded(folder: Path, text: str) -> tuple[AcpAgent, Config]:
    (folder / "agentcron.toml").write_text('[agents.a]\ntype = "acp"\ncommand = ["true"]\n' + text)
    config = load_config(folder / "agentcron.toml")
    agent = config.agents["a"]
    assert isinstance(agent, AcpAgent)
    return agent, config


SERVERS = """
env = { OWN = { file = "own.key" } }
mcp_servers.files = { command = ["./server", "-v"], env = { KEY = { file = "server.key" }, PLAIN = "text" } }
mcp_servers.docs = { url = "https://docs.example/mcp", transport = "sse", headers = { Authorization = "Bearer x" } }
"""


def test_the_client_is_told_of_servers_and_secrets_in_a_variable_alone(tmp_path: Path) -> None:
    (tmp_path / "own.key").write_text("own-secret\n")
    (tmp_path / "server.key").write_text("server-secret\n")
    spec = acp_spec(WORK, *loaded(tmp_path, SERVERS), 0o077)
    options = options_in(spec)
    variables = [{"name": "KEY", "value": "server-secret"}, {"name": "PLAIN", "value": "text"}]
    headers = [{"name": "Authorization", "value": "Bearer x"}]
    assert options["mcp_servers"] == [
        {"name": "files", "command": str(tmp_path / "server"), "args": ["-v"], "env": variables},
        {"type": "sse", "name": "docs", "url": "https://docs.example/mcp", "headers": headers},
    ]
    assert spec["hidden"] == ["own-secret", "server-secret"]
    assert (options["secret_variables"], options["secret_values"]) == (["OWN"], ["server-secret"])
    assert not any("secret" in word for word in spec["argv"])


def test_a_secret_of_a_server_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    text = 'mcp_servers.files = { command = ["x"], env = { KEY = { file = "nowhere" } } }\n'
    with pytest.raises(SecretError, match=r"mcp_servers\.files\.env\.KEY: cannot read .*nowhere: No such file"):
        acp_spec(WORK, *loaded(tmp_path, text), 0o077)


def test_servers_that_do_not_fit_into_the_variable_are_refused(tmp_path: Path) -> None:
    text = f'mcp_servers.files = {{ command = ["x", "{"y" * 128 * 1024}"] }}\n'
    with pytest.raises(UnfitError, match="longer than 128 KiB"):
        acp_spec(WORK, *loaded(tmp_path, text), 0o077)


def test_the_client_is_told_which_session_to_continue_and_what_to_choose(tmp_path: Path) -> None:
    text = 'mode = "auto"\nmodel = "large"\npermissions = "allow"\n'
    options = options_in(acp_spec(replace(WORK, session="s-1"), *loaded(tmp_path, text), 0o077))
    chosen = [options[key] for key in ("session", "mode", "model", "permissions")]
    assert chosen == ["s-1", "auto", "large", {"*": "allow"}]


@pytest.mark.parametrize(
    ("rules", "answers"),
    [
        ('"reject"', {"*": "reject"}),
        ('[{ kinds = ["read", "edit"], answer = "allow" }]', {"read": "allow", "edit": "allow", "*": "reject"}),
        (
            '[{ kinds = ["execute"], answer = "reject" }, { kinds = ["*", "read"], answer = "allow" }]',
            {"execute": "reject", "read": "allow", "*": "allow"},
        ),
        (
            '[{ kinds = ["*"], answer = "reject" }, { kinds = ["read"], answer = "allow" }]',
            {"*": "reject"},
        ),
    ],
)
def test_the_first_rule_for_a_kind_counts(tmp_path: Path, rules: str, answers: dict[str, str]) -> None:
    agent, _ = loaded(tmp_path, f"permissions = {rules}\n")
    assert agent.permission_answers == answers


@pytest.mark.parametrize(("cap", "shown"), [(2.5, "2.5"), (10.0, "10"), (0.01, "0.01"), (1e6, "1000000")])
def test_the_cap_on_the_cost_of_a_run_is_put_into_its_command(cap: float, shown: str) -> None:
    budget = {"max_cost_usd": cap}
    words, expected = ["claude", "{max_cost_usd}", "${max_cost_usd}"], ["claude", shown, "${max_cost_usd}"]
    grouped = [*words, ["--cap={max_cost_usd}", "{session}"]]
    command = CommandAgent.model_validate({"command": grouped, "budget": budget, "input": "argument"})
    work = replace(WORK, content="{max_cost_usd}", session="{max_cost_usd}")
    argv = command_spec(work, command, Config(), 0o077)["argv"]
    assert argv == [*expected, f"--cap={shown}", "{max_cost_usd}", "{max_cost_usd}"]
    acp = AcpAgent.model_validate({"command": words, "budget": budget, "type": "acp"})
    assert acp_spec(WORK, acp, Config(), 0o077)["argv"][-3:] == expected


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
    assert defaults == RunSettings(limit_pools=("agent:a",), **runs_of_earlier_versions_lack)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "without", "given"),
    [
        (["--resume={session}", "-x"], ["-x"], ["--resume=s-1", "-x"]),
        ([["--resume", "{session}"], "-x"], ["-x"], ["--resume", "s-1", "-x"]),
        (["exec", ["resume", "{session}"]], ["exec"], ["exec", "resume", "s-1"]),
        ([["-a", "-b"]], ["-a", "-b"], ["-a", "-b"]),
        (["echo ${session} {other}"], ["echo ${session} {other}"], ["echo ${session} {other}"]),
    ],
)
def test_arguments_that_name_the_session_are_left_out_where_there_is_none(
    arguments: list[str | list[str]], without: list[str], given: list[str]
) -> None:
    agent = CommandAgent(command=["program", *arguments], input="argument")
    work = replace(WORK, content="go")
    assert command_spec(work, agent, Config(), 0o077)["argv"] == ["program", *without, "go"]
    assert command_spec(replace(work, session="s-1"), agent, Config(), 0o077)["argv"] == ["program", *given, "go"]


def test_an_agent_is_told_its_session_and_that_of_the_attempt_before() -> None:
    agent = CommandAgent(command=["true"])
    names = {"AGENTCRON_SESSION", "AGENTCRON_PREVIOUS_SESSION"}
    assert not names & command_spec(WORK, agent, Config(), 0o077)["env"].keys()
    env = command_spec(replace(WORK, session="s-1", previous_session="s-0"), agent, Config(), 0o077)["env"]
    assert (env["AGENTCRON_SESSION"], env["AGENTCRON_PREVIOUS_SESSION"]) == ("s-1", "s-0")
