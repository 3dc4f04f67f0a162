"""Adopts the active runs of an earlier daemon when the daemon starts.

A run does not depend on the daemon that started it. Its supervisor keeps running, or has left its records in the run's
folder; the work of a suspended run continues on the agent's server. Therefore a restart neither loses nor repeats a
run. Each started run gets the same kind of task as a new run, except that the task calls the agent's `resume` instead
of `run`. What this finds decides what happens to the run. If its supervisor is alive, the task waits until it ends. If
there is an exit record, the run is finished from it. If the command was started but left no exit record, the run is
interrupted. If the command was never started, the run returns to the queue. Cancellations that were requested while no
daemon was running are applied at once, even if the daemon is to stop during its start. The clock starts when the ends
that came meanwhile are recorded: an overlap policy would take such runs for unfinished, and skip the due time.
"""

import asyncio
import contextlib
from collections.abc import Iterable

import structlog

from daemon.agents.process.launcher import living_supervisors
from daemon.errors import StoreDamagedError
from daemon.runs.queue import Queue
from daemon.runs.waiting import cancel_without_schedule
from daemon.store.home import Home
from daemon.store.runs import Run
from daemon.store.unfinished_runs import started_runs

_LOG = structlog.get_logger()
_LONGEST_RECORDING = 10.0  # seconds that the clock waits for the ends of runs


async def adopt_runs(home: Home, queue: Queue) -> None:
    """Continue the runs that have started and not ended, and apply the cancellations requested meanwhile.

    An error is logged, and the queue does later what is left; the daemon must start whatever the rows contain.
    """
    try:
        adopted = await _adopt(home, queue)
        await queue.apply_flags()
        await _until_ends_are_recorded(home, queue, adopted)
    except StoreDamagedError:
        raise
    except Exception:  # noqa: BLE001 - the queue tries again, and notes its own errors
        _LOG.exception("[run] Not all runs of an earlier daemon could be adopted; retrying")
        queue.adopt_later()
    await _cancel_left_behind(home)


async def _adopt(home: Home, queue: Queue) -> list[Run]:
    active, unreadable = await home.database.read(started_runs)
    if active:
        _LOG.info("[run] Adopting the runs of an earlier daemon", runs=len(active))
    for run in active:
        queue.adopt(run)
    queue.put_off_adoption(unreadable)
    return active


async def _until_ends_are_recorded(home: Home, queue: Queue, runs: Iterable[Run]) -> None:
    """Wait until the runs whose supervisors have ended are recorded as ended, which may fail on a full disk."""
    living = await asyncio.to_thread(living_supervisors, home.state_dir)
    identities = {run.id: (run.boot_id, run.pid, run.pid_started) for run in runs if run.pid is not None}
    ended = identities.keys() - {one.run for one in living if one.is_known_as(identities.get(one.run))}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LONGEST_RECORDING):
            await queue.until_none(lambda: ended)


async def _cancel_left_behind(home: Home) -> None:
    """Cancel the pending runs of deleted schedules; one that cannot be cancelled stays pending and never starts."""
    _, failures = await home.database.write_patiently(lambda tx: cancel_without_schedule(tx, home.now()))
    for run_id, error in failures.items():
        _LOG.error(
            "[run] A run of a deleted schedule cannot be cancelled; it never starts", run_id=run_id, error=str(error)
        )
