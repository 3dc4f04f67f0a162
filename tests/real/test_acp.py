"""Programs that speak the Agent Client Protocol, as the recipe runs them, against a provider that answers and fails."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.configs import Table, config_text
from tests.support.daemon_process import DaemonProcess, daemons_in
from tests.support.git_site import git
from tests.support.peers.processes import Peer
from tests.support.real_programs import REAL, agent, codex_settings, gemini_settings, site
from tests.support.runs import ended, triggered
from tests.support.site_daemon import place_of

pytestmark = REAL
COMMANDS = {
    "claude": ["claude-agent-acp"],
    "codex": ["codex-acp"],
    "gemini": ["gemini", "--acp", "--skip-trust"],
    "opencode": ["opencode", "acp"],
}
"""As the recipe names them."""
HOWS = ("text", "tool", "unauthorized")
USES_TOOLS = ("claude", "gemini", "opencode")
"""Those that use tools in the mode in which they start, and tell what a failure was: codex-acp may read only then."""
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
            return {**no_key, "CODEX_API_KEY": key, "CODEX_HOME": str(home)}
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


ANSWERS = [*((program, "text") for program in COMMANDS), *((program, "tool") for program in USES_TOOLS)]


@pytest.mark.parametrize(("program", "how"), ANSWERS)
def test_an_answer_is_the_message_and_its_tool_used(daemon: DaemonProcess, program: str, how: str) -> None:
    run = ended(daemon, triggered(daemon, f"{program}-{how}/go"), deadline=DEADLINE)
    output = daemon.output(run["id"])
    assert (run["status"], run["error"], run["failure_kind"]) == ("completed", None, None), output
    assert str(run["message"]).endswith("It is done."), output
    commits = git(place_of(daemon, run["id"]), "log", "--format=%s", "-3").splitlines()
    assert commits == (["a.txt"] if how == "text" else ["work", "a.txt"]), output


@pytest.mark.parametrize("program", USES_TOOLS)
def test_a_login_that_has_expired_is_told(daemon: DaemonProcess, program: str) -> None:
    run = ended(daemon, triggered(daemon, f"{program}-unauthorized/go"), deadline=DEADLINE)
    assert (run["status"], run["failure_kind"]) == ("failed", "auth"), (run["error"], daemon.output(run["id"]))


def test_the_recipe_names_these_commands() -> None:
    recipe = (Path(__file__).parents[2] / "daemon/cli/recipes/acp.toml").read_text()
    assert all(json.dumps(command) in recipe for command in COMMANDS.values())
