"""What the output of a command is read as: the format that is set, or the one that its program prints."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import PurePath
from typing import NamedTuple

from daemon.config.schema import CommandAgent, Config

_OPTIONS = {
    "claude": (("--output-format json", "--output-format stream-json"), "--output-format stream-json --verbose"),
    "codex": (("--json", "--experimental-json"), "--json"),
    "gemini": (
        ("--output-format json", "--output-format stream-json", "-o json", "-o stream-json"),
        "--output-format stream-json",
    ),
    "opencode": (("--format json",), "--format json"),
}
"""By program: the options with which it prints its format, and those to recommend."""


class Chosen(NamedTuple):
    """A format, and why it was chosen."""

    name: str
    """Never `auto`."""
    why: str
    """Empty if nothing speaks for any format."""


def chosen_format(agent: CommandAgent) -> Chosen:
    """Return what the output of an agent is read as."""
    if agent.result_format != "auto":
        return Chosen(agent.result_format, "as set")
    program = PurePath(agent.words[0]).name
    if program not in _OPTIONS:
        return Chosen("none", "")
    accepted, recommended = _OPTIONS[program]
    given = options_of(agent.words[1:])
    if not given.intersection(accepted):
        return Chosen("none", f"since {program} prints plain text without {recommended}")
    return Chosen(program, f"which {program} prints")


def chosen_formats(config: Config) -> dict[str, Chosen]:
    """Return what the output of each command is read as, by the agent's name."""
    commands = {name: agent for name, agent in config.agents.items() if isinstance(agent, CommandAgent)}
    return {name: chosen_format(agent) for name, agent in commands.items()}


def options_of(arguments: Sequence[str]) -> set[str]:
    """Return the options of a command, each alone and with its value: `--x=y` and `--x y` are the same."""
    pairs = {f"{one} {following}" for one, following in pairwise(arguments)}
    return {*arguments, *pairs, *(one.replace("=", " ", 1) for one in arguments if one.startswith("-"))}
