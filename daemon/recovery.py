"""What a start does with the runs that an earlier daemon left active."""

import structlog

from daemon.runs.queue import Queue
from daemon.store.database import Database
from daemon.store.runs import running_runs

_LOG = structlog.get_logger()


async def recover(database: Database, queue: Queue) -> None:
    """Adopt what lives, finish what ended, and put back what never began; obey flags set meanwhile."""
    active = await database.read(running_runs)
    if active:
        _LOG.info("[run] Taking over the runs of an earlier daemon", runs=len(active))
    for run in active:
        queue.take_over(run)
    await queue.obey_flags()
