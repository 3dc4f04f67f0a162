"""README and example against the program: every key and variable is in them, and CI runs what they say."""

import re
import tomllib
from pathlib import Path

import typer

from daemon.api.routes import pools, retention, runs, schedule_history, schedule_runs, schedules, service, workspaces
from daemon.cli.app import app
from daemon.config import schema

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLE = (ROOT / "config.example.toml").read_text()


def test_every_config_key_is_in_the_example_or_the_readme() -> None:
    for model in vars(schema).values():
        if isinstance(model, type) and issubclass(model, schema.Section):
            for key in model.model_fields:
                assert re.search(rf"\b{key}\b", README + EXAMPLE), key


def test_every_variable_given_to_agents_is_in_the_readme() -> None:
    source = (ROOT / "daemon/agents/process/spec.py").read_text()
    given = set(re.findall(r'"(AGENTCRON_[A-Z_]+)"', source))
    assert len(given) == 16
    assert all(name in README for name in given)


def test_ci_runs_the_readmes_test_command_word_for_word() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv")]
    assert len(commands) == 2
    assert commands[1] in (ROOT / ".ci/run").read_text().splitlines()


def test_the_commented_parts_of_the_example_are_toml() -> None:
    lines = [line.removeprefix("# ") if re.match(r"# (\[|[a-z_]+ = )", line) else line for line in EXAMPLE.splitlines()]
    parsed = tomllib.loads("\n".join(lines))
    assert {"triage", "concierge", "editor"} <= parsed["agents"].keys()


def test_every_command_is_in_the_readme() -> None:
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        names = [f"`{name}" for name in getattr(command, "commands", ())] or [f"`agentcron {command.name}"]
        first, *others = names
        assert f"`agentcron {command.name}" in README
        for name in [first, *others]:
            plain = name.removeprefix("`")
            assert re.search(rf"`(agentcron )?({command.name} )?{plain}\b", README), (command.name, name)


def test_every_route_is_in_the_readme() -> None:
    resources = (schedules, schedule_runs, schedule_history, runs, workspaces, retention, pools, service)
    for route in (route for resource in resources for route in resource.ROUTES):
        known = [route.path, route.path.replace("/agents/{agent}/schedules/{name}", ".../{name}")]
        last = f"`{route.path.rpartition('/')[2]}`"
        assert route.method in README
        assert any(f"{path}" in README for path in known) or last in README, route.path
