"""Delivery: repeat a call while it may still succeed, and never after it was acknowledged."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

from daemon.http_client import CallError, HttpCall, Reply, calling
from daemon.units import format_duration

T = TypeVar("T")
WAITS = (2.0, 4.0, 8.0, 16.0)  # seconds after the first, second ... failed attempt

AttemptFailed = Callable[[int, str, float | None], Awaitable[None]]
"""Called after each failed attempt: its number, the reason, and the seconds until the next one (None: no more)."""


@dataclass
class Delivery:
    """The delivery attempts of one run, within its timeout."""

    session: aiohttp.ClientSession
    deadline: float
    """When the run times out, in the event loop's time."""
    attempt_failed: AttemptFailed
    settled: asyncio.Event
    """Set once the run has ended through its hook, so that nothing more is delivered."""
    is_waiting: bool = False
    """Whether the delivery waits between two attempts, with no call in flight."""

    @contextlib.asynccontextmanager
    async def acknowledged(self, call: HttpCall) -> AsyncIterator[Reply]:
        """Yield the first 2xx reply; raise CallError once no attempt is left.

        An error while the body of that reply is read does not repeat the call.
        """
        async with contextlib.AsyncExitStack() as stack:
            yield await self._repeated(call, lambda: stack.enter_async_context(calling(self.session, call)))

    async def answer(self, call: HttpCall) -> bytes:
        """Return the body of an answer; repeat the call if the body breaks off, too. Raise CallError in the end."""

        async def whole() -> bytes:
            async with calling(self.session, call) as reply:
                return await reply.read()

        return await self._repeated(call, whole)

    async def _repeated(self, call: HttpCall, make: Callable[[], Awaitable[T]]) -> T:
        for number, wait in enumerate((*WAITS, None), start=1):
            if self.settled.is_set():
                raise CallError(f"{call.name}: the run has ended")
            try:
                return await make()
            except CallError as error:
                pause, reason = self._next(call, error, number, wait)
                reason = f"{call.name}: {reason}"
                await self.attempt_failed(number, reason, pause)
                if pause is None:
                    raise CallError(reason, may_pass=error.may_pass, status=error.status) from None
            self.is_waiting = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.settled.wait()
            self.is_waiting = False
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _next(self, call: HttpCall, error: CallError, number: int, wait: float | None) -> tuple[float | None, str]:
        """Return the seconds until the next attempt, None if there is none, and the reason to report."""
        if not error.may_pass or (error.is_malformed and call.body is not None):
            return None, str(error)
        if wait is None:
            return None, f"{error} (after {number} attempts)"
        if error.wait is None:
            return wait, str(error)
        asked = error.wait.total_seconds()
        if asked > self.deadline - asyncio.get_running_loop().time():
            longer = f"it asks to wait {format_duration(error.wait)}, which is longer than the run has left"
            return None, f"{error}; {longer}"
        return max(asked, wait), str(error)
