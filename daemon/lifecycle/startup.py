"""Prepares the database at a start: handles lost data and clock steps, and applies the schedules of the config."""

import asyncio
from collections.abc import Callable

import structlog

from daemon.config.live import LiveConfig
from daemon.errors import DiskFullError
from daemon.fires.rewind import step_back
from daemon.lifecycle.reload import log_declared, report_unapplied
from daemon.lifecycle.signals import Stop
from daemon.notify.outbox import Outbox
from daemon.recovery.data_loss import start_after_loss
from daemon.runs.folder import runs_with_folders
from daemon.schedules.declared import sync_declared
from daemon.store.database import Database
from daemon.store.home import Home
from daemon.systemd import notify, starting
from daemon.text import escape

_LOG = structlog.get_logger()
_AGAIN_AFTER = 2.0  # seconds until a full disk is tried again


async def open_patiently(opening: Callable[[], Database], stop: Stop) -> Database | None:
    """Open the database, in a thread; return None if a stop is requested while the disk has no room even for that.

    Meanwhile the daemon is up for the service manager, whose status says what it waits for, but cannot be asked.
    """
    is_logged = False
    while not stop.requested.is_set():
        try:
            async with starting():
                return await asyncio.to_thread(opening)
        except DiskFullError as error:
            if not is_logged:
                _LOG.error("[daemon] Nothing is started", reason=str(error))
                is_logged = True
            notify("READY=1", f"STATUS={escape(f'nothing is started: {error}')}", "WATCHDOG=1")
        requested = asyncio.create_task(stop.requested.wait())
        await asyncio.wait({requested}, timeout=_AGAIN_AFTER)
        requested.cancel()
    _LOG.warning("[daemon] Stopping before the database could be opened; running agents continue")
    notify("STOPPING=1")
    return None


async def prepare_database(home: Home, live: LiveConfig) -> None:
    """Record what is unknown after a loss, undo a backward clock step, and apply the schedules of the config file.

    The known problems of agents that it no longer has are forgotten. Wait while the database cannot be written.
    """
    database, started = home.database, home.started
    if database.lost:
        begun, outbox = await asyncio.to_thread(runs_with_folders, home.state_dir), Outbox(live)
        await database.write_patiently(lambda tx: start_after_loss(tx, started, begun, outbox))
    await database.write_patiently(lambda tx: step_back(tx, started))
    changes, failures = await database.write_patiently(lambda tx: sync_declared(tx, live.config, started))
    log_declared(changes)
    report_unapplied(home.problems, failures)


async def unless_stopped(work: asyncio.Task[object], stop: Stop, limit: float) -> bool:
    """Wait for some work; return False, and cancel it, if it has not ended `limit` seconds after a stop request."""
    requested = asyncio.create_task(stop.requested.wait())
    await asyncio.wait({work, requested}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        at_once = asyncio.create_task(stop.at_once.wait())
        await asyncio.wait({work, at_once}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
    requested.cancel()
    if not work.done():
        work.cancel()
        return False
    await work
    return True
