"""The routes of the daemon as a whole: reload, status, health and metrics."""

import asyncio
import os
import sqlite3
from typing import Any, Literal

from aiohttp import web
from typing_extensions import TypedDict

from daemon import metrics, schedule_metrics
from daemon.api.routing import ApiCall, Route, reply
from daemon.config.schema import Config, ProcessAgent
from daemon.errors import ForbiddenError
from daemon.metrics import Visible
from daemon.store.schedules import first_live
from daemon.store.unfinished_runs import count_active
from daemon.store.workspaces import count_workspaces, saved_work
from daemon.units import utc_now
from daemon.views.status import ProblemView, StatusView, WaitView, problem_views, status_view, wait_views

_MOST_SETTINGS = 100  # that a reload names


class ReloadView(TypedDict):
    """What a reload changed: schedules, and the names of other settings, of which at most 100 are listed."""

    changes: list[dict[str, Any]]
    settings: list[str]
    settings_total: int
    warnings: list[str]


class Health(TypedDict):
    """The daemon answers."""

    status: Literal["ok"]


class DaemonView(TypedDict):
    """Which daemon this is: its config file, its state directory, its current problems, and what runs wait for."""

    pid: int
    config_file: str
    state_dir: str
    timezone: str
    amiss: str | None
    problems: list[ProblemView]
    waits: list[WaitView]


async def _reload(call: ApiCall) -> web.StreamResponse:
    await call.require_admin("reload the config")
    done = await call.context.reload()
    view = ReloadView(
        changes=[change.view() for change in done.schedules],
        settings=done.settings[:_MOST_SETTINGS],
        settings_total=len(done.settings),
        warnings=done.warnings,
    )
    return reply(view)


def _refuse_runs(call: ApiCall) -> None:
    if call.principal.startswith("run:"):
        raise ForbiddenError(f"{call.principal} may see its own run only")


async def _status(call: ApiCall) -> web.StreamResponse:
    _refuse_runs(call)
    await call.context.forget_if_undone()
    agents = await call.context.access.readable_agents(call.principal)
    failing = problem_views(call.context.home.problems.current(), agents)
    waits = wait_views(call.context.mirrors.waits, agents)
    problems, config = call.context.health.problems(hint=False), call.context.config
    progress = {"cleanup": call.context.cleanup.progress, "retention": call.context.retention.progress}
    sweeps = {name: dict(vars(sweep)) for name, sweep in progress.items() if sweep is not None}

    def view(connection: sqlite3.Connection) -> StatusView:
        folder, now = call.context.home.state_dir, utc_now()
        return status_view(
            connection,
            folder,
            os.getpid(),
            now,
            config,
            agents,
            problems=problems,
            failing=failing,
            waits=waits,
            sweeps=sweeps,
        )

    return await call.answer(view)


async def _daemon(call: ApiCall) -> web.StreamResponse:
    _refuse_runs(call)
    await call.context.forget_if_undone()
    config = call.context.config
    agents = await call.context.access.readable_agents(call.principal)
    return reply(
        DaemonView(
            pid=os.getpid(),
            config_file=str(config.file),
            state_dir=str(call.context.home.state_dir),
            timezone=config.daemon.timezone,
            amiss=call.context.health.problems(hint=False) or None,
            problems=problem_views(call.context.home.problems.current(), agents),
            waits=wait_views(call.context.mirrors.waits, agents),
        )
    )


async def _healthz(call: ApiCall) -> web.StreamResponse:
    await call.context.home.database.read(lambda c: c.execute("SELECT 1").fetchone())
    return reply(Health(status="ok"))


async def _metrics(call: ApiCall) -> web.StreamResponse:
    _refuse_runs(call)
    active = await call.context.home.database.read(count_active)
    workspaces = await call.context.home.database.read(count_workspaces)
    agents = await call.context.access.readable_agents(call.principal)
    visible = None if agents is None else _visible(call.context.config, agents)
    saved = await call.context.home.database.read(saved_work)
    problems = call.context.home.problems.by_part()
    of_schedules = call.context.schedule_metrics
    tracked, places = of_schedules.tracked, of_schedules.places
    live = await call.context.home.database.read(lambda c: first_live(c, tracked, places))
    series = of_schedules.keep(tracked, live, call.context.config.agents.keys())
    text = await asyncio.to_thread(call.context.metrics.text, active, workspaces, saved, problems, visible)
    text += await asyncio.to_thread(schedule_metrics.text_of, series, agents)
    return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})


def _visible(config: Config, agents: list[str]) -> Visible:
    """Return what somebody may see who may read some agents: their names, and those of their environments."""
    found = [config.agents.get(name) for name in agents]
    used = {agent.environment for agent in found if isinstance(agent, ProcessAgent) and agent.environment is not None}
    return Visible(frozenset(agents), frozenset(used))


ROUTES = [
    Route("POST", "/reload", "reload the config file", _reload, ReloadView, refusals=(400,)),
    Route("GET", "/daemon", "which daemon this is, and its current problems", _daemon, DaemonView),
    Route("GET", "/status", "how the daemon is doing", _status, StatusView),
    Route("GET", "/healthz", "whether the daemon answers", _healthz, Health, is_open=True),
    Route("GET", "/metrics", "metrics for Prometheus", _metrics, "text/plain"),
]
