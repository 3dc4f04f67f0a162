"""Tasks that outlive the request or the signal that started them, until they are done or the daemon stops."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

import structlog

T = TypeVar("T")
_LOG = structlog.get_logger()


class Background:
    """Owns the tasks of requests and signals; an error in one of them affects only the client that asked for it."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._running: set[asyncio.Task[None]] = set()
        self._stopped = False

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Future[T]":
        """Start work; the future gets its result or its error, and is cancelled when the daemon stops."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._stopped:
            work.close()
            future.cancel()
            return future
        task = self._tasks.create_task(_settle(work, future))
        self._running.add(task)
        task.add_done_callback(partial(self._done, future, work))
        return future

    def _done(self, future: "asyncio.Future[Any]", work: Coroutine[Any, Any, object], task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        work.close()
        future.cancel()  # does nothing to one that has its result; a task may be cancelled before its first step

    def start_unattended(self, work: Coroutine[Any, Any, object]) -> None:
        """Start work that nobody waits for; an error is logged."""
        self.start(_logged(work))

    async def stop(self) -> None:
        """Cancel all that is running, wait until it has ended, and start nothing any more."""
        self._stopped = True
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _settle(work: Coroutine[Any, Any, T], future: "asyncio.Future[T]") -> None:
    try:
        result = await work
    except Exception as error:  # noqa: BLE001 - it belongs to the one who waits for it
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)


async def _logged(work: Coroutine[Any, Any, object]) -> None:
    try:
        await work
    except Exception:  # noqa: BLE001 - a bad request must not stop the daemon
        _LOG.exception("[daemon] Unexpected error")
