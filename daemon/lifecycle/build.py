"""Builds the parts of the daemon and wires them together, the only place that does."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import aiohttp

from daemon.access import Access
from daemon.agents.factory import Agents
from daemon.api.background import Background
from daemon.api.context import ApiContext
from daemon.api.identity import Tokens
from daemon.api.server import ControlServer
from daemon.api.sockets import Listeners
from daemon.clock.alarm import Clock
from daemon.clock.watch import ClockWatch
from daemon.config.live import LiveConfig
from daemon.lifecycle.reload import Reloader
from daemon.lifecycle.review import Review
from daemon.lifecycle.shutdown import Shutdown
from daemon.lifecycle.signals import Stop
from daemon.lifecycle.status_line import StatusLine
from daemon.lifecycle.watchdog import Watchdog
from daemon.log import Log
from daemon.maintenance.cleanup import Cleanup
from daemon.maintenance.mirrors import MirrorMaintenance
from daemon.maintenance.retention import Retention
from daemon.maintenance.workspace_removal import WorkspaceRemoval
from daemon.metrics import Metrics
from daemon.notify.dead_man_switch import DeadManSwitches
from daemon.notify.outbox import Outbox
from daemon.notify.sender import Notifier
from daemon.runs.control import RunControl
from daemon.runs.fetches import Fetches
from daemon.runs.hook_calls import HookCalls
from daemon.runs.hook_tokens import HookTokens
from daemon.runs.pipeline import Pipeline
from daemon.runs.probes import Probes
from daemon.runs.queue import Queue
from daemon.runs.withdrawal import Withdrawals
from daemon.schedule_metrics import ScheduleMetrics
from daemon.store.database import Database
from daemon.store.home import Home
from daemon.views.health import Health
from daemon.workspaces.mirror_use import MirrorUse


@dataclass(frozen=True)
class Resources:
    """What the daemon opens at its start and closes at its end."""

    live: LiveConfig
    log: Log
    stop: Stop
    started: datetime
    state_dir: Path
    database: Database
    agents: Agents
    session: aiohttp.ClientSession
    hooks: HookTokens
    tokens: Tokens
    listeners: Listeners


@dataclass(frozen=True)
class Figures:
    """What the daemon counts, of itself and of single schedules."""

    metrics: Metrics
    of_schedules: ScheduleMetrics


@dataclass(frozen=True)
class Parts:
    """The finished parts of a running daemon."""

    clock: Clock
    clock_watch: ClockWatch
    queue: Queue
    probes: Probes
    cleanup: Cleanup
    mirrors: MirrorMaintenance
    retention: Retention
    notifier: Notifier
    dead_man_switches: DeadManSwitches
    status: StatusLine
    watchdog: Watchdog
    background: Background
    reloader: Reloader
    review: Review
    server: ControlServer
    shutdown: Shutdown


def build(
    resources: Resources, home: Home, figures: Figures, runs: asyncio.TaskGroup, requests: asyncio.TaskGroup
) -> Parts:
    """Build all parts; the tasks of runs and of requests belong to the two groups."""
    metrics = figures.metrics
    live, session, agents = resources.live, resources.session, resources.agents
    health, control = Health(failing=home.problems), RunControl()
    access, outbox, background = Access(live), Outbox(live), Background(requests)
    mirrors = MirrorUse()
    fetches = Fetches(home.state_dir, mirrors, runs)
    pipeline = Pipeline(home, live, agents, resources.hooks, access, outbox, control, fetches)
    withdrawals = Withdrawals(home, live, agents, resources.hooks, control)
    queue = Queue(home, live, pipeline, withdrawals, control, fetches, outbox, runs)
    clock = Clock(home, live, access, outbox, metrics)
    removal = WorkspaceRemoval(home, live, metrics)
    maintenance = MirrorMaintenance(home, live, mirrors)
    cleanup = Cleanup(home, live, outbox, maintenance, removal)
    retention = Retention(home, live, removal, metrics, outbox)
    status = StatusLine(home, queue, health)
    review = Review(home, live, access, outbox)
    reloader = Reloader(home, live, clock, agents, resources.tokens, status, review)
    context = ApiContext(
        home=home,
        live=live,
        access=access,
        clock=clock,
        outbox=outbox,
        metrics=metrics,
        schedule_metrics=figures.of_schedules,
        cleanup=cleanup,
        removal=removal,
        retention=retention,
        hook_calls=HookCalls(home, live, agents, outbox, control),
        health=health,
        mirrors=mirrors,
        background=background,
        reload=reloader.reload,
        forget_if_undone=reloader.forget_if_undone,
    )
    return Parts(
        clock=clock,
        clock_watch=ClockWatch(home),
        queue=queue,
        probes=Probes(home, live, outbox),
        cleanup=cleanup,
        mirrors=maintenance,
        retention=retention,
        notifier=Notifier(home, live, session, metrics),
        dead_man_switches=DeadManSwitches(home, live, session),
        status=status,
        watchdog=Watchdog(home, status, metrics, resources.log, reloader.forget_if_undone),
        background=background,
        reloader=reloader,
        review=review,
        server=ControlServer(context, resources.tokens, resources.listeners),
        shutdown=Shutdown(queue, control, background, resources.stop),
    )
