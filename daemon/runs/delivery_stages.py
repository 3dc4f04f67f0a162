"""Records the stages of a delivery in the database: identified, attempt failed, delivered, suspended."""

import json
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from daemon.access import Access
from daemon.agents.base import Identity, Journal, RunSettings
from daemon.config.live import LiveConfig
from daemon.model import CONFIG_PRINCIPAL, FireOutcome, RunStatus
from daemon.rules.pools import title
from daemon.runs import steps
from daemon.runs.control import RunControl
from daemon.runs.waiting import DELETED
from daemon.store.connection import Transaction
from daemon.store.events import DELIVERY_FAILED, DELIVERY_UNCONFIRMED, add_event, count_events, failed_attempts
from daemon.store.home import Home
from daemon.store.run_queue import start_facts
from daemon.store.runs import Run, change_status, get_run, update_run
from daemon.units import format_instant

_LOG = structlog.get_logger()


class NoLongerWantedError(Exception):
    """The run was cancelled, or ended by its hook, before its agent was released.

    If nobody did that, `dropped_as` says what becomes of its due time, and the text why.
    """

    def __init__(self, reason: str = "", dropped_as: FireOutcome | None = None) -> None:
        """Say that the run was cancelled or has ended, or else why it must not start."""
        super().__init__(reason or "it was cancelled or has ended")
        self.dropped_as = dropped_as


class NotNowError(Exception):
    """The schedule of the run was paused, or a pool of it closed, before its agent was released."""


@dataclass(frozen=True)
class EarlierDelivery:
    """What earlier daemons did to deliver the input of a run to an agent behind a URL."""

    failed_attempts: dict[str, int]
    """How many attempts failed, by the name of the call."""
    may_have_input: bool
    """Whether they left an attempt that may have reached the agent."""


class Stages:
    """Commits the stages of deliveries."""

    def __init__(self, home: Home, live: LiveConfig, control: RunControl, access: Access) -> None:
        self._home = home
        self._live = live
        self._control = control
        self._access = access

    async def check_right(self, run: Run) -> None:
        """Raise NoLongerWantedError if the creator of a run may no longer use its agent."""
        if not await self._access.may_now(run.creator, "task.update", run.agent):
            reason = f"{run.creator}, who requested it, may no longer use {run.agent}"
            raise _ended_by_config(reason, FireOutcome.SKIPPED_PERMISSION_DENIED)

    async def check_start(self, run: Run) -> EarlierDelivery:
        """Return what earlier daemons did to deliver the input of a run to an agent behind a URL.

        Raise NoLongerWantedError or NotNowError if it must not get the input of a run. `starting` finds that out again,
        but only after the agent card was looked up, which may take minutes; a cancellation from before the agent could
        be stopped must not wait for that.
        """

        def check(connection: sqlite3.Connection) -> EarlierDelivery:
            _check_start(connection, run.id)
            was_left = bool(count_events(connection, run.id, DELIVERY_UNCONFIRMED))
            return EarlierDelivery(failed_attempts(connection, run.id), was_left)

        return await self._home.database.read_patiently(check)

    def of(self, run: Run, settings: RunSettings) -> Journal:
        """Return the journal of one run."""
        return Journal(
            identified=partial(self._identified, run),
            starting=partial(self._starting, run),
            delivered=partial(self._delivered, run, settings),
            suspended=partial(self._suspended, run.id),
            attempt_failed=partial(self._attempt_failed, run, settings.kind),
        )

    async def _identified(self, run: Run, identity: Identity) -> None:
        """Commit the identity of the supervisor before it is released.

        Raise NoLongerWantedError or NotNowError if it must not be: a person may have cancelled the run, paused or
        deleted its schedule, or lost the right to start it since it was claimed.

        The right is looked up before the transaction, because that may take long: whatever is committed before this
        is seen, and the caller releases the supervisor without another wait.
        """

        def record(tx: Transaction) -> None:
            _check_start(tx, run.id)
            now = self._home.now()
            steps.workspace_ready(tx, run.id, now)
            update_run(tx, run.id, now, boot_id=identity.boot_id, pid=identity.pid, pid_started=identity.started)

        await self._with_right(run, lambda: self._home.database.write_patiently(record))

    async def _starting(self, run: Run) -> None:
        """Read a run and its schedule again before its agent behind a URL is asked to work; raise as `_identified`."""
        await self._with_right(run, lambda: self._home.database.read_patiently(lambda c: _check_start(c, run.id)))

    async def _with_right(self, run: Run, check: Callable[[], Awaitable[None]]) -> None:
        """Look up a run's right to start, then check the rest; do both again if a reload came in between."""
        while True:
            config = self._live.config
            await self.check_right(run)
            await check()
            if self._live.config is config:
                return

    async def _delivered(self, run: Run, settings: RunSettings) -> None:
        def record(tx: Transaction) -> None:
            now, has_ended = self._home.now(), not start_facts(tx, run.id).is_running  # its hook may have ended it
            steps.input_delivered(tx, run.id, now, has_ended=has_ended)
            update_run(tx, run.id, now, delivered_at=format_instant(now))
            if settings.url:
                tx.changes.count("delivery_acknowledged", settings.kind)

        await self._home.database.write_patiently(record)

    async def _suspended(self, run_id: int, remote: dict[str, Any]) -> bool:
        def record(tx: Transaction) -> bool:
            run = get_run(tx, run_id)
            if run is None or run.status is not RunStatus.RUNNING:
                return False
            change_status(tx, run, RunStatus.SUSPENDED, self._home.now(), {"remote": json.dumps(remote)})
            return True

        is_suspended = await self._home.database.write_patiently(record)
        if is_suspended:
            self._control.suspend(run_id)
        return is_suspended

    async def _attempt_failed(self, run: Run, kind: str, number: int, reason: str, pause: float | None) -> None:
        """Log a failed attempt and record it as an event of the run."""
        again = {} if pause is None else {"again_after_seconds": pause}
        _LOG.warning(
            "[delivery] Delivery attempt failed", run_id=run.id, agent=run.agent, number=number, reason=reason, **again
        )

        def record(tx: Transaction) -> None:
            add_event(tx, run.id, self._home.now(), DELIVERY_FAILED, {"try": number, "reason": reason, **again})
            tx.changes.count("delivery_failed", kind)

        await self._home.database.write_patiently(record)


def _check_start(source: Transaction | sqlite3.Connection, run_id: int) -> None:
    """Read a run and its schedule again; raise NoLongerWantedError or NotNowError if its agent must not start."""
    facts = start_facts(source, run_id)
    if not facts.is_running or facts.is_cancelled:
        raise NoLongerWantedError
    if facts.is_deleted:
        raise _ended_by_config(DELETED, FireOutcome.SKIPPED_REQUESTED)
    if facts.is_paused:
        raise NotNowError("its schedule was paused")
    if facts.closed_pool is not None:
        raise NotNowError(f"{title(facts.closed_pool)} was closed")


def _ended_by_config(reason: str, dropped_as: FireOutcome) -> NoLongerWantedError:
    return NoLongerWantedError(f"cancelled by {CONFIG_PRINCIPAL}: {reason}", dropped_as)
