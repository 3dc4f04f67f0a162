"""One run from its claim to its record: workspace, deliver, work, record."""

import asyncio
import contextlib
import json
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from daemon.agents.base import Identity, NeverStarted, Outcome, RunSettings, Stoppable, Work
from daemon.agents.factory import Agents
from daemon.agents.remote.agent import RemoteAgent
from daemon.config.schema import BaseAgent, Config, ProcessAgent
from daemon.errors import SecretError, StoreDamagedError
from daemon.model import ACTIVE, CONFIG_PRINCIPAL, RunStatus, Step
from daemon.rules.notifications import Audience
from daemon.runs.finish import finish
from daemon.runs.folder import FolderRoomError, RunPreparationError, make_input_folder, make_run_folder, run_folder
from daemon.runs.hook_tokens import Hooks, hash_of
from daemon.runs.journal import Stages, UnwantedError
from daemon.runs.settings import settings_of
from daemon.runs.workspace import WorkspacePreparation, source_of
from daemon.store.cancellations import flag_cancellation, flag_of
from daemon.store.connection import Transaction
from daemon.store.database import Database
from daemon.store.events import add_event, begin_step
from daemon.store.hooks import add_hook
from daemon.store.runs import Change, Run, change_status, get_run
from daemon.store.workspaces import add_workspace
from daemon.units import format_instant, parse_instant

_LOG = structlog.get_logger()
_ROOM_AGAIN_AFTER = timedelta(seconds=5)


@dataclass(frozen=True)
class Heard:
    """Who hears of what happens on the way."""

    lasted: Callable[[timedelta], None]
    """How long a run took that has ended."""
    tried: Callable[[str, str], None]
    """The kind of agent and the result of each try of a delivery."""
    made_room: Callable[[], None]
    """A run holds no place among the running ones any more, though it has not ended."""


class Pipeline:
    """What every run needs on its way: the database, the state directory and the nursery."""

    def __init__(
        self,
        database: Database,
        state_dir: Path,
        agents: Agents,
        hooks: Hooks,
        umask: int,
        instance: str,
        now: Callable[[], datetime],
        may_deliver: Callable[[str, str], Awaitable[bool]],
        audience: Callable[[], Audience],
        heard: Heard,
    ) -> None:
        self.in_flight: set[int] = set()
        """Runs whose agents are elsewhere, and whose answers are under way: they cannot outlast the daemon."""
        self.suspended: set[int] = set()
        self._may_deliver = may_deliver
        self._audience = audience
        self._heard = heard
        self._database = database
        self._state_dir = state_dir
        self._makers = agents
        self._hooks = hooks
        self._umask = umask
        self._instance = instance
        self._now = now
        self._stages = Stages(database, now, heard.tried, self._was_suspended)
        self._agents: dict[int, Stoppable] = {}

    async def execute(self, run: Run, config: Config) -> None:
        """Take a claimed run through its steps; whatever goes wrong becomes its outcome."""
        await self._to_the_end(run, self._perform(run, config))

    async def take_over(self, run: Run, config: Config) -> None:
        """Go on with a run that an earlier daemon began."""
        await self._to_the_end(run, self._resume(run, config))

    async def _to_the_end(self, run: Run, work: Coroutine[Any, Any, Outcome | NeverStarted]) -> None:
        outcome = await self._guarded(run, work)
        if isinstance(outcome, NeverStarted):  # it may be begun anew as soon as that is recorded
            self._forget(run.id)
            await self._record(run, outcome)
        else:
            await self._record(run, outcome)
            self._forget(run.id)

    def _forget(self, run_id: int) -> None:
        self.in_flight.discard(run_id)
        self.suspended.discard(run_id)

    async def _record(self, run: Run, outcome: Outcome | NeverStarted) -> None:
        try:
            await self._conclude(run, outcome)
        except StoreDamagedError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad outcome must not stop the daemon
            _LOG.exception("[run] The outcome cannot be recorded as it is", run_id=run.id, agent=run.agent)
            unusable = Outcome(
                RunStatus.FAILED, f"its outcome cannot be recorded: {type(error).__name__}", permanent=True
            )
            with contextlib.suppress(Exception):  # told above; the next start finds the run again
                await self._conclude(run, unusable)

    def enter(self, tx: Transaction, run: Run, terms: RunSettings, now: datetime) -> None:
        """Note that a claimed run enters its first step, which for an agent elsewhere is the delivery."""
        if not terms.url:
            begin_step(tx, run.id, Step.WORKSPACE, now)
            return
        begin_step(tx, run.id, Step.DELIVER, now)
        if terms.await_completion:
            token = self._hooks.token(run.idempotency_key)
            add_hook(tx, run.id, hash_of(token), now, now + timedelta(seconds=terms.timeout_seconds))

    def stop(self, run_id: int, *, at_once: bool) -> None:
        """Pass the wish to end on to the agent; a run on its way to its agent finds the flag."""
        agent = self._agents.get(run_id)
        if agent is not None:
            agent.stop(at_once=at_once)

    def interrupt(self) -> None:
        """Give up the calls in flight."""
        for run_id in self.in_flight:
            agent = self._agents.get(run_id)
            if isinstance(agent, RemoteAgent):
                agent.interrupt()

    def settled(self, run_id: int) -> None:
        """Let a run's agent know that its hook was called; one on its way to its agent finds that it has ended."""
        agent = self._agents.get(run_id)
        if isinstance(agent, RemoteAgent):
            agent.settled.set()

    def mask_of(self, run_id: int) -> Callable[[str], str]:
        """Return what takes the secrets of a run under way out of a text."""
        agent = self._agents.get(run_id)
        return agent.masked if isinstance(agent, RemoteAgent) else str

    def note_cancellation(self, run_ids: Iterable[int], told: str) -> None:
        """Leave word on the disk, database or not, that these runs are to end; blocks as long as the disk does."""
        for run_id in run_ids:
            agent = self._agents.get(run_id)
            if agent is not None:
                agent.note_cancellation(told)

    async def _guarded(self, run: Run, work: Coroutine[Any, Any, Outcome | NeverStarted]) -> Outcome | NeverStarted:
        """Turn exceptions into outcomes: the one place where that happens."""
        try:
            return await work
        except UnwantedError:
            return Outcome(RunStatus.CANCELLED)
        except FolderRoomError as error:
            return NeverStarted(str(error), _ROOM_AGAIN_AFTER)
        except StoreDamagedError:
            raise  # the agent goes on; the next daemon finds it
        except (RunPreparationError, SecretError) as error:
            return Outcome(RunStatus.FAILED, str(error))
        except Exception as error:  # noqa: BLE001 - one bad run must not stop the daemon
            _LOG.exception("[run] Unexpected error", run_id=run.id, agent=run.agent)
            return Outcome(RunStatus.FAILED, f"unexpected error: {type(error).__name__}: {error}")
        finally:
            self._agents.pop(run.id, None)

    async def _perform(self, run: Run, config: Config) -> Outcome | NeverStarted:
        settings = config.agents.get(run.agent)
        if settings is None:
            return Outcome(RunStatus.FAILED, f"no agent {run.agent!r} is in the config any more", permanent=True)
        if not isinstance(settings, ProcessAgent):
            self.in_flight.add(run.id)
        if not await self._may_deliver(run.creator, run.agent):
            reason = f"{run.creator}, who asked for it, may not use {run.agent} any more"
            await self._database.write_patiently(
                lambda tx: flag_cancellation(tx, run.id, self._now(), CONFIG_PRINCIPAL, reason=reason)
            )
            raise UnwantedError
        if isinstance(settings, ProcessAgent):
            return await self._perform_here(run, settings, config)
        return await self._perform_elsewhere(run, settings, config)

    async def _perform_here(self, run: Run, settings: ProcessAgent, config: Config) -> Outcome | NeverStarted:
        """Run an agent that is a process of this host."""
        place = await asyncio.to_thread(
            make_run_folder, self._state_dir, run.id, run.input_content, config, settings.environment
        )
        began = time.monotonic()
        workspace = place or await self._cloned(run, settings, config)
        spent = time.monotonic() - began
        agent = self._agents[run.id] = self._makers.supervised(settings, config)
        work = replace(self._work(run), workspace=workspace, spent_seconds=spent, locks_workspace=place is None)
        return await agent.run(work, self._stages.of(run, work.terms))

    async def _perform_elsewhere(self, run: Run, settings: BaseAgent, config: Config) -> Outcome | NeverStarted:
        """Run an agent that is reached over the network."""
        await asyncio.to_thread(make_input_folder, self._state_dir, run.id, run.input_content)
        work = self._work(run)
        if work.terms.await_completion:
            url = self._hooks.url(work.hook_token or "", config)
            work = replace(work, metadata={**work.metadata, "hook_url": url})
        agent = self._agents[run.id] = self._makers.remote(work.terms, settings, config)
        if not await self._database.read_patiently(lambda c: _is_wanted(c, run.id)):
            raise UnwantedError
        return await agent.run(work, self._stages.of(run, work.terms))

    async def _cloned(self, run: Run, settings: ProcessAgent, config: Config) -> Path:
        """Make the workspace of a run in a git environment."""
        name = settings.environment or ""
        preparation = WorkspacePreparation(self._state_dir, run.id, self._umask)
        self._agents[run.id] = preparation
        try:
            source = source_of(config, name, config.environments[name])
            path, base = await preparation.make(source, settings.timeout.total_seconds())
        except RunPreparationError:
            if preparation.stopped:
                raise UnwantedError from None
            raise

        def record(tx: Transaction) -> None:
            add_workspace(tx, run.id, name, path, self._now(), base)
            add_event(tx, run.id, self._now(), "workspace_prepared", {"environment": name, "base": base})

        await self._database.write_patiently(record)
        return path

    async def _resume(self, run: Run, config: Config) -> Outcome | NeverStarted:
        terms = settings_of(run)
        if run.status is RunStatus.SUSPENDED:
            self.suspended.add(run.id)
        agent = self._makers.adopted(terms, config.agents.get(run.agent), config)
        self._agents[run.id] = agent
        current = await self._database.read_patiently(lambda connection: get_run(connection, run.id))
        if current is None or current.status not in ACTIVE:  # its hook was called before anybody could hear of it
            return Outcome(RunStatus.COMPLETED)
        since = parse_instant(run.started_at) if run.started_at else self._now()
        spent = (self._now() - since).total_seconds()
        return await agent.resume(replace(self._work(run), spent_seconds=max(0.0, spent)))

    def _work(self, run: Run) -> Work:
        identity = None
        if run.boot_id is not None and run.pid is not None and run.pid_started is not None:
            identity = Identity(run.boot_id, run.pid, run.pid_started)
        folder, terms = run_folder(self._state_dir, run.id), settings_of(run)
        return Work(
            run_id=run.id,
            run_name=run.name,
            agent=run.agent,
            schedule=run.schedule or "",
            scheduled_for=run.scheduled_for,
            attempt=run.attempt,
            trigger=run.trigger,
            idempotency_key=run.idempotency_key,
            author=run.input_author,
            content=run.input_content,
            params=json.loads(run.task_params),
            metadata=json.loads(run.task_metadata),
            created_at=run.created_at,
            run_dir=folder,
            workspace=folder,
            terms=terms,
            hook_token=self._hooks.token(run.idempotency_key) if terms.await_completion else None,
            identity=identity,
            delivered=run.delivered_at is not None,
            remote=json.loads(run.remote or "{}") if run.status is RunStatus.SUSPENDED else None,
        )

    def _was_suspended(self, change: Change) -> None:
        self.in_flight.discard(change.run_id)
        self.suspended.add(change.run_id)
        self.report([change])
        self._heard.made_room()

    async def _conclude(self, run: Run, outcome: Outcome | NeverStarted) -> None:
        if isinstance(outcome, NeverStarted):
            changes = await self._database.write_patiently(partial(self._put_back, run, outcome))
        else:
            chance = random.random()
            changes = await self._database.write_patiently(
                lambda tx: finish(
                    tx,
                    run.id,
                    outcome,
                    settings_of(run),
                    self._now(),
                    instance=self._instance,
                    chance=chance,
                    audience=self._audience(),
                )
            )
        self.report(changes, run.started_at)

    def report(self, changes: list[Change], started_at: str | None = None) -> None:
        """Tell the log of committed status changes, and the figures how long runs took."""
        for change in changes:
            duration = None
            if started_at is not None and change.before is not RunStatus.PENDING:
                ended_at = parse_instant(change.ended_at) if change.ended_at else self._now()
                duration = max(timedelta(0), ended_at - parse_instant(started_at))
                self._heard.lasted(duration)
            _log(change, duration)

    def _put_back(self, run: Run, outcome: NeverStarted, tx: Transaction) -> list[Change]:
        """Let a run that never began wait in the queue again, unless somebody wants it cancelled."""
        flag = flag_of(tx, run.id)
        current = get_run(tx, run.id)
        if current is None or current.status is not RunStatus.RUNNING:
            return []
        now = self._now()
        if flag is not None:
            return [change_status(tx, current, RunStatus.CANCELLED, now, error=flag.told)]
        nobody = {"boot_id": None, "pid": None, "pid_started": None, "delivered_at": None}
        again = format_instant(now + outcome.again_after)
        tx.execute("DELETE FROM steps WHERE run_id = ?", (run.id,))
        change = change_status(tx, current, RunStatus.PENDING, now, **nobody, not_before=again)
        return [replace(change, error=outcome.reason)]


def _is_wanted(connection: sqlite3.Connection, run_id: int) -> bool:
    """Tell whether a run is running and nobody wants its end, by cancellation or by its hook."""
    run = get_run(connection, run_id)
    return run is not None and run.status is RunStatus.RUNNING and flag_of(connection, run_id) is None


def _log(change: Change, duration: timedelta | None) -> None:
    keys: dict[str, object] = {
        "run_id": change.run_id,
        "agent": change.agent,
        "status": str(change.after),
    }
    if change.schedule:
        keys["schedule"] = change.schedule
    if duration is not None:
        keys["duration_ms"] = duration // timedelta(milliseconds=1)
    if change.error:
        keys["error"] = change.error
    bad = change.after in {RunStatus.FAILED, RunStatus.INTERRUPTED, RunStatus.CONTINUED_AS_NEW}
    word = "started" if change.after is RunStatus.RUNNING else change.after
    (_LOG.warning if bad else _LOG.info)(f"[run] Run {word}", **keys)
