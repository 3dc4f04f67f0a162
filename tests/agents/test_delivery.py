"""When an agent behind a URL counts as asked to work, and what is read again before it is."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from daemon.agents.base import Identity, Journal, NeverStarted, RunSettings, Work
from daemon.agents.remote import delivery as module
from daemon.agents.remote.agentex import AgentexAgent
from daemon.agents.remote.delivery import Delivery, DeliveryLeftError
from daemon.http_client import CallError, HttpCall, open_session

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITS", (0.0,) * 4)


@asynccontextmanager
async def peer_that_answers(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Give the URL of a peer that answers each call with the next of these, and the heads of the calls it got."""
    calls: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        calls.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answers[len(calls) - 1])
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", calls


async def nothing() -> None: ...


async def ignore(number: int, reason: str, pause: float | None) -> None: ...


@asynccontextmanager
async def deliveries(starting: module.Starting = nothing) -> AsyncIterator[Delivery]:
    deadline = asyncio.get_running_loop().time() + 20
    async with open_session() as session:
        yield Delivery(session, deadline, starting, ignore, asyncio.Event(), asyncio.Event())


@pytest.mark.parametrize(
    ("end", "error"), [(lambda one: one.settled, CallError), (lambda one: one.leaving, DeliveryLeftError)]
)
async def test_an_agent_was_not_asked_if_no_call_was_made(
    end: Callable[[Delivery], asyncio.Event], error: type[Exception]
) -> None:
    async with deliveries() as delivery:
        end(delivery).set()
        with pytest.raises(error):
            await delivery.answer(HttpCall("task/create", "http://127.0.0.1:9", b"{}"))
        assert not delivery.has_begun


async def test_a_run_that_is_stopped_before_its_agent_was_asked_never_started(tmp_path: Path) -> None:
    is_asked_for = asyncio.Event()

    async def looking_up() -> None:
        is_asked_for.set()
        await asyncio.Event().wait()

    async def identified(_: Identity) -> None:
        raise AssertionError

    async def suspended(_: dict[str, Any]) -> bool:
        raise AssertionError

    async with peer_that_answers() as (url, calls), open_session() as session:
        work = Work(
            *(1, "run", "a", "a/s", "", 1, "manual", "key", "user", "", {}, {}, ""),
            *(tmp_path, tmp_path, RunSettings(kind="agentex", url=url, acp_type="agentic")),
        )
        agent = AgentexAgent(session, None)
        running = asyncio.ensure_future(agent.run(work, Journal(identified, looking_up, nothing, suspended, ignore)))
        await is_asked_for.wait()
        agent.stop(at_once=False)
        assert await running == NeverStarted("it was stopped before its agent was asked to work")
        assert calls == []
