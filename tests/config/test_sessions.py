"""The keys of sessions: what is accepted, and how everything else is reported."""

from pathlib import Path

import pytest

from daemon.config.loading import load_config
from daemon.config.schema import CommandAgent
from daemon.errors import ConfigError

SCHEDULE = '[agents.a.schedules.s]\nevery = "1h"\n'
CONTINUE = SCHEDULE + 'session = "continue"\n'
COMMAND = '[agents.a]\ncommand = ["true"]\n'


def agent(command: str, *lines: str) -> str:
    return "\n".join(["[agents.a]", f"command = {command}", *lines, ""])


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        (COMMAND + SCHEDULE + 'session = "last"', "schedules.s.session", "should be 'new' or 'continue'"),
        (COMMAND + CONTINUE + 'overlap = "allow_all"', "schedules.s.session", "two runs would write into one session"),
        (COMMAND + SCHEDULE + "session_max_runs = 5", "schedules.s.session_max_runs", 'with session = "continue"'),
        (COMMAND + SCHEDULE + 'session_max_age = "7d"', "schedules.s.session_max_age", 'with session = "continue"'),
        (COMMAND + CONTINUE + "session_max_runs = 0", "schedules.s.session_max_runs", "greater than or equal to 1"),
        (COMMAND + CONTINUE + 'session_max_age = "0s"', "schedules.s.session_max_age", 'at least "1s"'),
        ('[agents.a]\ntype = "a2a"\nurl = "http://x"\n' + CONTINUE, "schedules.s.session", "this one is a2a"),
        (agent('"claude"'), "command", 'such as ["--resume", "{session}"]'),
        (agent('["claude", ["--resume", 1]]'), "command", "should be an array of strings"),
        (agent('["claude", []]'), "command", "should be an array of strings"),
        (agent('["claude", [["x"]]]'), "command", "should be an array of strings"),
        (agent("[]"), "command", "is empty; add at least one item"),
        (agent('[["claude", "{session}"]]'), "command", "the first item is the program to run"),
        (agent('["{session}"]'), "command", "the first item is the program to run"),
        (agent('["x", ["a\\u0000b"]]'), "command", "cannot contain a NUL character"),
        (agent('["x", ["{session}"]]', 'type = "acp"'), "command", "acp has session/load instead"),
    ],
)
def test_a_mistake_is_reported_with_its_key(tmp_path: Path, text: str, key: str, why: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    found = [problem for problem in caught.value.problems if why in problem]
    assert found, caught.value.problems
    assert f": agents.a.{key}" in found[0]


def test_arguments_in_an_array_of_their_own_are_words_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(agent('["claude", "-p", ["--resume", "{session}"]]') + CONTINUE)
    found = load_config(tmp_path / "config.toml").agents["a"]
    assert isinstance(found, CommandAgent)
    assert found.words == ["claude", "-p", "--resume", "{session}"]
