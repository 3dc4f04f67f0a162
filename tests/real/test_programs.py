"""Claude Code, Codex, gemini-cli and opencode as their recipes run them, against a provider that answers and fails."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import Table, config_text
from tests.support.daemon_process import DaemonProcess, daemons_in
from tests.support.git_site import git
from tests.support.peers.processes import Peer
from tests.support.real_programs import COMMAND, REAL, agent, codex_settings, gemini_settings, site
from tests.support.runs import ended, triggered
from tests.support.site_daemon import place_of

pytestmark = REAL
PROGRAMS = ("claude", "codex", "gemini", "opencode")
HOWS = ("text", "tool", "unauthorized", "limited", "overloaded", "cut", "hang")
DEADLINE = 120.0
NOTHING, UNKNOWN = (0, 0), (None, None)
COSTS = {"claude": 0.000351, "opencode": 0.000351}
"""What one call costs, in US dollars, by the prices that the program knows."""

FAILURES = {
    ("claude", "unauthorized"): ("auth", "API Error: 401 token has expired", NOTHING),
    ("claude", "limited"): ("quota", "You've hit your session limit", NOTHING),
    ("claude", "overloaded"): ("overloaded", "API Error: 529 Overloaded", NOTHING),
    ("claude", "cut"): ("overloaded", "Connection to the API was lost", NOTHING),
    ("codex", "unauthorized"): ("auth", "unexpected status 401 Unauthorized: token has expired", UNKNOWN),
    ("codex", "limited"): ("quota", "hit your usage limit", UNKNOWN),
    ("codex", "overloaded"): ("overloaded", "unexpected status 529", UNKNOWN),
    ("codex", "cut"): ("overloaded", "stream disconnected before completion", UNKNOWN),
    ("gemini", "unauthorized"): ("auth", "token has expired", NOTHING),
    ("gemini", "limited"): ("quota", "Suggested retry after 3600s", NOTHING),
    ("gemini", "overloaded"): ("overloaded", "Overloaded", NOTHING),
    ("gemini", "cut"): ("overloaded", "[API Error: terminated]", UNKNOWN),
    ("opencode", "unauthorized"): ("auth", "token has expired", UNKNOWN),
}
"""By program and answer: the kind of the failure, words of its reason, and the tokens that are known."""
SILENT = [
    *((program, "hang") for program in PROGRAMS),
    *(("opencode", how) for how in ("limited", "overloaded", "cut")),
]
"""Those that wait for the provider without a word."""


def environment(program: str, how: str, folder: Path, url: str) -> Mapping[str, object]:
    """Return the variables, and write the settings, with which a program calls the provider and hardly retries."""
    key, home = {"file": "key"}, folder / f"home-{program}-{how}"
    home.mkdir()
    match program:
        case "claude":
            retries = {"CLAUDE_CODE_MAX_RETRIES": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
            login = {"ANTHROPIC_API_KEY": None, "CLAUDE_CODE_OAUTH_TOKEN": key}
            return {**retries, **login, "CLAUDE_CONFIG_DIR": str(home), "ANTHROPIC_BASE_URL": url}
        case "codex":
            codex_settings(home, url)
            return {"CODEX_API_KEY": key, "CODEX_HOME": str(home)}
        case "gemini":
            gemini_settings(home)
            model = {"GEMINI_MODEL": "gemini-2.5-flash"}
            return {**model, "GEMINI_API_KEY": key, "GEMINI_CLI_HOME": str(home), "GOOGLE_GEMINI_BASE_URL": url}
    provider = {"provider": {"anthropic": {"options": {"baseURL": f"{url}/v1"}}}}
    settings = {"OPENCODE_CONFIG_CONTENT": json.dumps(provider), "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    return {**settings, "ANTHROPIC_API_KEY": key, "XDG_DATA_HOME": str(home)}


@pytest.fixture(scope="module")
def daemon(folder: Path, provider: Peer) -> Iterator[DaemonProcess]:
    agents: dict[str, Table] = {}
    for program in PROGRAMS:
        for how in HOWS:
            is_silent = (program, how) in SILENT
            keys: Table = {"idle_timeout": "15s"} if is_silent else {"attempts": 2, "retry_delay": "1h"}
            env = environment(program, how, folder, f"{provider.url}/{how}")
            agents[f"{program}-{how}"] = {**agent(program, env), **keys}
    rejects = {
        "OPENCODE_PERMISSION": '{"bash": "ask"}',
        **environment("opencode", "ask", folder, f"{provider.url}/tool"),
    }
    agents["opencode-ask"] = agent("opencode", rejects)
    plain = ["claude", "-p", "--output-format", "json"]
    denied = environment("claude", "denied", folder, f"{provider.url}/tool")
    agents["claude-denied"] = agent("claude", denied, command=plain)
    with daemons_in(folder) as start:
        yield start(config_text(environments=site(folder), agents=agents), HOME=str(folder / "home"))


def run_of(daemon: DaemonProcess, name: str) -> dict[str, Any]:
    return ended(daemon, triggered(daemon, f"{name}/go"), deadline=DEADLINE)


def tokens(run: Mapping[str, Any]) -> tuple[int | None, int | None]:
    return run["input_tokens"], run["output_tokens"]


@pytest.mark.parametrize("how", ["text", "tool"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_an_answer_is_understood_and_its_tool_used(daemon: DaemonProcess, program: str, how: str) -> None:
    run = run_of(daemon, f"{program}-{how}")
    calls = 1 if how == "text" else 2
    assert (run["status"], run["error"], run["failure_kind"]) == ("completed", None, None), daemon.output(run["id"])
    assert (run["message"], run["denials"]) == ("It is done.", 0)
    assert (tokens(run), run["usage_state"]) == ((100 * calls, 7 * calls), "exact")
    cost = COSTS.get(program)
    assert run["cost_usd"] == (None if cost is None else pytest.approx(cost * calls))
    assert run["session"]
    assert run["session"] in daemon.output(run["id"])
    commits = git(place_of(daemon, run["id"]), "log", "--format=%s", "-3").splitlines()
    assert commits == (["a.txt"] if how == "text" else ["work", "a.txt"])


@pytest.mark.parametrize("program", PROGRAMS)
def test_its_log_is_readable(daemon: DaemonProcess, program: str) -> None:
    run = run_of(daemon, f"{program}-tool")
    shown = daemon.cli("runs", "logs", str(run["id"])).stdout
    assert "{" not in shown
    assert re.search(rf"(?m)^\$ .*{COMMAND}", shown), shown
    assert "\nIt is done.\n" in shown
    assert daemon.cli("runs", "logs", str(run["id"]), "--answer").stdout == "It is done."


@pytest.mark.parametrize(("program", "how"), FAILURES)
def test_a_failure_is_told_in_the_programs_words(daemon: DaemonProcess, program: str, how: str) -> None:
    kind, words, used = FAILURES[program, how]
    run = run_of(daemon, f"{program}-{how}")
    status = "failed" if kind == "auth" else "continued_as_new"
    assert (run["status"], run["failure_kind"]) == (status, kind), run["error"]
    assert words in run["error"]
    assert "{" not in run["error"]
    assert tokens(run) == used
    assert run["session"]
    assert len(daemon.query("SELECT 1 FROM runs WHERE previous_run_id = ?", run["id"])) == (0 if kind == "auth" else 1)
    if kind == "quota":
        [closed] = daemon.query("SELECT until FROM pool_closures WHERE run_id = ? AND cause = 'limit'", run["id"])
        wait = datetime.fromisoformat(closed["until"]) - datetime.now(UTC)
        assert 3400 < wait.total_seconds() < 5000  # the reset, and up to a fifth of retry_delay


@pytest.mark.parametrize(("program", "how"), SILENT)
def test_one_that_waits_in_silence_is_ended(daemon: DaemonProcess, program: str, how: str) -> None:
    run = run_of(daemon, f"{program}-{how}")
    assert (run["status"], run["failure_kind"]) == ("failed", "timeout")
    assert run["error"].startswith("idle timeout: no output for longer than ")
    assert (tokens(run), run["usage_state"]) == (UNKNOWN, None)


@pytest.mark.parametrize("name", ["claude-denied", "opencode-ask"])
def test_a_denied_command_fails_the_run(daemon: DaemonProcess, name: str) -> None:
    run = run_of(daemon, name)
    assert (run["status"], run["failure_kind"], run["denials"]) == ("failed", "denied", 1), run["error"]
    assert "permission denied: " in run["error"]
    assert "git commit" in run["error"]
