"""Missed due times are reported once for each target and gap, whatever number of schedules it concerns."""

import json
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from daemon.clock.alarm import decide_some
from daemon.config.live import LiveConfig
from daemon.config.loading import load_config
from daemon.fires.decision import Decided, Present
from daemon.notify.outbox import Outbox, host_name
from daemon.schedules.declared import sync_declared
from daemon.store.notifications import first_of_each, remove_notification
from daemon.units import format_instant
from tests.support.ledger import START, Ledger

HOUR = timedelta(hours=1)
NOW = START + HOUR
LATER = NOW + timedelta(seconds=60)
TARGETS = """\
[notify.all]
url = "http://127.0.0.1:1"
[notify.some]
url = "http://127.0.0.1:1"
agents = ["b"]
[notify.none]
url = "http://127.0.0.1:1"
on = ["failed"]
"""


async def declare(ledger: Ledger, schedules: dict[str, list[str]]) -> Outbox:
    """Declare schedules that are due every 10 minutes, by agent."""
    agents = [
        f"[agents.{agent}]\ncommand = ['true']\n"
        + "".join(f"[agents.{agent}.schedules.{name}]\nevery = '10m'\ncatchup = 'none'\n" for name in names)
        for agent, names in {**schedules, "b": schedules.get("b", [])}.items()
    ]
    file = ledger.folder / "config.toml"
    file.write_text("".join(agents) + TARGETS)
    config = load_config(file, {})
    await ledger.database.write(lambda tx: sync_declared(tx, config, START))
    return Outbox(LiveConfig(config))


async def decide(ledger: Ledger, outbox: Outbox, schedules: int) -> Decided:
    present = Present(NOW, NOW, frozenset({"a", "b"}), "instance")
    return await decide_some(ledger.database, present, outbox, schedules)


async def queued(ledger: Ledger, target: str) -> list[tuple[dict[str, Any], str]]:
    """Return the events for a target, each with when it may be sent."""
    rows = await ledger.select("SELECT * FROM notifications ORDER BY id")
    return [(json.loads(row["event"]), row["next_try_at"]) for row in rows if row["target"] == target]


async def test_a_restart_gives_each_target_one_notification(ledger: Ledger) -> None:
    outbox = await declare(ledger, {"a": ["s", "t"], "b": ["s", "u"]})
    await decide(ledger, outbox, 100)
    [(event, at)] = await queued(ledger, "all")
    assert at == format_instant(NOW)
    assert (event["event"], event["agent"], event["schedule"], event["count"]) == ("missed", None, None, 24)
    assert [one["schedule"] for one in event["schedules"]] == ["a/s", "a/t", "b/s", "b/u"]
    first = "2026-11-21T12:10:00.000Z"
    assert event["text"] == (
        f"{host_name()}: 4 schedules missed 24 due times since {first}: a/s (6), a/t (6), b/s (6), b/u (6); "
        "the daemon was stopped or the host asleep (catchup = none)"
    )
    [(event, _)] = await queued(ledger, "some")
    assert (event["agent"], event["count"], event["schedules_total"]) == ("b", 12, 2)
    assert await queued(ledger, "none") == []


async def test_it_is_held_until_all_schedules_are_decided_and_is_bounded(ledger: Ledger) -> None:
    outbox = await declare(ledger, {"a": [f"s{number}" for number in range(60)], "b": ["s"]})
    decided = await decide(ledger, outbox, 20)
    assert (await queued(ledger, "all"))[0][1] == format_instant(LATER)
    while decided.next_wake is not None and decided.next_wake <= NOW:
        decided = await decide(ledger, outbox, 20)
    [(event, at)] = await queued(ledger, "all")
    assert at == format_instant(NOW)
    assert (event["count"], event["schedules_total"], len(event["schedules"])) == (61 * 6, 61, 50)
    assert event["text"].startswith(f"{host_name()}: 61 schedules missed 366 due times since ")
    assert " and 51 more; the daemon was stopped" in event["text"]
    assert len(event["text"]) < 400
    [(event, at)] = await queued(ledger, "some")
    assert (event["schedule"], event["count"], at) == ("b/s", 6, format_instant(NOW))


async def test_what_is_added_while_the_event_is_sent_is_sent_again(ledger: Ledger) -> None:
    outbox = await declare(ledger, {"a": ["s"], "b": ["s"]})
    await decide(ledger, outbox, 1)
    sent, _ = await ledger.database.read(first_of_each)
    await decide(ledger, outbox, 1)
    for one in sent:
        await ledger.database.write(partial(remove_notification, number=one.id, content=one.content))
    assert [event["count"] for event, _ in await queued(ledger, "all")] == [12]
    for one in (await ledger.database.read(first_of_each))[0]:
        await ledger.database.write(partial(remove_notification, number=one.id, content=one.content))
    assert await ledger.select("SELECT * FROM notifications") == []


@pytest.mark.parametrize("content", ["{", "[]", '{"event": "missed"}', '{"event": "missed", "schedules": [7]}', "{}"])
async def test_a_damaged_one_that_is_held_stops_nothing(ledger: Ledger, content: str) -> None:
    outbox = await declare(ledger, {"a": ["s", "t"]})
    await decide(ledger, outbox, 1)
    await ledger.database.write(lambda tx: tx.execute("UPDATE notifications SET event = ?", (content,)))
    await decide(ledger, outbox, 1)
    rows = await ledger.select("SELECT event FROM notifications ORDER BY id")
    assert rows[0]["event"] == content
    assert json.loads(rows[1]["event"])["schedule"] == "a/t"


async def test_an_outbox_that_knows_of_nothing_held_begins_anew(ledger: Ledger) -> None:
    await decide(ledger, await declare(ledger, {"a": ["s", "t"]}), 1)
    await decide(ledger, await declare(ledger, {"a": ["s", "t"]}), 1)
    found = await queued(ledger, "all")
    assert [(event["schedule"], at) for event, at in found] == [
        ("a/s", format_instant(LATER)),
        ("a/t", format_instant(NOW)),
    ]
