"""Find settings of pools, schedules, budgets and commands that are valid, but do not do what they seem to."""

from collections.abc import Iterator

from daemon.config.result_formats import chosen_format
from daemon.config.schema import CommandAgent, Config, Schedule
from daemon.config.values import SESSION
from daemon.model import Catchup, Overlap, SessionPolicy
from daemon.schedules.budget_surprises import of_budget, of_host_budget
from daemon.schedules.command_surprises import of_command
from daemon.schedules.declared import definition_of
from daemon.schedules.surprise import Surprise
from daemon.store.schedules import cadence_from
from daemon.units import format_duration

_BY_DIRECTORY = {"claude", "gemini"}
"""The programs that find a session only in the directory in which it began."""
_EXAMPLES = {
    "claude": '"--resume={session}"',
    "codex": '["resume", "{session}"] behind "exec"',
    "gemini": '"--resume={session}"',
    "opencode": '"--session={session}"',
}
"""How each program is told which session to continue."""


def find_surprises(config: Config) -> Iterator[Surprise]:
    """Yield the settings that probably do not do what they should."""
    used = {pool for agent in config.agents.values() for pool in agent.pools}
    for name in sorted(config.pools.keys() - used):
        yield Surprise(f"pools.{name}", "no agent uses this pool", f'add pools = ["{name}"] to an agent, or remove it')
    yield from of_host_budget(config.budget, config.agents)
    for name, agent in config.agents.items():
        place = f"agents.{name}"
        yield from of_budget(f"{place}.budget", agent)
        if isinstance(agent, CommandAgent):
            yield from of_command(place, agent)
        for schedule, settings in agent.schedules.items():
            yield from _schedule(f"{place}.schedules.{schedule}", settings, config)
            if settings.session is SessionPolicy.CONTINUE and isinstance(agent, CommandAgent):
                yield from _session(f"{place}.schedules.{schedule}.session", agent, config)
            if settings.overlap is Overlap.ALLOW_ALL and agent.max_concurrent == 1:
                what = f'overlap = "allow_all" has no effect while {place}.max_concurrent is 1'
                yield Surprise(f"{place}.schedules.{schedule}", what)


def _session(place: str, agent: CommandAgent, config: Config) -> Iterator[Surprise]:
    """Find a command that is not told which session to continue, or that looks for it in another directory."""
    program = chosen_format(agent).name
    if program != "none" and not any(SESSION.search(word) for word in agent.words):
        what = "its command has no {session}, so every run begins a new one"
        yield Surprise(place, what, f"add {_EXAMPLES[program]}, unless the command reads $AGENTCRON_SESSION")
    environment = config.environments.get(agent.environment) if agent.environment else None
    is_stable = environment is not None and (environment.mode == "local" or environment.workspace == "keep")
    if program in _BY_DIRECTORY and not is_stable:
        what = f"{program} finds a session only in the directory where it began, and each run has one of its own"
        yield Surprise(place, what, 'use an environment with mode = "git" and workspace = "keep", or mode = "local"')


def _schedule(place: str, schedule: Schedule, config: Config) -> Iterator[Surprise]:
    """Find a jitter that is cut short, and a window of catch-ups that is shorter than the time between due times."""
    has_window = "catchup_window" in schedule.model_fields_set and schedule.catchup is not Catchup.NONE
    if not schedule.jitter and not has_window:
        return
    shortest, longest = cadence_from(definition_of(schedule, config)).rhythm.gaps()
    if schedule.jitter > shortest / 2:
        gap, most = format_duration(shortest), format_duration(shortest / 2)
        what = f"due times are as little as {gap} apart, and a start is delayed by at most half of that, {most}"
        yield Surprise(f"{place}.jitter", what, f"set at most {most}, unless it is intended")
    if has_window and schedule.catchup_window < longest:
        what = (
            f"due times are up to {format_duration(longest)} apart, so one that is missed is given up although no "
            "newer one has come"
        )
        yield Surprise(
            f"{place}.catchup_window", what, "remove it, since the default is long enough, or make it longer"
        )
