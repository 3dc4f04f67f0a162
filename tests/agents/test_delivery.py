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


class PausedError(Exception):
    """The schedule was paused meanwhile."""


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


REFUSED = b"HTTP/1.1 %s\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("status", [b"503 Service Unavailable", b"429 Too Many Requests", b"425 Too Early", b""])
async def test_what_was_refused_is_not_delivered_after_the_answer_to_a_pause(status: bytes) -> None:
    starts = 0

    async def start() -> None:
        nonlocal starts
        starts += 1
        if starts > 1:
            raise PausedError

    async with peer_that_answers(REFUSED % status) as (url, calls), deliveries(start) as delivery:
        place = url if status else "http://127.0.0.1:9"  # where nobody listens
        with pytest.raises(PausedError):
            await delivery.answer(HttpCall("task/create", place, b"{}"))
        assert len(calls) == (1 if status else 0)
        assert not delivery.has_begun


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"])
async def test_what_may_have_arrived_is_delivered_again_in_spite_of_a_pause(first: bytes) -> None:
    starts = 0

    async def start() -> None:
        nonlocal starts
        starts += 1

    async with peer_that_answers(first, OK) as (url, calls), deliveries(start) as delivery:
        assert await delivery.answer(HttpCall("task/create", url, b"{}")) == b"{}"
        assert len(calls) == 2
        assert starts == 1
        assert delivery.has_begun


async def test_a_refused_second_call_does_not_undo_the_first() -> None:
    async with peer_that_answers(OK, REFUSED % b"503 Service Unavailable", OK) as (url, _), deliveries() as delivery:
        await delivery.answer(HttpCall("task/create", url, b"{}"))
        await delivery.answer(HttpCall("event/send", url, b"{}"))
        assert delivery.has_begun


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
