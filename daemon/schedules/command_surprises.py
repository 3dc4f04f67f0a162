"""Find settings of commands that are valid, but do not fit what the program prints, or how it takes its input."""

from collections.abc import Iterator
from datetime import timedelta

from daemon.config.result_formats import chosen_format, options_of
from daemon.config.schema import CommandAgent
from daemon.schedules.surprise import Surprise
from daemon.units import format_duration

_LEAST_SILENCE = timedelta(minutes=5)
"""Known programs are as silent while their provider fails: Claude Code alone tries again for 200 s."""
_ONLY_AT_THE_END = {"claude", "gemini"}
"""Formats in which `--output-format json` prints nothing before the end of the run."""


def of_command(place: str, agent: CommandAgent) -> Iterator[Surprise]:
    """Yield what is probably a mistake in the section of a command, given its key path."""
    yield from _silence(f"{place}.idle_timeout", agent)
    if agent.input == "argument" and agent.command[-1] != "--":
        for name, schedule in agent.schedules.items():
            if schedule.input.content.startswith("-"):
                what = "the input begins with a dash, so the program may take it for an option"
                fix = f'end {place}.command with "--", if the program takes that, or use input = "stdin"'
                yield Surprise(f"{place}.schedules.{name}.input", what, fix)


def _silence(place: str, agent: CommandAgent) -> Iterator[Surprise]:
    """Find an `idle_timeout` that ends healthy runs of a known program."""
    limit, chosen = agent.idle_timeout, chosen_format(agent).name
    if limit is None or chosen == "none":
        return
    if chosen in _ONLY_AT_THE_END and "--output-format json" in options_of(agent.words):
        what = (
            f"{chosen} prints nothing before its end with --output-format json, so this ends each run that takes longer"
        )
        yield Surprise(place, what, "use --output-format stream-json, or limit the run by timeout alone")
    elif limit < _LEAST_SILENCE:
        least = format_duration(_LEAST_SILENCE)
        what = f"{chosen} prints nothing for minutes while it waits for its provider, so this ends healthy runs"
        yield Surprise(place, what, f"set at least {least}")
