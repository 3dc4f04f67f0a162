"""The recipes that `agentcron init --for` writes: shown in the README as they are, valid, and what they say is true."""

import re
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon.cli.app import app
from daemon.config.loading import load_config
from daemon.config.result_formats import chosen_format
from daemon.config.schema import CommandAgent, Config, ProcessAgent

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RECIPES = {file.stem: file.read_text() for file in sorted((ROOT / "daemon/cli/recipes").iterdir())}
UNDERSTOOD = {"claude", "codex", "gemini", "opencode"}


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def loaded(folder: Path, text: str) -> tuple[Config, ProcessAgent]:
    (folder / "config.toml").write_text(text)
    config = load_config(folder / "config.toml", {})
    [agent] = config.agents.values()
    assert isinstance(agent, ProcessAgent)
    return config, agent


def test_the_readme_shows_each_recipe_as_it_is(recipe: str) -> None:
    assert f"```toml\n{RECIPES[recipe]}```\n" in README
    assert recipe in re.findall(r"\w+", CliRunner().invoke(app, ["init", "--help"]).output.partition("--for")[2])


def test_init_writes_the_recipe_into_the_example(recipe: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["init", str(tmp_path / "new"), "--for", recipe])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "new/config.toml").read_text()
    assert f"\n\n{RECIPES[recipe]}\n# An agent with all its settings.\n" in text
    config, agent = loaded(tmp_path, text)
    assert config.daemon.state_dir == Path(".agentcron")
    assert agent.schedules


def test_it_waits_long_enough_for_a_slow_provider(recipe: str, tmp_path: Path) -> None:
    _, agent = loaded(tmp_path, RECIPES[recipe])
    assert agent.idle_timeout is not None
    assert timedelta(minutes=5) <= agent.idle_timeout < agent.timeout


def test_what_a_known_program_prints_is_understood(recipe: str, tmp_path: Path) -> None:
    _, agent = loaded(tmp_path, RECIPES[recipe])
    if isinstance(agent, CommandAgent):
        assert chosen_format(agent).name == (recipe if recipe in UNDERSTOOD else "none")


def test_what_is_commented_out_is_valid_too(recipe: str, tmp_path: Path) -> None:
    _, plain = loaded(tmp_path, RECIPES[recipe])
    text = re.sub(r'(?m)^( *)# (env\.\w+ = |"-)', r"\1\2", RECIPES[recipe])
    _, full = loaded(tmp_path, text)
    assert {"HTTPS_PROXY", "NO_PROXY"} <= full.env.keys() - plain.env.keys()
    assert len(full.command) >= len(plain.command)


def test_what_has_no_recipe_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["init", str(tmp_path / "new"), "--for", "../claude"])
    assert done.exit_code == 2
    assert all(name in done.output for name in RECIPES)
    assert not (tmp_path / "new").exists()
