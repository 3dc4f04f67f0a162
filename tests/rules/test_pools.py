"""Pools as pure decisions: what a run waits for, and until when a limit closes a pool."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from daemon.rules.pools import (
    EVERYTHING,
    Cause,
    Closure,
    Places,
    Pools,
    count_places,
    end_of_limit,
    held_pools,
    owner_of,
    private_pool,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LIMIT = Closure("max", Cause.LIMIT, NOW, NOW + HOUR, "usage limit", agent="a", run_id=1)
PAUSE = Closure(EVERYTHING, Cause.PAUSE, NOW, None, "", principal="alice")
POOLS = Pools({"a": ("max", "site"), "b": ("max",)}, {"max": Places(2, reserved=1), "site": Places(1)})


def test_a_run_waits_for_what_lasts_the_longest() -> None:
    pools = replace(POOLS, closures=[LIMIT])
    until = "pool max is closed until 2026-11-21T13:00:00.000Z: usage limit"
    assert [pools.wait_of(agent, requested=True) for agent in "abc"] == [until, until, None]
    assert pools.closed_agents("abc") == {"a", "b"}
    pools = replace(POOLS, closures=[LIMIT, PAUSE])
    assert [pools.wait_of(agent, requested=True) for agent in "ac"] == ["everything is paused by alice"] * 2
    assert pools.closed_agents("abc") == {"a", "b", "c"}


def test_a_private_pool_holds_back_its_agent_alone() -> None:
    pools = replace(POOLS, closures=[replace(LIMIT, pool=private_pool("c"))])
    assert pools.closed_agents("abc") == {"c"}
    assert str(pools.wait_of("c", requested=False)).startswith("agent c is closed until ")
    assert (owner_of("agent:c"), owner_of("max"), owner_of(EVERYTHING)) == ("c", None, None)


def test_each_pool_needs_a_free_place_and_reserved_ones_are_for_people() -> None:
    pools = replace(POOLS, taken={})
    pools.take("b")
    assert pools.full_for("b", requested=False) == "max"
    assert pools.full_for("b", requested=True) is None
    pools.take("a")
    assert pools.taken == {"max": 2, "site": 1}
    assert pools.wait_of("a", requested=True) == "pool max has no free place"
    assert pools.full_for("c", requested=False) is None


def test_places_are_those_that_the_rows_name_and_bad_rows_name_none() -> None:
    assert count_places([('["max"]', 2), ('["site", "max"]', 1), ("[", 5), ('{"a": 1}', 5)]) == {"max": 3, "site": 1}
    assert [*held_pools(None)] == []
    assert [*held_pools("[1, null]")] == []


@pytest.mark.parametrize(
    ("reset", "hits", "chance", "wait"),
    [
        (HOUR, 1, 0.0, HOUR),
        (HOUR, 5, 0.5, HOUR + timedelta(seconds=3)),
        (-HOUR, 1, 0.0, timedelta(seconds=1)),  # it is past: nobody knows when it is reset
        (-HOUR, 4, 0.0, timedelta(seconds=8)),
        (None, 1, 0.0, HOUR / 4),
        (None, 5, 0.0, 4 * HOUR),
        (9000 * HOUR, 1, 0.0, timedelta(days=32)),
    ],
)
def test_a_limit_ends_when_it_is_reset_or_after_waits_that_grow(
    reset: timedelta | None, hits: int, chance: float, wait: timedelta
) -> None:
    instant = None if reset is None else NOW + reset
    assert end_of_limit(instant, NOW, hits, timedelta(seconds=30), chance) == NOW + wait
