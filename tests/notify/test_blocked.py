"""Schedules that can start nothing any more: shown, reported once, and unhealthy until they can."""

import json
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from daemon.access import Standing
from daemon.clock.alarm import decide_some
from daemon.config.live import LiveConfig
from daemon.config.loading import load_config
from daemon.config.schema import Config
from daemon.fires.decision import Present
from daemon.notify.outbox import Outbox, host_name
from daemon.schedules import management
from daemon.schedules.blocked import Blocked, claims_of, record_blocked
from daemon.schedules.management import ChangeRequest
from daemon.store.notifications import failing_schedules
from daemon.store.schedules import get_schedule
from daemon.views.schedules import schedule_view
from daemon.views.status import status_view
from tests.support.ledger import SECOND, START, Ledger

CLAIM = ("alice", "a")
OPS = """\
[agents.a]
command = ["true"]
[notify.ops]
url = "http://127.0.0.1:1"
"""
CREATED = {
    "cron": None,
    "every_ms": 10_000,
    "offset_ms": 0,
    "timezone": "UTC",
    "start_at": None,
    "end_at": None,
    "jitter_ms": 0,
    "overlap": "allow_all",
    "session": "new",
    "catchup": "all",
    "catchup_window_ms": 86_400_000,
    "paused": 0,
}


@pytest.fixture
def config(tmp_path: Path) -> Config:
    file = tmp_path / "notify.toml"
    file.write_text(OPS)
    return load_config(file, {})


async def create(ledger: Ledger, **values: object) -> None:
    request = ChangeRequest("alice", START)
    await ledger.database.write(lambda tx: management.create(tx, "a", "s", {**CREATED, **values}, request))


async def decide(ledger: Ledger, config: Config, now: datetime, *, may: bool) -> None:
    present = Present(now, START, frozenset({"a"}), "instance", standings={CLAIM: Standing(may, is_admin=False)})
    await decide_some(ledger.database, present, Outbox(LiveConfig(config)), 25)


async def review(ledger: Ledger, config: Config, *agents: str, **rights: bool) -> list[Blocked]:
    found = {(name, "a"): may for name, may in rights.items()}
    outbox = Outbox(LiveConfig(config))
    return await ledger.database.write(lambda tx: record_blocked(tx, agents, found, START, outbox))


async def told(ledger: Ledger) -> list[dict[str, Any]]:
    return [json.loads(row["event"]) for row in await ledger.select("SELECT event FROM notifications ORDER BY id")]


async def state_of(ledger: Ledger, config: Config) -> tuple[str, int, int]:
    """Return the state of the schedule, how many due times it shows, and how many the status does."""

    def look(connection: sqlite3.Connection) -> tuple[str, int, int]:
        row = get_schedule(connection, "a", "s")
        assert row is not None
        view = schedule_view(connection, row, config, START)
        status = status_view(connection, ledger.folder, None, START, config, problems=None)
        return view["state"], len(view["next_action_times"] or ()), len(status["next"])

    return await ledger.database.read(look)


async def failing(ledger: Ledger) -> list[str]:
    return [address for _, address in await ledger.database.read(failing_schedules)]


async def test_a_due_time_that_is_denied_is_reported_once_until_it_starts_again(ledger: Ledger, config: Config) -> None:
    await create(ledger)
    await decide(ledger, config, START + 10 * SECOND, may=False)
    await decide(ledger, config, START + 10_000 * SECOND, may=False)
    events = [event for event in await told(ledger) if event["event"] == "denied"]
    assert [(event["schedule"], event["state"]) for event in events] == [("a/s", "denied")]
    assert events[0]["text"] == (
        f"{host_name()}: a/s cannot start anything: alice, who created the schedule, may no longer start runs of a"
    )
    assert await state_of(ledger, config) == ("denied", 0, 0)
    assert await failing(ledger) == ["a/s"]
    await decide(ledger, config, START + 10_010 * SECOND, may=True)
    assert await state_of(ledger, config) == ("active", 5, 1)
    assert await failing(ledger) == []
    await decide(ledger, config, START + 10_020 * SECOND, may=False)
    assert len([event for event in await told(ledger) if event["event"] == "denied"]) == 2


async def test_a_review_finds_what_is_not_due_for_long(ledger: Ledger, config: Config) -> None:
    await create(ledger, every_ms=86_400_000)
    assert await ledger.database.read(claims_of) == {CLAIM}
    assert await review(ledger, config, "a", alice=True) == []
    [blocked] = await review(ledger, config, "a", alice=False)
    assert str(blocked).startswith("a/s cannot start anything: alice, who created")
    assert await state_of(ledger, config) == ("denied", 0, 0)
    assert await review(ledger, config, "a") == []  # the name service did not answer: nothing is known anew
    assert (await state_of(ledger, config))[0] == "denied"
    [gone] = await review(ledger, config, "b", alice=True)
    assert (gone.state, gone.reason) == ("no_agent", "no agent 'a' is in the config")
    assert (await state_of(ledger, config.model_copy(update={"agents": {"b": config.agents["a"]}})))[0] == "no_agent"
    assert [event["state"] for event in await told(ledger)] == ["denied", "no_agent"]
    assert await review(ledger, config, "a", alice=True) == []
    assert await state_of(ledger, config) == ("active", 5, 1)
    assert len(await told(ledger)) == 2


async def test_a_schedule_without_further_due_times_has_ended(ledger: Ledger, config: Config) -> None:
    await create(ledger, end_at="2026-11-21T12:00:15.000Z")
    assert (await state_of(ledger, config))[0] == "active"
    await decide(ledger, config, START + 10 * SECOND, may=True)
    assert await state_of(ledger, config) == ("ended", 0, 0)
