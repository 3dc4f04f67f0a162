"""Pools as they stand, as the API and `--json` show them."""

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Literal

from typing_extensions import TypedDict

from daemon.config.effective import pools_of
from daemon.config.schema import Config
from daemon.rules.pools import EVERYTHING, Cause, Closure, Pools, owner_of
from daemon.store.pools import closures, pending_by_agent, places_taken
from daemon.units import format_instant

_HIDDEN = "see the log"


class ClosureView(TypedDict):
    """What keeps a pool closed: a limit, a login failure or a pause; without `until`, a probe or a person ends it."""

    pool: str
    cause: Cause
    since: str
    until: str | None
    reason: str | None
    run_id: int | None
    principal: str | None


class PoolView(TypedDict):
    """A pool: `agent:NAME` is the private one of an agent, `*` is everything."""

    pool: str
    state: Literal["open", "closed", "paused"]
    closures: list[ClosureView]
    max_concurrent: int | None
    reserve: int
    running: int
    pending: int


class PoolChangeView(TypedDict):
    """The pause that began, or what has ended that kept pools closed."""

    pool: str
    closures: list[ClosureView]


class PoolList(TypedDict):
    """The pools of the config, and others that are closed."""

    pools: list[PoolView]


def pools_now(connection: sqlite3.Connection, config: Config) -> Pools:
    """Return the pools of a config as they stand in the database."""
    pools = pools_of(config)
    taken = places_taken(connection) if pools.places else {}
    return replace(pools, closures=closures(connection), taken=taken)


def pool_views(connection: sqlite3.Connection, config: Config, agents: Collection[str] | None = None) -> list[PoolView]:
    """Return the pools of which some agent may be seen, None for all, and whatever closes everything."""
    pools = pools_now(connection, config)
    names = dict.fromkeys([*pools.places, *(closure.pool for closure in pools.closures)])
    if not names:
        return []
    pending = pending_by_agent(connection)
    seen = {name: _members(pools, config, name) for name in names}
    return [
        _view(pools, name, members, pending, agents)
        for name, members in seen.items()
        if agents is None or name == EVERYTHING or not members.isdisjoint(agents)
    ]


def _members(pools: Pools, config: Config, name: str) -> set[str]:
    """Return the agents whose runs need a pool to be open."""
    if name == EVERYTHING:
        return set(config.agents)
    owner = owner_of(name)
    return {owner} if owner is not None else {agent for agent, own in pools.of_agents.items() if name in own}


def _view(
    pools: Pools, name: str, members: set[str], pending: Mapping[str, int], agents: Collection[str] | None
) -> PoolView:
    closing = [closure for closure in pools.closures if closure.pool == name]
    is_paused = any(closure.cause is Cause.PAUSE for closure in closing)
    places = pools.places.get(name)
    return PoolView(
        pool=name,
        state="paused" if is_paused else "closed" if closing else "open",
        closures=closure_views(closing, agents),
        max_concurrent=None if places is None else places.most,
        reserve=0 if places is None else places.reserved,
        running=pools.taken.get(name, 0),
        pending=sum(pending.get(agent, 0) for agent in members if agents is None or agent in agents),
    )


def closure_views(closing: Iterable[Closure], agents: Collection[str] | None = None) -> list[ClosureView]:
    """Return what keeps pools closed; an agent's words and its run only for those who may see it, None for all."""
    return [
        _closure_view(closure, is_seen=closure.agent is None or agents is None or closure.agent in agents)
        for closure in closing
    ]


def _closure_view(closure: Closure, *, is_seen: bool) -> ClosureView:
    return ClosureView(
        pool=closure.pool,
        cause=closure.cause,
        since=format_instant(closure.since),
        until=None if closure.until is None else format_instant(closure.until),
        reason=(closure.reason or None) if is_seen else _HIDDEN,
        run_id=closure.run_id if is_seen else None,
        principal=closure.principal,
    )
