"""The settings that a run starts with and keeps, even if the config changes later."""

import json
from dataclasses import fields
from functools import lru_cache

from daemon.agents.base import RunSettings
from daemon.config.effective import limit_pools, login_pools
from daemon.config.result_formats import chosen_format
from daemon.config.schema import AgentexAgent, CommandAgent, Config, ProcessAgent, RemoteAgent
from daemon.store.runs import Run

_DROPPED_NOTE = 128  # bytes; more than the line that stands for the dropped part takes


def settings_of(run: Run) -> RunSettings:
    """Return the settings that a run started with, as far as this version knows them."""
    return _settings_in(run.settings or "{}")


@lru_cache(maxsize=64)
def _settings_in(text: str) -> RunSettings:
    """Return settings as they are stored: the runs of an agent nearly always have the same."""
    known = {field.name for field in fields(RunSettings)}
    return RunSettings(**{name: value for name, value in json.loads(text).items() if name in known})


def stored(settings: RunSettings) -> str:
    """Return settings as they are stored with a run."""
    return json.dumps(vars(settings))


def largest_output(run: Run) -> int:
    """Return how many bytes agentcron writes to a run's output at most, with the note of what it dropped.

    Once a run of a process has ended, these are what it wrote. A file with more is no longer the output alone: an agent
    can make it as large as it likes, and use no disk for that.
    """
    settings = settings_of(run)
    largest = settings.max_output + _DROPPED_NOTE
    if run.output_bytes is None or not settings.signed_records:  # the output of others may be what their hook reports
        return largest
    return min(largest, run.output_bytes + (_DROPPED_NOTE if run.output_dropped else 0))


def settings_for(config: Config, agent: str) -> RunSettings:
    """Return the settings that a run of an agent would start with now."""
    settings = config.agents.get(agent)
    if settings is None:
        return RunSettings()
    agentex = settings if isinstance(settings, AgentexAgent) else None
    process = settings if isinstance(settings, ProcessAgent) else None
    idle_timeout = process.idle_timeout if process else None
    return RunSettings(
        kind=settings.type,
        attempts=settings.attempts,
        retry_delay_seconds=settings.retry_delay.total_seconds(),
        on_interrupt=settings.on_interrupt,
        result_format=chosen_format(settings).name if isinstance(settings, CommandAgent) else "none",
        on_bad_report=process.on_bad_report if process else "ignore",
        on_denied=process.on_denied if process else "ignore",
        timeout_seconds=settings.timeout.total_seconds(),
        idle_timeout_seconds=idle_timeout.total_seconds() if idle_timeout else None,
        kill_grace_seconds=process.kill_grace.total_seconds() if process else 0,
        max_output=process.max_output if process else RunSettings.max_output,
        memory_max=process.memory_max if process else None,
        cpu_quota=process.cpu_quota if process else None,
        tasks_max=process.tasks_max if process else None,
        signed_records=process is not None,
        limit_pools=limit_pools(config, agent),
        login_pools=login_pools(config, agent),
        url=settings.url if isinstance(settings, RemoteAgent) else "",
        acp_type=agentex.acp_type if agentex else "agentic",
        await_completion=agentex is not None and agentex.acp_type != "sync" and agentex.await_completion,
    )
