"""The pipeline of a run, from its claim to its recorded outcome: workspace, deliver, work, record."""

import asyncio
import random
import time
import traceback
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import structlog

from daemon.access import Access
from daemon.agents.base import NeverStarted, Outcome, RunSettings
from daemon.agents.factory import Agents
from daemon.agents.process.supervisor.mask import Secrets
from daemon.config.effective import policy_of
from daemon.config.live import LiveConfig
from daemon.config.schema import BaseAgent, Config, ProcessAgent
from daemon.errors import SecretError, StoreDamagedError
from daemon.model import ACTIVE, CONFIG_PRINCIPAL, FailureKind, FireOutcome, RunStatus
from daemon.notify.outbox import Outbox
from daemon.problems import described
from daemon.rules.backoff import start_delay
from daemon.runs import steps
from daemon.runs.cancel import drop
from daemon.runs.control import RunControl
from daemon.runs.delivery_stages import NoLongerWantedError, NotNowError, Stages
from daemon.runs.fetches import Fetches
from daemon.runs.finish import finish
from daemon.runs.folder import (
    FolderRoomError,
    Handed,
    RunPreparationError,
    make_input_folder,
    make_run_folder,
    remove_temporary_files,
)
from daemon.runs.hook_tokens import HookTokens, hash_of
from daemon.runs.kept_workspaces import folder_of, make_room
from daemon.runs.settings import settings_of
from daemon.runs.waiting import DELETED
from daemon.runs.work import work_of
from daemon.runs.workspace import WorkspacePreparation, record_prepared
from daemon.store.cancellations import flag_of
from daemon.store.connection import Transaction
from daemon.store.events import DELIVERY_UNCONFIRMED, add_event, count_events, forget_steps
from daemon.store.home import Home
from daemon.store.hooks import add_hook
from daemon.store.runs import Run, change_status, get_run
from daemon.units import format_instant, parse_instant
from daemon.workspaces.jobs import Source
from daemon.workspaces.sources import author_for, source_of

_LOG = structlog.get_logger()
_RETRY_AFTER = timedelta(seconds=5)
_LONGEST_REASON = 1000  # characters
_START_FAILED = "start_failed"
_OF_A_START = ("started_at", "boot_id", "pid", "pid_started", "delivered_at")  # columns of a run that was claimed
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0  # seconds until a failure that cannot be recorded is retried


class Pipeline:
    """Takes runs through their steps."""

    def __init__(
        self,
        home: Home,
        live: LiveConfig,
        agents: Agents,
        hooks: HookTokens,
        access: Access,
        outbox: Outbox,
        control: RunControl,
        fetches: Fetches,
    ) -> None:
        self._home = home
        self._factory = agents
        self._hooks = hooks
        self._outbox = outbox
        self._control = control
        self._fetches = fetches
        self._stages = Stages(home, live, control, access)

    def enter(self, tx: Transaction, run: Run, settings: RunSettings, now: datetime) -> None:
        """Begin the first step of a claimed run, and register its hook if it has one."""
        steps.run_claimed(tx, run.id, now, is_remote=bool(settings.url))
        if settings.url and settings.await_completion:
            token = self._hooks.token(run.idempotency_key)
            add_hook(tx, run.id, hash_of(token), now, now + timedelta(seconds=settings.timeout_seconds))

    async def execute(self, run: Run, config: Config) -> None:
        """Take a claimed run through its steps; any error becomes its outcome."""
        await self._run_to_end(run, self._perform(run, config))

    async def adopt(self, run: Run, config: Config) -> None:
        """Continue a run that an earlier daemon began."""
        await self._run_to_end(run, self._resume(run, config))

    async def _run_to_end(self, run: Run, work: Coroutine[None, None, Outcome | NeverStarted]) -> None:
        outcome = await self._guarded(run, work)
        if isinstance(outcome, NeverStarted):  # it may be started again as soon as this is recorded
            self._control.forget(run.id)
            await self._record(run, outcome)
        else:
            await self._tidy(run)
            await self._record(run, outcome)
            self._control.forget(run.id)

    async def _tidy(self, run: Run) -> None:
        """Remove the temporary files of a run that has ended; whatever prevents that, its end must be recorded."""
        try:
            if not settings_of(run).url:
                await asyncio.to_thread(remove_temporary_files, self._home.state_dir, run.id)
        except Exception as error:  # noqa: BLE001 - such as a host that can start no thread at the moment
            reason = described(error)
            _LOG.warning("[run] Temporary files are not removed", run_id=run.id, agent=run.agent, reason=reason)

    async def _guarded(self, run: Run, work: Coroutine[None, None, Outcome | NeverStarted]) -> Outcome | NeverStarted:
        """Turn exceptions into outcomes: the one place where that happens."""
        try:
            return await work
        except NoLongerWantedError as error:
            return NeverStarted(str(error), dropped_as=error.dropped_as)
        except NotNowError as error:
            return NeverStarted(str(error))
        except FolderRoomError as error:
            return NeverStarted(str(error), _RETRY_AFTER)
        except StoreDamagedError:
            raise  # the agent continues; the next daemon adopts the run
        except (RunPreparationError, SecretError) as error:
            return Outcome(RunStatus.FAILED, str(error))
        except Exception as error:  # noqa: BLE001 - one bad run must not stop the daemon
            secrets = self._control.secrets_of(run.id) or Secrets(())  # an error may quote what the agent said
            details = secrets.masked(traceback.format_exc())
            _LOG.error("[run] Unexpected error", run_id=run.id, agent=run.agent, traceback=details)
            reason = secrets.brief(f"unexpected error: {type(error).__name__}: {error}", _LONGEST_REASON)
            return Outcome(RunStatus.FAILED, reason)
        finally:
            self._control.detach(run.id)

    async def _perform(self, run: Run, config: Config) -> Outcome | NeverStarted:
        section = config.agents.get(run.agent)
        if section is None:
            return Outcome(
                RunStatus.FAILED,
                f"agent {run.agent!r} is no longer in the config",
                permanent=True,
                kind=FailureKind.CONFIG,
            )
        if run.unusable is not None:
            return Outcome(RunStatus.FAILED, run.unusable, permanent=True)
        if not isinstance(section, ProcessAgent):
            self._control.in_flight.add(run.id)
        await self._stages.check_right(run)
        if isinstance(section, ProcessAgent):
            return await self._perform_locally(run, section, config)
        return await self._perform_remotely(run, section, config)

    async def _perform_locally(self, run: Run, section: ProcessAgent, config: Config) -> Outcome | NeverStarted:
        """Run an agent that is a process on this host."""
        work, state_dir = work_of(run, self._home.state_dir, self._hooks), self._home.state_dir
        handed = Handed(run.input_content, run.task_params, run.task_metadata)
        place = await asyncio.to_thread(
            make_run_folder, state_dir, run.id, handed, config, section.environment, work.record_key
        )
        began = time.monotonic()
        workspace = place or await self._cloned(run, section, config)
        spent = time.monotonic() - began
        agent = self._factory.supervised(section, config)
        self._control.attach(run.id, agent)
        work = replace(work, workspace=workspace, spent_seconds=spent, locks_workspace=place is None)
        return await agent.run(work, self._stages.of(run, work.settings))

    async def _perform_remotely(self, run: Run, section: BaseAgent, config: Config) -> Outcome | NeverStarted:
        """Run an agent that is reached over the network."""
        await asyncio.to_thread(make_input_folder, self._home.state_dir, run.id, run.input_content)
        work = work_of(run, self._home.state_dir, self._hooks)
        if work.settings.await_completion:
            url = self._hooks.url(work.hook_token or "", config)
            work = replace(work, metadata={**work.metadata, "hook_url": url})
        agent = self._factory.remote(work.settings, section, config)
        self._control.attach(run.id, agent)
        earlier = await self._stages.check_start(run)
        work = replace(work, failed_attempts=earlier.failed_attempts, may_have_input=earlier.may_have_input)
        return await agent.run(work, self._stages.of(run, work.settings))

    async def _cloned(self, run: Run, section: ProcessAgent, config: Config) -> Path:
        """Clone the workspace of a run in a git environment; return its path."""
        name, folder = section.environment or "", folder_of(run)
        note_wait = partial(self._fetches.note_wait, run, name)
        preparation = WorkspacePreparation(self._home.state_dir, run.id, self._factory.umask, note_wait, folder)
        self._control.attach(run.id, preparation)
        async with self._home.turn(name, folder):
            try:
                source = self._fetched(run, config, name)
                author, policy = author_for(run.agent, section), policy_of(config, name)
                seconds = settings_of(run).timeout_seconds
                await make_room(self._home, preparation, run, name, seconds, policy.salvage_max)
                prepared = await preparation.make(source, author, seconds)
            except RunPreparationError:
                if preparation.stopped:
                    raise NoLongerWantedError from None
                raise
            finally:
                self._fetches.end(run.id)
            await self._home.database.write_patiently(
                lambda tx: record_prepared(tx, run.id, name, prepared, self._home.now())
            )
        return prepared.path

    def _fetched(self, run: Run, config: Config, name: str) -> Source:
        """Return what a run's workspace is cloned from; raise RunPreparationError if that could not be fetched."""
        source = source_of(config, name)
        if source is None:
            raise RunPreparationError(f"environment {name}: it is not a git environment")
        failure = self._fetches.failure(run.id, source)
        if failure is not None:
            raise RunPreparationError(f"environment {name}: {failure}")
        return source

    async def _resume(self, run: Run, config: Config) -> Outcome | NeverStarted:
        if run.status is RunStatus.SUSPENDED:
            self._control.suspend(run.id)
        agent = self._factory.adopted(settings_of(run), config.agents.get(run.agent), config)
        self._control.attach(run.id, agent)
        current = await self._home.database.read_patiently(lambda connection: get_run(connection, run.id))
        if current is None or current.status not in ACTIVE:  # its hook was called before the agent was attached
            return Outcome(RunStatus.COMPLETED)
        since = parse_instant(run.started_at) if run.started_at else self._home.now()
        spent = (self._home.now() - since).total_seconds()
        return await agent.resume(
            replace(work_of(run, self._home.state_dir, self._hooks), spent_seconds=max(0.0, spent))
        )

    async def _record(self, run: Run, outcome: Outcome | NeverStarted) -> None:
        """Record an outcome; if that is not possible, record a failure."""
        try:
            await self._conclude(run, outcome, settings_of(run))
        except StoreDamagedError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad outcome must not stop the daemon
            _LOG.exception("[run] The outcome cannot be recorded; recording a failure", run_id=run.id, agent=run.agent)
            await self._record_failure(run, f"its outcome cannot be recorded: {type(error).__name__}")

    async def _record_failure(self, run: Run, reason: str) -> None:
        """Record that a run failed; retry until that succeeds, or the next daemon adopts the run."""
        subject, problems, pause = f"run {run.id}", self._home.problems, 0.0
        while True:
            try:
                if pause:
                    await asyncio.sleep(pause)
                await self._conclude(run, Outcome(RunStatus.FAILED, reason, permanent=True), RunSettings())
                problems.resolve("runs", subject)
            except StoreDamagedError:
                raise
            except Exception as error:  # noqa: BLE001 - likewise
                pause = problems.next_pause("runs", subject, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
                problems.report("runs", described(error), subject=subject, agent=run.agent, retry_in=pause)
                _LOG.error("[run] The failure cannot be recorded; retrying", run_id=run.id, error=described(error))
            else:
                return

    async def _conclude(self, run: Run, outcome: Outcome | NeverStarted, settings: RunSettings) -> None:
        chance = random.random()
        conclude = (
            partial(self._put_back, run, outcome, settings, chance)
            if isinstance(outcome, NeverStarted)
            else partial(self._finish, run, outcome, settings, chance)
        )
        await self._home.database.write_patiently(conclude)

    def _finish(self, run: Run, outcome: Outcome, settings: RunSettings, chance: float, tx: Transaction) -> None:
        now, instance = self._home.now(), self._home.instance
        finish(tx, run.id, outcome, settings, now, instance=instance, chance=chance, outbox=self._outbox)

    def _put_back(self, run: Run, outcome: NeverStarted, settings: RunSettings, chance: float, tx: Transaction) -> None:
        """Return a run that never started to the queue; cancel it if nobody wants it, end it if it failed too often."""
        current = get_run(tx, run.id)
        if current is None or current.status is not RunStatus.RUNNING:
            return
        now, unstarted, dropped = self._home.now(), dict.fromkeys(_OF_A_START), _dropped(tx, current, outcome)
        if outcome.may_have_input:
            add_event(tx, run.id, now, DELIVERY_UNCONFIRMED, {"reason": outcome.reason})
        if count_events(tx, run.id, DELIVERY_UNCONFIRMED):
            del unstarted["started_at"]
        if dropped is not None:
            if "started_at" in unstarted:  # the last look at it, before a reload forbade the start, began a delivery
                forget_steps(tx, run.id)
            drop(tx, current, now, *dropped, unstarted)
            return
        wait: timedelta | None = outcome.again_after
        if outcome.is_failure:
            failures = count_events(tx, run.id, _START_FAILED) + 1
            wait = start_delay(failures)
            again = {} if wait is None else {"again_after_seconds": wait.total_seconds()}
            add_event(tx, run.id, now, _START_FAILED, {"try": failures, "reason": outcome.reason, **again})
        if wait is None:
            failure = Outcome(RunStatus.FAILED, f"it could not be started: {outcome.reason}")
            self._finish(run, failure, settings, chance, tx)
            return
        not_before = format_instant(now + wait)
        forget_steps(tx, run.id)
        values = {**unstarted, "not_before": not_before}
        change_status(tx, current, RunStatus.PENDING, now, values, note=outcome.reason)


def _dropped(tx: Transaction, run: Run, outcome: NeverStarted) -> tuple[FireOutcome, str] | None:
    """Return what becomes of the due time of a run that nobody wants any more, and why; None if it is to start."""
    flag = flag_of(tx, run.id)
    if flag is not None:
        return FireOutcome.SKIPPED_REQUESTED, flag.explanation
    if run.schedule_deleted:
        return FireOutcome.SKIPPED_REQUESTED, f"cancelled by {CONFIG_PRINCIPAL}: {DELETED}"
    return None if outcome.dropped_as is None else (outcome.dropped_as, outcome.reason)
