"""What the output of a command is read as."""

import pytest

from daemon.config.result_formats import chosen_format
from daemon.config.schema import CommandAgent


@pytest.mark.parametrize(
    ("command", "chosen"),
    [
        ("claude -p --output-format json", "claude"),
        ("/opt/x/claude -p --output-format=stream-json --verbose", "claude"),
        ("claude -p", "none"),
        ("claude -p --output-format text json", "none"),
        ("codex exec --json", "codex"),
        ("codex exec", "none"),
        ("gemini --output-format stream-json", "gemini"),
        ("gemini -o json", "gemini"),
        ("opencode run --format json", "opencode"),
        ("opencode run --format default", "none"),
        ("env claude -p --output-format json", "none"),
        ("other --json", "none"),
    ],
)
def test_the_format_is_that_of_the_program_if_it_prints_it(command: str, chosen: str) -> None:
    found = chosen_format(CommandAgent(command=[*command.split()]))
    assert found.name == chosen
    assert bool(found.why) is not command.startswith(("env", "other"))


def test_a_format_that_is_set_counts() -> None:
    for name in ("none", "claude", "codex"):
        agent = CommandAgent(command=["claude", "--output-format", "json"], result_format=name)
        assert chosen_format(agent).name == name
