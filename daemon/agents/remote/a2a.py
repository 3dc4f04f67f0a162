"""`type = "a2a"`: the A2A protocol over JSON-RPC, version 1.0 or 0.3 as the agent card says (a2a-protocol.org)."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import structlog

from daemon.agents.base import Journal, Outcome, Work
from daemon.agents.remote.a2a_card import Interface, interface_of
from daemon.agents.remote.a2a_task import RemoteTask, words_of
from daemon.agents.remote.agent import RemoteAgent, derived_id, result
from daemon.agents.remote.json_rpc import AnswerError, objects_in, parse
from daemon.agents.remote.usage import usage_in
from daemon.http_client import CallError, HttpCall
from daemon.model import RunStatus

_LOG = structlog.get_logger()
_CARDS = ("/.well-known/agent-card.json", "/.well-known/agent.json")  # the second one is from before version 0.3
_FIRST_POLL, _LONGEST_POLL = 0.5, 10.0  # seconds between two polls of a task
_POLL_TIMEOUT = 30.0  # seconds for one poll
_METHODS = {
    "1.0": {"send": "SendMessage", "get": "GetTask", "cancel": "CancelTask"},
    "0.3": {"send": "message/send", "get": "tasks/get", "cancel": "tasks/cancel"},
}


class A2aAgent(RemoteAgent):
    """One run of an A2A agent: a message, and the task that it creates."""

    _interface: Interface | None = None
    _task_id: str | None = None

    async def deliver(self, work: Work, journal: Journal) -> Outcome | None:
        """Send the message; if it creates a task that is not over, suspend the run and return None."""
        interface = self._interface = await self._discover(work, self.delivery.answer)
        call, number = self._call(work, interface, "send", _message(work, interface.version))
        async with self.delivery.acknowledged(call) as reply:
            await journal.delivered()
            answer = await result(await reply.read(), call, number)
        task = RemoteTask.in_answer(answer)
        if task is None:
            message = answer.get("message", answer)
            if not isinstance(message, dict) or not isinstance(message.get("parts"), list):
                raise AnswerError(f"{call.name}: the answer contains neither a task nor a message")
            if not objects_in(message["parts"]):
                raise AnswerError(f"{call.name}: the message in the answer has no parts")
            words = words_of(message)
            await self.transcript.say(words)
            return Outcome(RunStatus.COMPLETED, message=words or None, usage=usage_in(message, answer))
        if self.in_brief(task.id) != task.id:  # it is stored, and sent back as it is
            raise AnswerError(f"{call.name}: the task's id is longer than 1000 characters, or contains a secret")
        self._task_id = task.id
        if task.is_over:
            return await self._outcome_of(work, task)
        return None if await journal.suspended({"task_id": task.id}) else Outcome(RunStatus.COMPLETED)

    async def follow(self, work: Work) -> Outcome:
        """Poll the task until it ends; keep polling while the server cannot be reached."""
        if self._task_id is None:
            self._task_id = str((work.remote or {}).get("task_id"))
        pause, is_logged = _FIRST_POLL, False
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_POLL)
            try:
                task = await self._poll(work)
            except CallError as error:
                if not error.may_pass:
                    raise
                if not is_logged:
                    reason = self.in_brief(str(error))
                    _LOG.warning("[delivery] Cannot read the agent's task; retrying", run_id=work.run_id, reason=reason)
                is_logged = True
                continue
            is_logged = False
            if task.is_over:
                return await self._outcome_of(work, task)

    async def withdraw(self, work: Work) -> None:
        """Cancel the task, if there is one."""
        if self._task_id is not None:
            await self._ask(work, "cancel")

    def key_headers(self, key: str) -> dict[str, str]:
        """Return the header that the agent card names, else a bearer token."""
        name = self._interface.key_header if self._interface else None
        return {name: key} if name else {"Authorization": f"Bearer {key}"}

    async def _discover(self, work: Work, fetch: Callable[[HttpCall], Awaitable[bytes]]) -> Interface:
        """Return the interface that the agent card names; raise CallError or AnswerError if there is none."""
        base = work.settings.url
        places = [""] if base.endswith(".json") else _CARDS
        for place in places:
            url, is_last = base.rstrip("/") + place, place == places[-1]
            try:
                data = await fetch(HttpCall("agent card", url, headers=self.own_headers(), may_be_absent=not is_last))
            except CallError as error:
                if error.status != HTTPStatus.NOT_FOUND or is_last:
                    raise
                continue
            try:
                return interface_of(await parse(data), url, has_key=bool(self.own_headers()))
            except AnswerError as error:
                raise AnswerError(f"agent card: {error}") from None
        raise AssertionError("unreachable: the last place returns or raises")

    def _call(self, work: Work, interface: Interface, what: str, params: dict[str, Any]) -> tuple[HttpCall, str]:
        versioned = {"A2A-Version": "1.0"} if interface.version == "1.0" else {}
        tenant = {"tenant": interface.tenant} if interface.tenant else {}
        method = _METHODS[interface.version][what]
        return self.rpc(work, interface.url, method, {**tenant, **params}, reads=what == "get", **versioned)

    async def _ask(self, work: Work, what: str) -> dict[str, Any]:
        if self._interface is None:
            self._interface = await self._discover(work, self.once)
        call, number = self._call(work, self._interface, what, {"id": self._task_id})
        return await result(await self.once(call), call, number)

    async def _poll(self, work: Work) -> RemoteTask:
        try:
            async with asyncio.timeout(_POLL_TIMEOUT):
                task = RemoteTask.in_answer(await self._ask(work, "get"))
        except TimeoutError:
            raise CallError(f"no answer within {_POLL_TIMEOUT:.0f} s", may_pass=True) from None
        if task is None:
            raise AnswerError("the answer contains no task")
        return task

    async def _outcome_of(self, work: Work, task: RemoteTask) -> Outcome:
        """Write the task's output and return its outcome; cancel a task that waits for somebody."""
        await self.transcript.say(task.output)
        if task.waits_for_somebody:
            await self.withdraw_quietly(work)
        return task.outcome


def _message(work: Work, version: str) -> dict[str, Any]:
    """Return the parameters that send the input and ask for an answer at once, not when the task is done."""
    if version == "1.0":
        form: dict[str, Any] = {"role": "ROLE_USER", "parts": [{"text": work.content}]}
        configuration = {"returnImmediately": True}
    else:
        form = {"kind": "message", "role": "user", "parts": [{"kind": "text", "text": work.content}]}
        configuration = {"blocking": False}
    return {
        "message": {"messageId": derived_id(work, "message"), "metadata": work.metadata, **form},
        "configuration": configuration,
        "metadata": {**work.metadata, "params": work.params},
    }
