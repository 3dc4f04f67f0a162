"""`type = "agentex"`: JSON-RPC over HTTP, as agents built with the Agentex SDK speak it (`POST {url}/api`)."""

import uuid
from typing import Any

from daemon.agents.base import Journal, Outcome, Work
from daemon.agents.remote.agent import RemoteAgent, derived_id, result
from daemon.agents.remote.agentex_reply import Reply
from daemon.agents.remote.json_rpc import AnswerError
from daemon.agents.remote.usage import usage_in
from daemon.http_client import HttpCall
from daemon.model import RunStatus

_NDJSON = {"application/x-ndjson", "application/jsonl", "application/ndjson"}


class AgentexAgent(RemoteAgent):
    """One run of an Agentex agent: `message/send` to a sync agent, `task/create` and `event/send` to any other."""

    async def deliver(self, work: Work, journal: Journal) -> Outcome | None:
        """Deliver the input in the way that the agent's `acp_type` needs."""
        if work.settings.acp_type == "sync":
            return await self._converse(work, journal)
        call, number = self._call(work, "task/create", {"params": work.params})
        await result(await self.delivery.answer(call), call, number)
        call, number = self._call(work, "event/send", {"event": _event(work)})
        async with self.delivery.acknowledged(call) as reply:
            await journal.delivered()
            answer = await result(await reply.read(), call, number)
        if not work.settings.await_completion:
            return Outcome(RunStatus.COMPLETED, usage=usage_in(answer))
        return None if await journal.suspended({}) else Outcome(RunStatus.COMPLETED)

    async def follow(self, work: Work) -> Outcome:  # noqa: ARG002 - the call of the hook carries the result
        """Wait until the run's hook is called; that call records the run's end itself."""
        await self.settled.wait()
        return Outcome(RunStatus.COMPLETED)

    async def withdraw(self, work: Work) -> None:
        """Send `task/cancel`."""
        call, number = self._call(work, "task/cancel", {})
        await result(await self.once(call), call, number)

    def key_headers(self, key: str) -> dict[str, str]:
        """Return the header that Agentex agents expect."""
        return {"x-agent-api-key": key}

    def _call(self, work: Work, method: str, params: dict[str, Any]) -> tuple[HttpCall, str]:
        common = {"agent": _agent(work), "task": _task(work)}
        return self.rpc(work, f"{work.settings.url.rstrip('/')}/api", method, {**common, **params})

    async def _converse(self, work: Work, journal: Journal) -> Outcome:
        """Send the message and read the whole reply; raise AnswerError if that holds no message."""
        call, number = self._call(work, "message/send", {"content": _content(work), "stream": True})
        reading = Reply(self.transcript)
        async with self.delivery.acknowledged(call) as reply:
            await journal.delivered()
            if reply.content_type in _NDJSON:
                async for lines in reply.lines():
                    for line in lines:
                        reading.take(await result(line, call, number))
                    await self.transcript.write()
            else:
                reading.take(await result(await reply.read(), call, number))
                await self.transcript.write()
        if not reading.is_understood:
            raise AnswerError(f"{call.name}: the answer contains no message of the agent")
        return Outcome(RunStatus.COMPLETED, message=reading.last_message, usage=reading.usage)


def _agent(work: Work) -> dict[str, Any]:
    """Describe the agent; its id is derived from its name, since no registry assigns one."""
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"agentcron/{work.agent}")),
        "name": work.agent,
        "acp_type": work.settings.acp_type,
        "description": "",
        "created_at": work.created_at,
        "updated_at": work.created_at,
    }


def _task(work: Work) -> dict[str, Any]:
    return {
        "id": derived_id(work, "task"),
        "name": work.run_name,
        "status": "RUNNING",
        "params": work.params,
        "task_metadata": work.metadata,
        "created_at": work.created_at,
        "updated_at": work.created_at,
    }


def _event(work: Work) -> dict[str, Any]:
    return {
        "id": derived_id(work, "event"),
        "task_id": derived_id(work, "task"),
        "agent_id": _agent(work)["id"],
        "sequence_id": 1,
        "created_at": work.created_at,
        "content": _content(work),
    }


def _content(work: Work) -> dict[str, Any]:
    return {"type": "text", "author": work.author, "content": work.content, "format": "plain", "style": "static"}
