"""One run from its claim to its record: workspace, deliver, work, record."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import fields, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from daemon.agents.base import Identity, Journal, NeverStarted, Outcome, Stoppable, Terms, Work
from daemon.agents.command import CommandAgent
from daemon.agents.launcher import Nursery
from daemon.config.schema import CommandAgent as CommandSettings
from daemon.config.schema import Config, ProcessAgent
from daemon.errors import SecretError
from daemon.model import CONFIG_PRINCIPAL, RunStatus, Step
from daemon.runs.ending import finish
from daemon.runs.folders import FolderRoomError, PreparationError, prepare, run_folder
from daemon.runs.preparation import Preparation, source_of
from daemon.store.database import Database, Transaction
from daemon.store.events import add_event, begin_step, end_step
from daemon.store.flags import flag_cancellation, flag_of
from daemon.store.runs import Change, Run, change_status, get_run, update_run
from daemon.store.workspaces import add_workspace
from daemon.units import format_instant, parse_instant

_LOG = structlog.get_logger()
_ROOM_AGAIN_AFTER = timedelta(seconds=5)


class _UnwantedError(Exception):
    """The run was cancelled before its agent was let loose."""


class Pipeline:
    """What every run needs on its way: the database, the state directory and the nursery."""

    def __init__(
        self,
        database: Database,
        state_dir: Path,
        nursery: Nursery,
        umask: int,
        instance: str,
        now: Callable[[], datetime],
        may_deliver: Callable[[str, str], Awaitable[bool]],
        lasted: Callable[[timedelta], None],
    ) -> None:
        self._may_deliver = may_deliver
        self._lasted = lasted
        self._database = database
        self._state_dir = state_dir
        self._nursery = nursery
        self._umask = umask
        self._instance = instance
        self._now = now
        self._agents: dict[int, Stoppable] = {}

    async def execute(self, run: Run, config: Config) -> None:
        """Take a claimed run through its steps; whatever goes wrong becomes its outcome."""
        await self._to_the_end(run, self._perform(run, config))

    async def take_over(self, run: Run, config: Config) -> None:
        """Go on with a run that an earlier daemon began."""
        await self._to_the_end(run, self._resume(run, config))

    async def _to_the_end(self, run: Run, work: Coroutine[Any, Any, Outcome | NeverStarted]) -> None:
        outcome = await self._guarded(run, work)
        try:
            await self._conclude(run, outcome)
        except Exception as error:  # noqa: BLE001 - one bad outcome must not stop the daemon
            _LOG.exception("[run] The outcome cannot be recorded as it is", run_id=run.id, agent=run.agent)
            unusable = Outcome(
                RunStatus.FAILED, f"its outcome cannot be recorded: {type(error).__name__}", permanent=True
            )
            with contextlib.suppress(Exception):  # told above; the next start finds the run again
                await self._conclude(run, unusable)

    def stop(self, run_id: int, *, at_once: bool) -> None:
        """Pass the wish to end on to the agent; a run on its way to its agent finds the flag."""
        agent = self._agents.get(run_id)
        if agent is not None:
            agent.stop(at_once=at_once)

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
        except _UnwantedError:
            return Outcome(RunStatus.CANCELLED)
        except FolderRoomError as error:
            return NeverStarted(str(error), _ROOM_AGAIN_AFTER)
        except (PreparationError, SecretError) as error:
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
        if not await self._may_deliver(run.creator, run.agent):
            reason = f"{run.creator}, who asked for it, may not use {run.agent} any more"
            await self._database.write_patiently(
                lambda tx: flag_cancellation(tx, run.id, self._now(), CONFIG_PRINCIPAL, reason=reason)
            )
            raise _UnwantedError
        if not isinstance(settings, CommandSettings):
            reason = f"agents of type {settings.type} are not yet active in this version"
            return Outcome(RunStatus.FAILED, reason, permanent=True)
        place = await asyncio.to_thread(
            prepare, self._state_dir, run.id, run.input_content, config, settings.environment
        )
        began = time.monotonic()
        workspace = place or await self._cloned(run, settings, config)
        spent = time.monotonic() - began
        agent = self._agents[run.id] = CommandAgent(self._nursery, config, settings, self._umask)
        journal = Journal(partial(self._identified, run.id), partial(self._delivered, run.id))
        work = replace(self._work(run, workspace), spent_seconds=spent, locks_workspace=place is None)
        return await agent.run(work, journal)

    async def _cloned(self, run: Run, settings: CommandSettings, config: Config) -> Path:
        """Make the workspace of a run in a git environment."""
        name = settings.environment or ""
        preparation = Preparation(self._state_dir, run.id, self._umask)
        self._agents[run.id] = preparation
        try:
            source = source_of(config, name, config.environments[name])
            path, base = await preparation.make(source, settings.timeout.total_seconds())
        except PreparationError:
            if preparation.stopped:
                raise _UnwantedError from None
            raise

        def record(tx: Transaction) -> None:
            add_workspace(tx, run.id, name, path, self._now(), base)
            add_event(tx, run.id, self._now(), "workspace_prepared", {"environment": name, "base": base})

        await self._database.write_patiently(record)
        return path

    async def _resume(self, run: Run, config: Config) -> Outcome | NeverStarted:
        agent = self._agents[run.id] = CommandAgent(self._nursery, config, None, self._umask)
        return await agent.resume(self._work(run, run_folder(self._state_dir, run.id)))

    def _work(self, run: Run, workspace: Path) -> Work:
        identity = None
        if run.boot_id is not None and run.pid is not None and run.pid_started is not None:
            identity = Identity(run.boot_id, run.pid, run.pid_started)
        return Work(
            run_id=run.id,
            run_name=run.name,
            agent=run.agent,
            schedule=run.schedule or "",
            scheduled_for=run.scheduled_for,
            attempt=run.attempt,
            trigger=run.trigger,
            idempotency_key=run.idempotency_key,
            content=run.input_content,
            run_dir=run_folder(self._state_dir, run.id),
            workspace=workspace,
            terms=terms_of(run),
            identity=identity,
            delivered=run.delivered_at is not None,
        )

    async def _identified(self, run_id: int, identity: Identity) -> None:
        """Commit who will own the command; only then may it be let loose. A flag set by then holds it back."""

        def record(tx: Transaction) -> None:
            if flag_of(tx, run_id) is not None:
                raise _UnwantedError
            now = self._now()
            end_step(tx, run_id, Step.WORKSPACE, now)
            begin_step(tx, run_id, Step.DELIVER, now)
            update_run(tx, run_id, now, boot_id=identity.boot_id, pid=identity.pid, pid_started=identity.started)

        await self._database.write_patiently(record)

    async def _delivered(self, run_id: int) -> None:
        def record(tx: Transaction) -> None:
            now = self._now()
            end_step(tx, run_id, Step.DELIVER, now)
            begin_step(tx, run_id, Step.WORK, now)
            update_run(tx, run_id, now, delivered_at=format_instant(now))

        await self._database.write_patiently(record)

    async def _conclude(self, run: Run, outcome: Outcome | NeverStarted) -> None:
        if isinstance(outcome, NeverStarted):
            changes = await self._database.write_patiently(partial(self._put_back, run, outcome))
        else:
            chance = random.random()
            changes = await self._database.write_patiently(
                lambda tx: finish(
                    tx, run.id, outcome, terms_of(run), self._now(), instance=self._instance, chance=chance
                )
            )
        self.report(changes, run.started_at)

    def report(self, changes: list[Change], started_at: str | None = None) -> None:
        """Tell the log of committed status changes, and the figures how long runs took."""
        for change in changes:
            duration = None
            if started_at is not None and change.before is RunStatus.RUNNING:
                ended_at = parse_instant(change.ended_at) if change.ended_at else self._now()
                duration = max(timedelta(0), ended_at - parse_instant(started_at))
                self._lasted(duration)
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


def terms_of(run: Run) -> Terms:
    """Return the settings that a run began with, as far as this version knows them."""
    stored = json.loads(run.settings) if run.settings else {}
    known = {field.name for field in fields(Terms)}
    return Terms(**{name: value for name, value in stored.items() if name in known})


def terms_for(config: Config, agent: str) -> Terms:
    """Return the settings that a run of an agent begins with now."""
    settings = config.agents.get(agent)
    if settings is None:
        return Terms()
    return Terms(
        attempts=settings.attempts,
        retry_delay_seconds=settings.retry_delay.total_seconds(),
        on_interrupt=settings.on_interrupt,
        result_format=settings.result_format if isinstance(settings, CommandSettings) else "none",
        timeout_seconds=settings.timeout.total_seconds(),
        kill_grace_seconds=settings.kill_grace.total_seconds() if isinstance(settings, ProcessAgent) else 0,
    )


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
