"""What a start does to the database before anything is due: it is brought in line with the file and the clock."""

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from daemon.config.schema import Config
from daemon.fires.rewind import step_back
from daemon.lifecycle.reload import log_declared
from daemon.lifecycle.signals import Stop
from daemon.recovery.adoption import start_anew
from daemon.rules.notifications import Audience
from daemon.runs.folder import runs_with_folders
from daemon.schedules.declared import sync_declared
from daemon.store.database import Database

T = TypeVar("T")


async def prepare_database(
    database: Database, state_dir: Path, config: Config, now: datetime, audience: Audience
) -> str:
    """Close what is unknown, heed the clock, and declare the schedules of the file; return the database's identity.

    Wait for a database that cannot be written.
    """
    if database.lost:
        begun = await asyncio.to_thread(runs_with_folders, state_dir)
        await database.write_patiently(lambda tx: start_anew(tx, now, begun, audience))
    await database.write_patiently(lambda tx: step_back(tx, now))
    log_declared(await database.write_patiently(lambda tx: sync_declared(tx, config, now)))
    return await database.read(lambda connection: str(connection.execute("SELECT id FROM instance").fetchone()["id"]))


async def unless_stopped(work: Coroutine[Any, Any, T], stop: Stop, limit: float) -> T | None:
    """Return what some work gives, None if a stop was asked for and it has not ended so many seconds later."""
    working = asyncio.create_task(work)
    asked = asyncio.create_task(stop.asked.wait())
    await asyncio.wait({working, asked}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        at_once = asyncio.create_task(stop.at_once.wait())
        await asyncio.wait({working, at_once}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        at_once.cancel()
    asked.cancel()
    if not working.done():
        working.cancel()
        return None
    return await working
