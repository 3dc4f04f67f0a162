"""Adoption: a start takes over the runs that an earlier daemon left active.

A run does not depend on the daemon that began it. Its supervisor lives on, or has left its records in the run's folder;
a suspended run's work continues elsewhere. So a start loses and repeats nothing: each run that had begun is given the
same kind of task as a new one, except that this task begins with `resume` in place of `run`. What it finds decides:
a living supervisor is watched until it ends, an exit record finishes the run, a run whose command was started without
an exit record is interrupted, and one that never began goes back to the queue. Flags that somebody set while no daemon
was there are obeyed by the queue as soon as it serves.
"""

import structlog

from daemon.runs.queue import Queue
from daemon.store.home import Home
from daemon.store.runs import started_runs

_LOG = structlog.get_logger()


async def adopt_runs(home: Home, queue: Queue) -> None:
    """Continue the runs that have begun and not ended."""
    active = await home.database.read(started_runs)
    if active:
        _LOG.info("[run] Adopting the runs of an earlier daemon", runs=len(active))
    for run in active:
        queue.adopt(run)
