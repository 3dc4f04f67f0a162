"""No sweep of retention while the wall clock may be years ahead."""

import contextlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from daemon.config.schema import Config
from daemon.errors import RefusedError
from daemon.maintenance import retention as module
from daemon.maintenance.retention import Retention
from daemon.model import DATABASE
from daemon.rules.clock_trust import ClockTrust
from daemon.store.connection import Transaction, connect
from daemon.store.home import note_clock_trust, read_clock_trust
from daemon.store.state_dir import open_state
from daemon.store.witness import renew
from daemon.units import format_instant
from tests.support.retention_history import NOW, History, ago


async def test_no_sweep_follows_a_clock_that_jumped_years_ahead(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a person may delete then what seems old; after a day the clock is believed."""
    monkeypatch.setattr(module, "_RECHECK", 0)
    run = await history.run(days=1)
    retention, ahead = history.retention(), NOW + timedelta(days=3650)
    home = retention._home = replace(retention._home, now=lambda: ahead)
    retention._last_swept, retention._clock = NOW, ClockTrust(NOW)
    await retention._sweep_when_due()
    assert await history.runs() == [run]
    [problem] = home.problems.current()
    assert problem.reason == "the clock jumped ahead by 3649d while the daemon was running"
    retention._clock_checked -= 86_400
    retention._last_swept = NOW
    await retention._sweep_when_due()
    assert await history.runs() == []


async def test_a_person_must_say_that_a_doubted_clock_is_right(history: History) -> None:
    """Who only wants old runs deleted may not know that the clock jumped."""
    run = await history.run(days=1)
    retention, ahead = history.retention(), NOW + timedelta(days=3650)
    retention._home = replace(retention._home, now=lambda: ahead)
    retention._clock = ClockTrust(NOW)
    with pytest.raises(RefusedError, match=r"the clock jumped ahead by 3649d while .* --trust-clock"):
        await retention.sweep_on_request(trust_clock=False)
    assert await history.runs() == [run]
    assert await retention.clock_doubt()
    assert (await retention.sweep_on_request(trust_clock=True)).deleted == 1


async def test_without_retention_a_doubted_clock_does_not_matter(history: History) -> None:
    retention = history.retention()
    history.live.replace(Config())
    retention._home = replace(retention._home, now=lambda: NOW + timedelta(days=3650))
    retention._clock = ClockTrust(NOW)
    assert (await retention.sweep_on_request(trust_clock=False)).skipped


async def test_a_restart_does_not_make_a_clock_right_that_is_years_ahead(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first daemon writes the wrong time into the database; daemons must see it for a day before it is believed."""
    monkeypatch.setattr(module, "_RECHECK", 0)
    run, ahead = await history.run(days=1), NOW + timedelta(days=3650)

    async def next_daemon() -> Retention:
        retention = history.retention()
        known = await history.database.read(read_clock_trust)
        retention._home = replace(retention._home, now=lambda: ahead)
        retention._last_swept, retention._clock = NOW, known
        await retention._sweep_when_due()
        return retention

    await next_daemon()
    await history.execute("UPDATE schedules SET cursor = ?1, updated_at = ?1", format_instant(ahead))
    second = await next_daemon()
    assert await history.runs() == [run]
    [problem] = second._home.problems.current()
    before = ago(1).removesuffix(".000Z")
    assert problem.reason.startswith(f"the clock is 3650d ahead of the last time recorded before the start, {before}")
    second._clock_checked -= 43_200
    await second._check_clock()
    third = await next_daemon()
    assert await history.runs() == [run]
    third._clock_checked -= 43_200
    third._last_swept = NOW
    await third._sweep_when_due()
    assert await history.runs() == []


async def test_a_restart_does_not_excuse_a_jump_of_days_that_a_daemon_saw(history: History) -> None:
    """No daemon was down so long that the clock may have advanced that far."""
    running, ahead = history.retention(), NOW + timedelta(days=6)
    running._home, running._clock = replace(running._home, now=lambda: ahead), ClockTrust(NOW)
    assert not await running._trusts_clock()
    restarted = history.retention()
    restarted._home, restarted._clock = running._home, await history.database.read(read_clock_trust)
    assert not await restarted._trusts_clock()
    restarted._clock_checked -= 86_400
    assert await restarted._trusts_clock()


def test_a_database_with_a_new_identity_keeps_what_is_known_about_the_clock(tmp_path: Path) -> None:
    """A restore gives it one, and moves all cursors to a time that may be wrong."""
    open_state(tmp_path, NOW, accept_data_loss=False)
    with contextlib.closing(connect(tmp_path / DATABASE)) as connection:
        note_clock_trust(Transaction(connection), ClockTrust(NOW, timedelta(hours=3)))
        renew(connection, 1, NOW + timedelta(days=3650), lost=True)
        assert read_clock_trust(connection) == ClockTrust(NOW, timedelta(hours=3), was_down=True, was_off=True)
