"""The last moment before an agent is started: what was answered until then is obeyed."""

import asyncio
import contextlib
import pwd
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from daemon.access import Access
from daemon.agents.base import Identity, Journal, NeverStarted, RunSettings, Work
from daemon.agents.process.agent import SupervisedAgent
from daemon.agents.process.launcher import Nursery
from daemon.agents.remote.delivery import Delivery
from daemon.config.live import LiveConfig
from daemon.config.loading import load_config
from daemon.config.schema import Config
from daemon.http_client import HttpCall
from daemon.model import RunStatus
from daemon.rules.pools import EVERYTHING
from daemon.runs.cancel import request_cancellation
from daemon.runs.control import RunControl
from daemon.runs.delivery_stages import NoLongerWantedError, NotNowError, Stages
from daemon.runs.pools import pause_pool
from daemon.schedules import management
from daemon.schedules.management import ChangeRequest
from daemon.schedules.revision import Revision, remove
from daemon.store.changes import Changes, StatusChange
from daemon.store.connection import Transaction
from daemon.store.home import Home
from daemon.store.runs import Run, get_run, update_run
from daemon.store.schedules import ScheduleRow, get_schedule
from tests.support.ledger import SECOND, START, Ledger
from tests.support.parts import queue_on
from tests.support.supervisors import spec_in

NOW = START + 11 * SECOND
IDENTITY = Identity("boot", 1, 1)


class NameService:
    """Knows the user `alice`, and answers when it is told to."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.answers = threading.Event()

    def look_up(self, name: str) -> pwd.struct_passwd:
        self.is_asked.set()
        assert self.answers.wait(20)
        return pwd.struct_passwd((name, "x", 4_000_000, 4_000_000, "", "/", "/bin/sh"))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameService]:
    service = NameService()
    monkeypatch.setattr(pwd, "getpwnam", service.look_up)
    yield service
    service.answers.set()


def allowing(*users: str) -> Config:
    return Config.model_validate({"agents": {"a": {"command": ["true"], "allow": [*users]}}})


async def claimed(ledger: Ledger, creator: str = "config") -> Run:
    """Return a run of a creator that is about to start."""
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    await ledger.move(1, RunStatus.RUNNING)
    await ledger.database.write(lambda tx: tx.execute("UPDATE runs SET creator = ?", (creator,)))
    run = await ledger.database.read(lambda c: get_run(c, 1))
    assert run is not None
    return run


def journal_of(run: Run, ledger: Ledger, live: LiveConfig) -> Journal:
    home = Home(ledger.database, ledger.folder, "instance", START)
    return Stages(home, live, RunControl(), Access(live)).of(run, RunSettings())


def row_of(tx: Transaction) -> ScheduleRow:
    row = get_schedule(tx, "a", "s")
    assert row is not None
    return row


def pause(tx: Transaction) -> None:
    management.pause(tx, row_of(tx), None, ChangeRequest("bob", NOW))


def delete(tx: Transaction) -> None:
    remove(tx, row_of(tx), NOW, Revision("bob", "delete"))


def cancel(tx: Transaction) -> None:
    request_cancellation(tx, 1, NOW, "bob")


def release(journal: Journal) -> Awaitable[None]:
    return journal.identified(IDENTITY)


def call(journal: Journal) -> Awaitable[None]:
    return journal.starting()


@pytest.mark.parametrize("start", [release, call])
@pytest.mark.parametrize(
    ("change", "refusal"), [(pause, NotNowError), (delete, NoLongerWantedError), (cancel, NoLongerWantedError)]
)
async def test_what_is_answered_while_a_right_is_looked_up_is_obeyed(
    ledger: Ledger,
    names: NameService,
    start: Callable[[Journal], Awaitable[None]],
    change: Callable[[Transaction], None],
    refusal: type[Exception],
) -> None:
    journal = journal_of(await claimed(ledger, "alice"), ledger, LiveConfig(allowing("alice")))
    starting = asyncio.ensure_future(start(journal))
    await asyncio.to_thread(names.is_asked.wait, 20)
    await ledger.database.write(change)
    names.answers.set()
    with pytest.raises(refusal):
        await starting


@pytest.mark.parametrize("start", [release, call])
@pytest.mark.parametrize(
    ("pool", "is_held_back"), [("max", True), ("agent:a", True), (EVERYTHING, True), ("site", False), ("a", False)]
)
async def test_a_pool_that_was_closed_since_the_claim_holds_the_run_back(
    ledger: Ledger, start: Callable[[Journal], Awaitable[None]], pool: str, is_held_back: bool
) -> None:
    run = await claimed(ledger)
    await ledger.database.write(lambda tx: update_run(tx, 1, NOW, pools='["max"]'))
    await ledger.database.write(lambda tx: pause_pool(tx, pool, NOW, None, "", "bob"))
    starting = start(journal_of(run, ledger, LiveConfig(allowing())))
    with pytest.raises(NotNowError, match="was closed") if is_held_back else contextlib.nullcontext():
        await starting


@pytest.mark.parametrize("start", [release, call])
async def test_a_right_that_a_reload_takes_away_while_it_is_looked_up_is_gone(
    ledger: Ledger, names: NameService, start: Callable[[Journal], Awaitable[None]]
) -> None:
    live = LiveConfig(allowing("alice"))
    journal = journal_of(await claimed(ledger, "alice"), ledger, live)
    starting = asyncio.ensure_future(start(journal))
    await asyncio.to_thread(names.is_asked.wait, 20)
    live.replace(allowing("carol"))
    names.answers.set()
    with pytest.raises(NoLongerWantedError, match="alice, who requested it, may no longer use a"):
        await starting


async def test_a_call_that_asks_an_agent_to_work_is_not_made_if_it_must_not_start() -> None:
    async def refuse() -> None:
        raise NotNowError("its schedule was paused")

    async def ignore(number: int, reason: str, pause: float | None) -> None: ...

    connected: list[asyncio.StreamWriter] = []

    def connect(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(writer)
        writer.close()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    deadline = asyncio.get_running_loop().time() + 20
    async with server, aiohttp.ClientSession() as session:
        delivery = Delivery(session, deadline, refuse, ignore, asyncio.Event(), asyncio.Event())
        with pytest.raises(NotNowError):
            await delivery.answer(HttpCall("task/create", url, b"{}", {}))
        assert connected == []


async def test_a_command_that_was_stopped_before_its_release_never_starts(ledger: Ledger) -> None:
    folder, nursery = ledger.folder / "runs" / "1", Nursery()
    folder.mkdir(parents=True)
    agent = SupervisedAgent(nursery, None, lambda _: {**spec_in(folder), "hidden": []})

    async def identified(_: Identity) -> None:
        agent.stop(at_once=False)

    async def never() -> None:
        raise AssertionError

    async def suspended(_: dict[str, Any]) -> bool:
        raise AssertionError

    async def failed(_: int, __: str, ___: float | None) -> None:
        raise AssertionError

    work = Work(
        *(1, "run", "a", "a/s", "", 1, "manual", "key", "user", "", {}, {}, ""), *(folder, folder, RunSettings())
    )
    try:
        outcome = await agent.run(work, Journal(identified, never, never, suspended, failed))
    finally:
        await nursery.close()
    assert outcome == NeverStarted("it was stopped before its command started")


async def test_the_schedule_is_read_again_before_an_agent_is_released(ledger: Ledger) -> None:
    journal = journal_of(await claimed(ledger), ledger, LiveConfig(Config()))
    await ledger.database.write(pause)
    with pytest.raises(NotNowError, match="its schedule was paused"):
        await release(journal)
    await ledger.database.write(delete)
    with pytest.raises(NoLongerWantedError, match="cancelled by config: its schedule was deleted"):
        await release(journal)
    assert (await ledger.select("SELECT pid FROM runs"))[0]["pid"] is None


async def test_the_right_of_the_creator_is_checked_again_before_an_agent_is_released(
    ledger: Ledger, tmp_path: Path
) -> None:
    run = await claimed(ledger, "token:gone")
    journal = journal_of(run, ledger, LiveConfig(load_config(tmp_path / "config.toml", {})))
    with pytest.raises(NoLongerWantedError, match="token:gone, who requested it, may no longer use a"):
        await release(journal)


async def test_a_run_whose_creator_lost_the_right_before_its_release_did_not_start_its_due_time(
    ledger: Ledger, tmp_path: Path
) -> None:
    await claimed(ledger, "token:gone")
    await ledger.database.write(lambda tx: tx.execute("UPDATE runs SET status = 'pending', started_at = NULL"))
    has_ended = asyncio.Event()
    ends: list[StatusChange] = []

    def committed(changes: Changes) -> None:
        ends.extend(change for change in changes.statuses if change.after is RunStatus.CANCELLED)
        if ends:
            has_ended.set()

    ledger.database.on_commit(committed)
    async with queue_on(ledger.database, tmp_path / "state", load_config(tmp_path / "config.toml", {})):
        await asyncio.wait_for(has_ended.wait(), 20)
    [run] = await ledger.select("SELECT error, started_at FROM runs")
    assert run == {
        "error": "cancelled by config: token:gone, who requested it, may no longer use a",
        "started_at": None,
    }
    assert [row["outcome"] for row in await ledger.rows()] == ["skipped_permission_denied"]
    assert [end.duration for end in ends] == [None]
    assert await ledger.select("SELECT name FROM steps") == []
