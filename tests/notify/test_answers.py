"""What targets get that want the answer of a run, also long after the run; and agents that ask to send nothing."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from daemon.agents.base import Outcome, RunSettings
from daemon.config.live import LiveConfig
from daemon.config.loading import load_config
from daemon.http_client import open_session
from daemon.metrics import Metrics
from daemon.model import FailureKind, RunStatus
from daemon.notify.answers import complete
from daemon.notify.formats import request_of
from daemon.notify.outbox import Outbox, host_name
from daemon.notify.sender import Notifier
from daemon.rules.notifications import is_silent
from daemon.runs.finish import finish
from daemon.store.home import Home
from daemon.store.retention import delete_runs
from daemon.store.run_notifications import notifications_of
from tests.support.api import call
from tests.support.configs import config_text, shell_agent
from tests.support.daemon_process import StartDaemon
from tests.support.ledger import SECOND, START, Ledger
from tests.support.peers.processes import free_port, peer
from tests.support.runs import triggered
from tests.support.waiting import wait_until

HOUR = timedelta(hours=1)
LONG = "é" * 100_000
BEGINNING = LONG[:4000]
KINDS = ["completed", "failed", "recovered"]


@dataclass
class Told:
    """A daemon's outbox and its sender, with a clock of their own, and a webhook that can be down."""

    ledger: Ledger
    port: int
    live: LiveConfig
    now: datetime = START

    def __post_init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._outbox = Outbox(self.live)
        self._committed = asyncio.Event()
        self.ledger.database.on_commit(lambda _: self._committed.set())

    async def end(self, run: int, outcome: Outcome) -> None:
        await self.ledger.move(run, RunStatus.RUNNING)
        record = partial(finish, instance="x", chance=0, outbox=self._outbox)
        await self.ledger.database.write(lambda tx: record(tx, run, outcome, RunSettings(), self.now))

    async def until(self, sql: str) -> None:
        """Wait until a query finds something, which a commit can bring about."""
        async with asyncio.timeout(30):
            while not await self.ledger.select(sql):
                await self._committed.wait()
                self._committed.clear()

    def pass_to(self, now: datetime) -> None:
        self.now = now
        self.live.replace(self.live.config)  # wakes the sender, as whatever sets the clock does

    @asynccontextmanager
    async def sender(self) -> AsyncIterator[None]:
        home = Home(self.ledger.database, self.ledger.folder / "state", "x", START, now=lambda: self.now)
        async with open_session() as session:
            serving = asyncio.create_task(Notifier(home, self.live, session, Metrics()).serve())
            try:
                yield
            finally:
                serving.cancel()
                await asyncio.wait([serving])

    @asynccontextmanager
    async def webhook(self) -> AsyncIterator[None]:
        async def take(request: web.Request) -> web.Response:
            self.events.append(json.loads(await request.text()))
            return web.Response()

        app = web.Application()
        app.router.add_post("/", take)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        try:
            yield
        finally:
            await runner.cleanup()

    async def shown(self, run: int) -> list[dict[str, Any]]:
        return await self.ledger.database.read(partial(notifications_of, run_id=run))


MakeTold = Callable[..., Told]


@pytest.fixture
def told(ledger: Ledger, tmp_path: Path) -> MakeTold:
    def make(**settings: object) -> Told:
        port = free_port()
        target = {"url": f"http://127.0.0.1:{port}", "on": KINDS, "send": "answer", **settings}
        file = tmp_path / "notify.toml"
        file.write_text(config_text(agents={"a": {"command": ["true"]}}, notify={"ops": target}))
        return Told(ledger, port, LiveConfig(load_config(file, {})))

    return make


def keep_answer(ledger: Ledger, run: int, answer: str) -> Path:
    """Put an answer where the run's supervisor leaves it."""
    folder = ledger.folder / "state" / "runs" / str(run)
    folder.mkdir(parents=True)
    (folder / "answer.txt").write_text(answer)
    return folder


async def test_a_target_that_is_down_for_20_hours_gets_each_answer_once_and_in_order(
    ledger: Ledger, told: MakeTold
) -> None:
    """Masked as it is in the folder of its run, and cut; also if the run was deleted meanwhile."""
    place = told()
    await ledger.declare('overlap = "allow_all"')
    async with place.sender():
        for run in range(1, 21):
            await ledger.decide(START + run * 10 * SECOND)
            folder = keep_answer(ledger, run, f"run {run}: *** {LONG}")
            place.pass_to(START + run * HOUR)
            await place.end(run, Outcome(RunStatus.COMPLETED, message=f"run {run}: *** {LONG}"[:4000]))
            await place.until(f"SELECT 1 FROM notifications WHERE id = 1 AND tries >= {run}")
        [waiting] = await place.shown(1)
        assert (waiting["target"], waiting["event"], waiting["state"]) == ("ops", "completed", "pending")
        assert waiting["reason"].startswith("cannot connect to 127.0.0.1")
        shutil.rmtree(folder.with_name("1"))
        await ledger.database.write_without_keys(lambda tx: delete_runs(tx, [1]))
        async with place.webhook():
            place.pass_to(START + 21 * HOUR)
            await place.until("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM notifications)")
    assert [event["run_id"] for event in place.events] == list(range(1, 21))
    assert len({event["id"] for event in place.events}) == 20
    assert place.events[0]["answer"] == (
        f"run 1: *** {LONG}"[:4000] + "\n[cut: the run was deleted before this was sent]"
    )
    for event in place.events[1:]:
        assert event["answer"].startswith(f"run {event['run_id']}: *** éé")
        assert event["answer"].endswith("é\n[cut]")
        assert 65_530 < len(event["answer"].encode()) <= 65_536
    assert await place.shown(1) == []
    [sent] = await place.shown(20)
    assert (sent["state"], sent["reason"], sent["at"]) == ("notified", None, "2026-11-22T09:00:00.500Z")


async def test_the_end_of_a_run_tells_cost_kind_of_failure_and_artifacts(ledger: Ledger, told: MakeTold) -> None:
    place = told()
    await ledger.declare('overlap = "allow_all"')
    await ledger.decide(START + 20 * SECOND)
    artifacts = keep_answer(ledger, 1, "two holes") / "artifacts"
    artifacts.mkdir()
    for name in ("review.md", "a\x1bb", *(f"z{number:03}" for number in range(100))):
        (artifacts / name).touch()
    usage = {"cost_usd": 0.25}
    async with place.webhook(), place.sender():
        await place.end(1, Outcome(RunStatus.FAILED, "no credit", kind=FailureKind.QUOTA, usage=usage, message="x"))
        await place.end(2, Outcome(RunStatus.COMPLETED, message="well"))
        await place.until("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM notifications)")
    failed, completed, recovered = place.events
    assert (failed["answer"], failed["cost_usd"], failed["failure_kind"]) == ("two holes", 0.25, "quota")
    assert failed["artifacts"][:3] == [r"a\x1bb", "review.md", "z000"]
    assert len(failed["artifacts"]) == 50
    for event in (completed, recovered):
        assert (event["answer"], event["cost_usd"], event["artifacts"]) == ("well", None, [])
        assert "failure_kind" not in event


async def test_a_target_of_events_gets_no_answer(ledger: Ledger, told: MakeTold) -> None:
    place = told(send="event")
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    keep_answer(ledger, 1, "private")
    async with place.webhook(), place.sender():
        await place.end(1, Outcome(RunStatus.COMPLETED, message="private"))
        await place.until("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM notifications)")
    assert "private" not in json.dumps(place.events)
    assert not {"answer", "artifacts"} & place.events[0].keys()


@pytest.mark.parametrize(
    "silence", [{"message": "[SILENT]"}, {"message": "\n [SILENT] \nnothing new"}, {"message": "x", "quiet": True}]
)
async def test_an_agent_can_ask_to_send_nothing_unless_it_failed(
    ledger: Ledger, told: MakeTold, silence: dict[str, Any]
) -> None:
    place = told()
    await ledger.declare('overlap = "allow_all"')
    await ledger.decide(START + 20 * SECOND)
    async with place.webhook(), place.sender():
        await place.end(1, Outcome(RunStatus.FAILED, "exit status 1", **silence))
        await place.end(2, Outcome(RunStatus.COMPLETED, **silence))
        await place.until("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM notifications)")
    assert [event["event"] for event in place.events] == ["failed", "recovered"]
    assert place.events[0]["answer"] == silence["message"]
    assert "answer" not in place.events[1]
    quiet = [(one["event"], one["state"], one["reason"]) for one in await place.shown(2)]
    assert quiet == [("completed", "silenced", "the agent asked to send nothing"), ("recovered", "notified", None)]


def test_only_a_first_line_of_its_own_asks_for_silence() -> None:
    assert is_silent("[SILENT]")
    assert not any(map(is_silent, (None, "", "x\n[SILENT]", "[SILENT] because", "[silent]", "SILENT")))


def test_an_answer_that_is_no_file_is_not_read(tmp_path: Path) -> None:
    event = {"run_id": 1, "answer": "known"}
    place = tmp_path / "runs" / "1" / "answer.txt"
    place.parent.mkdir(parents=True)
    (tmp_path / "key").write_text("secret")
    place.symlink_to(tmp_path / "key")
    assert complete(event, tmp_path) == {**event, "artifacts": []}
    place.unlink()
    os.mkfifo(place)
    assert complete(event, tmp_path) == {**event, "artifacts": []}


def test_each_service_gets_a_heading_and_as_much_of_the_answer_as_it_takes() -> None:
    event = {
        "id": "7",
        "event": "completed",
        "host": "box",
        "text": "box: a/s completed (run 1)",
        "answer": "<one>\ntwo",
    }
    words = "box: a/s completed (run 1)\n\n<one>\ntwo"
    assert request_of("ntfy", event)[0].decode() == words
    slack = json.loads(request_of("slack", event)[0])["text"]
    assert slack == words.replace("<", "&lt;").replace(">", "&gt;")
    event["answer"] = "&" * 70_000
    assert len(json.loads(request_of("slack", event)[0])["text"]) <= 40_000
    body = request_of("ntfy", {**event, "answer": "é" * 5000})[0]
    assert (len(body) <= 4096, body.decode()[-7:]) == (True, "é\n[cut]")
    failed = {**event, "text": "box: a/s failed (run 1): no credit", "answer": "no credit"}
    assert request_of("ntfy", failed)[0].decode() == failed["text"]


def test_the_answer_of_a_run_reaches_its_target_masked_and_the_run_says_so(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("swordfish-swordfish\n")
    said = """printf '{"message": "the key is %s", "quiet": %s}' $KEY $0 > $AGENTCRON_RESULT"""
    with peer(tmp_path, "webhook") as hook:
        target = {"url": f"{hook.url}/x", "on": ["completed"], "send": "answer", "format": "slack"}
        agents = {
            name: {**shell_agent(said, schedule={"every": "36500d"}), "env": {"KEY": {"file": "key"}}}
            for name in ("loud", "quiet")
        }
        for name, is_quiet in (("loud", "false"), ("quiet", "true")):
            agents[name]["command"] = ["sh", "-c", said, is_quiet]
        daemon = start_daemon(config_text(agents=agents, notify={"ops": target}))
        for name in agents:
            triggered(daemon, f"{name}/s")
        done = "SELECT 1 FROM run_notifications WHERE state = 'notified'"
        daemon.wait_for_row(done)
        [request] = wait_until(hook.requests, what="the answer")
        heading = f"{host_name()}: loud/s completed (run 1)"
        assert json.loads(request["body"])["text"] == f"{heading}\n\nthe key is ***"
        assert call(daemon, "GET", "/runs/1").body["notifications"][0]["state"] == "notified"
        daemon.wait_for_run("completed", number=2)
        silenced = "ops (completed): silenced: the agent asked to send nothing"
        assert silenced in " ".join(daemon.cli("runs", "show", "2").stdout.split())
        [shown] = call(daemon, "GET", "/runs/2").body["notifications"]
        assert (shown["target"], shown["event"], shown["state"]) == ("ops", "completed", "silenced")
        assert len(hook.requests()) == 1
