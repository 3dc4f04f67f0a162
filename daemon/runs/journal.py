"""The stages of a delivery as the database has them: begun, tried, delivered, suspended."""

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from daemon.agents.base import Identity, Journal, RunSettings
from daemon.model import RunStatus, Step
from daemon.store.cancellations import flag_of
from daemon.store.connection import Transaction
from daemon.store.database import Database
from daemon.store.events import add_event, begin_step, end_step
from daemon.store.runs import Change, Run, change_status, get_run, update_run
from daemon.units import format_instant

_LOG = structlog.get_logger()


class UnwantedError(Exception):
    """The run was cancelled before its agent was let loose."""


class Stages:
    """Commits the stages of deliveries, and tells of them."""

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime],
        counted: Callable[[str, str], None],
        was_suspended: Callable[[Change], None],
    ) -> None:
        """Prepare; `counted` hears the agent and the result of each try, `was_suspended` of each suspended run."""
        self._database = database
        self._now = now
        self._counted = counted
        self._was_suspended = was_suspended

    def of(self, run: Run, terms: RunSettings) -> Journal:
        """Return the journal of one run."""
        return Journal(
            identified=partial(self._identified, run.id),
            delivered=partial(self._delivered, run, terms),
            suspended=partial(self._suspended, run.id),
            tried=partial(self._tried, run, terms.kind),
        )

    async def _identified(self, run_id: int, identity: Identity) -> None:
        """Commit who will own the command; only then may it be let loose. A flag set by then holds it back."""

        def record(tx: Transaction) -> None:
            if flag_of(tx, run_id) is not None:
                raise UnwantedError
            now = self._now()
            end_step(tx, run_id, Step.WORKSPACE, now)
            begin_step(tx, run_id, Step.DELIVER, now)
            update_run(tx, run_id, now, boot_id=identity.boot_id, pid=identity.pid, pid_started=identity.started)

        await self._database.write_patiently(record)

    async def _delivered(self, run: Run, terms: RunSettings) -> None:
        def record(tx: Transaction) -> None:
            now = self._now()
            end_step(tx, run.id, Step.DELIVER, now)
            current = get_run(tx, run.id)
            if current is not None and current.status is RunStatus.RUNNING:  # its hook may have ended it already
                begin_step(tx, run.id, Step.WORK, now)
            update_run(tx, run.id, now, delivered_at=format_instant(now))

        await self._database.write_patiently(record)
        if terms.url:
            self._counted(terms.kind, "acknowledged")

    async def _suspended(self, run_id: int, remote: dict[str, Any]) -> bool:
        def record(tx: Transaction) -> Change | None:
            run = get_run(tx, run_id)
            if run is None or run.status is not RunStatus.RUNNING:
                return None
            return change_status(tx, run, RunStatus.SUSPENDED, self._now(), remote=json.dumps(remote))

        change = await self._database.write_patiently(record)
        if change is not None:
            self._was_suspended(change)
        return change is not None

    async def _tried(self, run: Run, kind: str, number: int, reason: str, pause: float | None) -> None:
        """Keep a failed try as an event of the run."""
        again = {} if pause is None else {"again_after_seconds": pause}
        self._counted(kind, "failed")
        _LOG.warning("[delivery] A try failed", run_id=run.id, agent=run.agent, number=number, reason=reason, **again)
        told = {"try": number, "reason": reason, **again}
        await self._database.write_patiently(lambda tx: add_event(tx, run.id, self._now(), "delivery_failed", told))
