"""Delivery: repeat a call while it may still succeed, and never after it was acknowledged."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeVar

import aiohttp

from daemon.http_client import CallError, HttpCall, Reply, calling
from daemon.units import format_duration

T = TypeVar("T")
WAITS = (2.0, 4.0, 8.0, 16.0)  # seconds after the first, second ... failed attempt

Starting = Callable[[], Awaitable[None]]
"""Called before each call that is the first to ask the agent to work; raises an error if it must not be made."""
AttemptFailed = Callable[[int, str, float | None], Awaitable[None]]
"""Called after each failed attempt: its number, the reason, and the seconds until the next one (None: no more)."""


class DeliveryLeftError(Exception):
    """The daemon stops and no call is in flight, so the delivery is left to the next daemon."""

    def __init__(self) -> None:
        """Say so."""
        super().__init__("the daemon was stopped before the input was acknowledged")


@dataclass
class Delivery:
    """The delivery attempts of one run, within its timeout."""

    session: aiohttp.ClientSession
    deadline: float
    """When the run times out, in the event loop's time."""
    starting: Starting
    attempt_failed: AttemptFailed
    settled: asyncio.Event
    """Set once the run has ended through its hook, so that nothing more is delivered."""
    leaving: asyncio.Event
    """Set when the daemon begins to stop: the call in flight may end, and no other one begins."""
    failed_before: Mapping[str, int] = field(default_factory=dict)
    """How many attempts at each call failed under earlier daemons."""
    carries_input: bool = False
    """Whether the call in flight is the one that delivers the input."""
    has_begun: bool = False
    """Whether a call has asked the agent to work, and was not certainly refused."""

    @contextlib.asynccontextmanager
    async def acknowledged(self, call: HttpCall) -> AsyncIterator[Reply]:
        """Yield the first 2xx reply; raise CallError once no attempt is left.

        An error while the body of that reply is read does not repeat the call.
        """
        async with contextlib.AsyncExitStack() as stack:

            async def begin() -> Reply:
                self.carries_input = True
                return await stack.enter_async_context(calling(self.session, call))

            yield await self._repeated(call, begin)

    async def answer(self, call: HttpCall) -> bytes:
        """Return the body of an answer; repeat the call if the body breaks off, too. Raise CallError in the end."""

        async def whole() -> bytes:
            async with calling(self.session, call) as reply:
                return await reply.read()

        return await self._repeated(call, whole)

    async def _repeated(self, call: HttpCall, make: Callable[[], Awaitable[T]]) -> T:
        failed = self.failed_before.get(call.name, 0)
        for number, wait in list(enumerate((*WAITS, None), start=1))[failed:]:
            is_first = call.body is not None and not self.has_begun
            if is_first:
                await self.starting()
            if self.settled.is_set():
                raise CallError(f"{call.name}: the run has ended")
            if self.leaving.is_set():
                raise DeliveryLeftError
            if is_first:
                self.has_begun = True
            try:
                return await make()
            except CallError as error:
                if is_first and error.was_refused:
                    self.has_begun = False
                if call.may_be_absent and error.status == HTTPStatus.NOT_FOUND:
                    raise
                pause, reason = self._next(call, error, number, wait)
                reason = f"{call.name}: {reason}"
                await self.attempt_failed(number, reason, pause)
                if pause is None:
                    raise CallError(reason, may_pass=error.may_pass, status=error.status) from None
            self.carries_input = False
            await self._rest(pause)
        raise CallError(f"{call.name}: no attempt is left, {failed} failed before the daemon was restarted")

    async def _rest(self, pause: float) -> None:
        """Wait for the next attempt, or until the run has ended or the daemon stops."""
        waits = {asyncio.create_task(event.wait()) for event in (self.settled, self.leaving)}
        try:
            await asyncio.wait(waits, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

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
