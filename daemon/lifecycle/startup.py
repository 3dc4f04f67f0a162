"""Prepares the database at a start: handles lost data and clock steps, and applies the schedules of the config."""

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from daemon.config.live import LiveConfig
from daemon.fires.rewind import step_back
from daemon.lifecycle.reload import log_declared, report_unapplied
from daemon.lifecycle.signals import Stop
from daemon.notify.outbox import Outbox
from daemon.recovery.data_loss import start_after_loss
from daemon.runs.folder import runs_with_folders
from daemon.schedules.declared import sync_declared
from daemon.store.database import Database
from daemon.store.home import Home, instance_id

T = TypeVar("T")


async def prepare_database(database: Database, state_dir: Path, live: LiveConfig, started: datetime) -> Home:
    """Record what is unknown after a loss, undo a backward clock step, and apply the schedules of the config file.

    Wait while the database cannot be written.
    """
    if database.lost:
        begun, outbox = await asyncio.to_thread(runs_with_folders, state_dir), Outbox(live)
        await database.write_patiently(lambda tx: start_after_loss(tx, started, begun, outbox))
    await database.write_patiently(lambda tx: step_back(tx, started))
    changes, failures = await database.write_patiently(lambda tx: sync_declared(tx, live.config, started))
    home = Home(database, state_dir, await database.read(instance_id), started)
    log_declared(changes)
    report_unapplied(home.problems, failures)
    return home


async def unless_stopped(work: Coroutine[Any, Any, T], stop: Stop, limit: float) -> T | None:
    """Return the result of some work; None if it has not ended `limit` seconds after a stop was requested."""
    working = asyncio.create_task(work)
    requested = asyncio.create_task(stop.requested.wait())
    await asyncio.wait({working, requested}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        at_once = asyncio.create_task(stop.at_once.wait())
        await asyncio.wait({working, at_once}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
    requested.cancel()
    if not working.done():
        working.cancel()
        return None
    return await working
