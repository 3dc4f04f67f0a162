"""Programs that speak the Agent Client Protocol, as the recipe runs them, against a provider that answers and fails."""

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.configs import Table, config_text
from tests.support.daemon_process import DaemonProcess, daemons_in
from tests.support.git_site import git
from tests.support.peers.processes import Peer
from tests.support.real_programs import REAL, agent, bubblewrap, codex_settings, gemini_settings, site
from tests.support.runs import ended, triggered
from tests.support.site_daemon import place_of

pytestmark = REAL
RECIPE = (Path(__file__).parents[2] / "daemon/cli/recipes/acp.toml").read_text()
NAMED = [tomllib.loads(line)["command"] for line in re.findall(r"(?m)^(?:# )?(command = .*)$", RECIPE)]
COMMANDS = {command[0].partition("-")[0]: command for command in NAMED}
"""Those that the recipe names, by program."""
HOWS = ("text", "tool", "unauthorized")
DEADLINE = 120.0


def environment(program: str, home: Path, url: str) -> Mapping[str, object]:
    """Return the variables, and write the settings, with which a program calls the provider and hardly retries."""
    home.mkdir()
    key, no_key = {"file": "key"}, {"ANTHROPIC_API_KEY": None}
    match program:
        case "claude":
            login = {"ANTHROPIC_API_KEY": key, "CLAUDE_CONFIG_DIR": str(home), "CLAUDE_CODE_MAX_RETRIES": "1"}
            return {**login, "ANTHROPIC_BASE_URL": url, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
        case "codex":
            codex_settings(home, url)
            path = f"{bubblewrap().parent}:{os.environ['PATH']}"
            return {**no_key, "CODEX_API_KEY": key, "CODEX_HOME": str(home), "PATH": path}
        case "gemini":
            gemini_settings(home)
            model = {"GEMINI_MODEL": "gemini-2.5-flash", "GOOGLE_GEMINI_BASE_URL": url}
            return {**no_key, **model, "GEMINI_API_KEY": key, "GEMINI_CLI_HOME": str(home)}
    provider = {
        "provider": {"anthropic": {"options": {"baseURL": f"{url}/v1"}}},
        "model": "anthropic/claude-sonnet-4-5",
    }
    settings = {"OPENCODE_CONFIG_CONTENT": json.dumps(provider), "OPENCODE_DISABLE_MODELS_FETCH": "1"}
    return {**settings, "ANTHROPIC_API_KEY": key, "XDG_DATA_HOME": str(home)}


@pytest.fixture(scope="module")
def daemon(folder: Path, provider: Peer) -> Iterator[DaemonProcess]:
    agents: dict[str, Table] = {}
    for program, command in COMMANDS.items():
        for how in HOWS:
            env = environment(program, folder / f"home-{program}-{how}", f"{provider.url}/{how}")
            agents[f"{program}-{how}"] = agent("acp", env, command=command)
    with daemons_in(folder) as start:
        yield start(config_text(environments=site(folder), agents=agents), HOME=str(folder / "home"))


@pytest.mark.parametrize("how", ["text", "tool"])
@pytest.mark.parametrize("program", COMMANDS)
def test_an_answer_is_the_message_and_its_tool_used(daemon: DaemonProcess, program: str, how: str) -> None:
    run = ended(daemon, triggered(daemon, f"{program}-{how}/go"), deadline=DEADLINE)
    output = daemon.output(run["id"])
    assert (run["status"], run["error"], run["failure_kind"]) == ("completed", None, None), output
    assert str(run["message"]).endswith("It is done."), output
    commits = git(place_of(daemon, run["id"]), "log", "--format=%s", "-3").splitlines()
    assert commits == (["a.txt"] if how == "text" else ["work", "a.txt"]), output


@pytest.mark.parametrize("program", sorted(COMMANDS.keys() - {"codex"}))  # which says it in `error.data` alone
def test_a_login_that_has_expired_is_told(daemon: DaemonProcess, program: str) -> None:
    run = ended(daemon, triggered(daemon, f"{program}-unauthorized/go"), deadline=DEADLINE)
    assert (run["status"], run["failure_kind"]) == ("failed", "auth"), (run["error"], daemon.output(run["id"]))
