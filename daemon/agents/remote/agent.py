"""What runs of agents behind a URL have in common: deliver, wait, time out, cancel, and resume after a restart."""

import asyncio
import contextlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Literal

import aiohttp
import structlog

from daemon.agents.base import Journal, NeverStarted, Outcome, Work
from daemon.agents.process.agent_report import LONGEST_MESSAGE
from daemon.agents.process.supervisor.mask import Secrets
from daemon.agents.remote.delivery import AttemptFailed, Delivery, DeliveryLeftError, Starting
from daemon.agents.remote.json_rpc import AnswerError, request, result_of
from daemon.agents.remote.transcript import Transcript
from daemon.errors import SecretError
from daemon.http_client import CallError, HttpCall, calling
from daemon.model import FailureKind, RunStatus
from daemon.rules.reported import usage_of
from daemon.units import utc_now

_LOG = structlog.get_logger()
_WITHDRAWAL = 5.0  # seconds that a peer has to accept a cancellation
_WITHDRAWAL_AT_ONCE = 1.0
_LONGEST_REASON = 1000  # characters
_CUT_OFF = "the daemon ended while the agent was answering; the input is not delivered again"


class RemoteAgent(ABC):
    """One run of an agent that is reached over HTTP."""

    def __init__(self, session: aiohttp.ClientSession, read_key: Callable[[], str] | None) -> None:
        """Serve one run; `read_key` returns the agent's API key, blocks, and raises SecretError; None for no key."""
        self.session = session
        self._read_key = read_key
        self._key: str | None = None
        self._activity: asyncio.Task[Outcome] | None = None
        self._ending: Literal["cancel", "kill", "interrupt"] | None = None
        self._cancel_reason: str | None = None
        self.secrets: Secrets | None = None
        self.settled = asyncio.Event()
        self.leaving = asyncio.Event()
        self.transcript: Transcript
        self.delivery: Delivery

    # what each protocol implements

    @abstractmethod
    async def deliver(self, work: Work, journal: Journal) -> Outcome | None:
        """Deliver the input; return the outcome, None if the work continues on the server and the run is suspended."""

    @abstractmethod
    async def follow(self, work: Work) -> Outcome:
        """Wait for work on the server to end."""

    @abstractmethod
    async def withdraw(self, work: Work) -> None:
        """Ask the peer to stop working on the run; raise CallError or AnswerError if that fails."""

    @abstractmethod
    def key_headers(self, key: str) -> dict[str, str]:
        """Return the headers that carry the API key."""

    # the life of a run

    async def run(self, work: Work, journal: Journal) -> Outcome | NeverStarted:
        """Deliver the input and wait for the work to end."""
        await self._prepare(work, journal.starting, journal.attempt_failed)
        return await self._bounded(work, self._perform(work, journal))

    async def resume(self, work: Work) -> Outcome | NeverStarted:
        """Keep waiting for suspended work; input that was not acknowledged is delivered again, as a new start."""
        if not work.delivered:
            return NeverStarted("the daemon ended before the input was acknowledged", may_have_input=True)
        if work.remote is None:
            return Outcome(RunStatus.INTERRUPTED, _CUT_OFF)
        await self._prepare(work, _nothing, _ignore)
        return await self._bounded(work, self.follow(work))

    def stop(self, *, at_once: bool) -> None:
        """Cancel the run, and ask the peer to stop."""
        self._end("kill" if at_once else "cancel")

    def interrupt(self) -> None:
        """Abandon a call in flight, because the daemon is stopping."""
        if self._ending is None:
            self._end("interrupt")

    def note_cancellation(self, reason: str) -> None:
        """Remember who cancelled the run and why, in case the database cannot be written."""
        self._cancel_reason = reason

    def _end(self, how: Literal["cancel", "kill", "interrupt"]) -> None:
        self._ending = how
        if self._activity is not None:
            self._activity.cancel()

    async def recall(self, work: Work) -> None:
        """Ask the peer to stop what an earlier daemon may have asked it to do; log a failure."""
        try:
            await self._read_secrets(work)
        except SecretError as error:
            self._log_unstopped(work, str(error))
        else:
            await self._ask_to_stop(work, _WITHDRAWAL)

    async def _read_secrets(self, work: Work) -> None:
        """Read the agent's key, and have it masked; raise SecretError."""
        self._key = await asyncio.to_thread(self._read_key) if self._read_key else None
        self.secrets = Secrets([self._key or "", work.hook_token or ""])

    async def _prepare(self, work: Work, starting: Starting, attempt_failed: AttemptFailed) -> None:
        self.secrets = Secrets([work.hook_token or ""])
        with contextlib.suppress(SecretError) if work.remote is not None else contextlib.nullcontext():
            await self._read_secrets(work)
        self.transcript = Transcript(work.run_dir, self.secrets)
        deadline = asyncio.get_running_loop().time() + max(0.0, work.settings.timeout_seconds - work.spent_seconds)
        reported = self._masking(attempt_failed)
        self.delivery = Delivery(
            self.session,
            deadline,
            starting,
            reported,
            self.settled,
            self.leaving,
            work.failed_attempts,
            has_begun=work.delivered,
        )

    def _masking(self, attempt_failed: AttemptFailed) -> AttemptFailed:
        """Return a callback that masks the run's secrets before it reports a failed attempt."""

        async def masked(number: int, reason: str, pause: float | None) -> None:
            await attempt_failed(number, self.in_brief(reason), pause)

        return masked

    async def _perform(self, work: Work, journal: Journal) -> Outcome:
        outcome = await self.deliver(work, journal)
        if outcome is None:
            outcome = await self.follow(work)
        return outcome

    async def _bounded(self, work: Work, activity: Coroutine[Any, Any, Outcome]) -> Outcome | NeverStarted:
        """Run an activity until it ends, the run times out, or somebody stops it."""
        self._activity = asyncio.create_task(activity)
        if self._ending is not None:
            self._activity.cancel()
        outcome: Outcome | NeverStarted
        try:
            try:
                async with asyncio.timeout_at(self.delivery.deadline):
                    outcome = await self._activity
            except TimeoutError:
                outcome = Outcome(RunStatus.FAILED, work.settings.overdue, kind=FailureKind.TIMEOUT, ended_at=utc_now())
                await self.withdraw_quietly(work)
            except (CallError, AnswerError) as error:
                outcome = Outcome(RunStatus.FAILED, str(error))
            except DeliveryLeftError as left:
                outcome = self._left(left)
            except asyncio.CancelledError:
                if self._ending is None:
                    raise
                outcome = await self._ended(work)
        finally:
            output_bytes, dropped = self.transcript.finish()
        if isinstance(outcome, NeverStarted):
            return outcome
        usage, refused = usage_of(outcome.usage)
        if refused:
            _LOG.warning(
                "[run] Part of agent's report ignored", run_id=work.run_id, agent=work.agent, reason="; ".join(refused)
            )
        outcome = replace(outcome, usage=usage)
        return self._shown(replace(outcome, output_bytes=output_bytes, output_dropped=dropped))

    async def _ended(self, work: Work) -> Outcome | NeverStarted:
        """Return the outcome of a run that was stopped."""
        if self._ending == "interrupt":
            if not work.delivered and not self.delivery.carries_input:
                return self._left(DeliveryLeftError())
            return Outcome(RunStatus.INTERRUPTED, "the daemon was stopped while the agent was answering")
        if not self._may_have_input(work):
            return NeverStarted("it was stopped before its agent was asked to work")
        await self.withdraw_quietly(work, _WITHDRAWAL if self._ending == "cancel" else _WITHDRAWAL_AT_ONCE)
        return Outcome(RunStatus.CANCELLED, self._cancel_reason or "cancelled", cancelled_by_us=True)

    def _left(self, left: DeliveryLeftError) -> NeverStarted:
        return NeverStarted(str(left), may_have_input=self.delivery.has_begun)

    def _may_have_input(self, work: Work) -> bool:
        """Return whether the peer may work on the run, because this daemon or an earlier one asked it to."""
        return self.delivery.has_begun or work.may_have_input

    async def withdraw_quietly(self, work: Work, seconds: float = _WITHDRAWAL) -> None:
        """Ask the peer to stop if it may have been asked to work; log a failure."""
        if self._may_have_input(work):
            await self._ask_to_stop(work, seconds)

    async def _ask_to_stop(self, work: Work, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.withdraw(work)
        except (CallError, AnswerError, TimeoutError) as error:
            self._log_unstopped(work, str(error) or f"no answer within {seconds:.0f} s")

    def _log_unstopped(self, work: Work, reason: str) -> None:
        _LOG.warning("[delivery] Cannot ask the agent to stop", run_id=work.run_id, reason=self.in_brief(reason))

    def _shown(self, outcome: Outcome) -> Outcome:
        """Return an outcome with secrets masked in the peer's text."""
        error = None if outcome.error is None else self.in_brief(outcome.error)
        message = None if outcome.message is None else self._brief(outcome.message, LONGEST_MESSAGE)
        return replace(outcome, error=error, message=message)

    def in_brief(self, text: str) -> str:
        """Return a reason as it is stored and shown: masked and bounded."""
        return self._brief(text, _LONGEST_REASON)

    def _brief(self, text: str, most: int) -> str:
        """Return the beginning of the peer's text with the run's secrets masked."""
        return (self.secrets or Secrets(())).brief(text, most)

    # calls

    def rpc(
        self, work: Work, url: str, method: str, params: dict[str, Any], *, reads: bool = False, **headers: str
    ) -> tuple[HttpCall, str]:
        """Return a JSON-RPC call and its id, both the same each time the run makes the call.

        A call that only reads carries no idempotency key, so that its answer is fresh.
        """
        number = derived_id(work, method)
        key = {} if reads else {"x-idempotency-key": work.idempotency_key}
        common = {"Content-Type": "application/json", "x-request-id": number, **key, **headers, **self.own_headers()}
        return HttpCall(method, url, request(method, params, number), common), number

    async def once(self, call: HttpCall) -> bytes:
        """Make a call once, without retries, and return the body of the answer; raise CallError if it fails."""
        async with calling(self.session, call) as reply:
            return await reply.read()

    def own_headers(self) -> dict[str, str]:
        """Return the headers that authenticate us."""
        return self.key_headers(self._key) if self._key else {}


async def _nothing() -> None:
    """Let work that an earlier daemon delivered go on."""


async def _ignore(number: int, reason: str, pause: float | None) -> None:
    """Ignore failed attempts: an earlier daemon delivered the input, so there are none."""


def derived_id(work: Work, what: str) -> str:
    """Return the id of something that belongs to a run; the same run always gets the same id."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{work.idempotency_key}/{what}"))


async def result(data: bytes, call: HttpCall, number: str) -> dict[str, Any]:
    """Return the result in the answer to a call; raise an AnswerError that names the call if there is none."""
    try:
        return await result_of(data, number)
    except AnswerError as error:
        raise AnswerError(f"{call.name}: {error}") from None
