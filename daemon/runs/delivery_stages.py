"""Records the stages of a delivery in the database: identified, attempt failed, delivered, suspended."""

import json
from functools import partial
from typing import Any

import structlog

from daemon.agents.base import Identity, Journal, RunSettings
from daemon.model import RunStatus
from daemon.runs import steps
from daemon.runs.control import RunControl
from daemon.store.cancellations import flag_of
from daemon.store.connection import Transaction
from daemon.store.events import add_event
from daemon.store.home import Home
from daemon.store.runs import Run, change_status, get_run, update_run
from daemon.units import format_instant

_LOG = structlog.get_logger()


class NoLongerWantedError(Exception):
    """The run was cancelled, or ended by its hook, before its agent was released."""


class Stages:
    """Commits the stages of deliveries."""

    def __init__(self, home: Home, control: RunControl) -> None:
        self._home = home
        self._control = control

    def of(self, run: Run, settings: RunSettings) -> Journal:
        """Return the journal of one run."""
        return Journal(
            identified=partial(self._identified, run.id),
            delivered=partial(self._delivered, run, settings),
            suspended=partial(self._suspended, run.id),
            attempt_failed=partial(self._attempt_failed, run, settings.kind),
        )

    async def _identified(self, run_id: int, identity: Identity) -> None:
        """Commit the identity of the supervisor before it is released; raise NoLongerWantedError if cancelled."""

        def record(tx: Transaction) -> None:
            if flag_of(tx, run_id) is not None:
                raise NoLongerWantedError
            now = self._home.now()
            steps.workspace_ready(tx, run_id, now)
            update_run(tx, run_id, now, boot_id=identity.boot_id, pid=identity.pid, pid_started=identity.started)

        await self._home.database.write_patiently(record)

    async def _delivered(self, run: Run, settings: RunSettings) -> None:
        def record(tx: Transaction) -> None:
            now, current = self._home.now(), get_run(tx, run.id)
            is_running = current is not None and current.status is RunStatus.RUNNING
            steps.input_delivered(tx, run.id, now, has_ended=not is_running)  # its hook may have ended it
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
            add_event(tx, run.id, self._home.now(), "delivery_failed", {"try": number, "reason": reason, **again})
            tx.changes.count("delivery_failed", kind)

        await self._home.database.write_patiently(record)
