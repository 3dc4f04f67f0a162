"""Delivery: the same call again while it may succeed, and never again once it was acknowledged."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import aiohttp

from daemon.http_client import CallError, HttpCall, Reply, calling
from daemon.units import format_duration

T = TypeVar("T")
WAITS = (2.0, 4.0, 8.0, 16.0)  # seconds after the first, second ... failed try

Tried = Callable[[int, str, float | None], Awaitable[None]]
"""Hears of each failed try: its number, the reason, and the seconds until the next one, None if there is none."""


@dataclass
class Delivery:
    """The tries of one run, within its time."""

    session: aiohttp.ClientSession
    deadline: float
    """When the run's timeout is over, in the loop's time."""
    tried: Tried
    settled: asyncio.Event
    """Whether the run has ended by its hook, so that nothing is to be delivered any more."""
    is_waiting: bool = False
    """Whether no call is in flight: a failed try lies behind, the next one ahead."""

    @contextlib.asynccontextmanager
    async def acknowledged(self, call: HttpCall) -> AsyncIterator[Reply]:
        """Give the first reply that is a 2xx; raise CallError once no try is left that could bring one.

        What happens to the body of that reply is not this function's to repeat.
        """
        async with contextlib.AsyncExitStack() as stack:
            yield await self._repeated(call, lambda: stack.enter_async_context(calling(self.session, call)))

    async def answer(self, call: HttpCall) -> bytes:
        """Return the body of an answer; a call whose body breaks off is made again, too."""

        async def whole() -> bytes:
            async with calling(self.session, call) as reply:
                return await reply.read()

        return await self._repeated(call, whole)

    async def _repeated(self, call: HttpCall, make: Callable[[], Awaitable[T]]) -> T:
        for number, wait in enumerate((*WAITS, None), start=1):
            if self.settled.is_set():
                raise CallError(f"{call.name}: the run has ended meanwhile")
            try:
                return await make()
            except CallError as error:
                pause, reason = self._next(error, number, wait)
                reason = f"{call.name}: {reason}"
                await self.tried(number, reason, pause)
                if pause is None:
                    raise CallError(reason, may_pass=error.may_pass, status=error.status) from None
            self.is_waiting = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.settled.wait()
            self.is_waiting = False
        raise AssertionError("the last try ends in one way or the other")

    def _next(self, error: CallError, number: int, wait: float | None) -> tuple[float | None, str]:
        """Return the seconds until the next try, None if there is to be none, and what to say of the failed one."""
        if not error.may_pass:
            return None, str(error)
        if wait is None:
            return None, f"{error} (after {number} tries)"
        if error.wait is None:
            return wait, str(error)
        asked = error.wait.total_seconds()
        if asked > self.deadline - asyncio.get_running_loop().time():
            longer = f"it asks to wait {format_duration(error.wait)}, longer than the run's timeout leaves"
            return None, f"{error}; {longer}"
        return max(asked, wait), str(error)
