"""Pools: what several agents share, such as an account with limits, and what a run waits for because of them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from daemon.units import format_instant

EVERYTHING = "*"
"""What a pause without a name closes: it holds back the runs of all agents."""
_PRIVATE = "agent:"  # no name of a pool contains a colon
_UNKNOWN_RESET = timedelta(minutes=15)
_LONGEST = timedelta(days=32)  # the longest limits are those of a month
_SPREAD = 0.2


class Cause(StrEnum):
    """What keeps a pool closed; several may at once."""

    LIMIT = "limit"
    """A run hit a limit of the account, which is reset at some time."""
    LOGIN = "login"
    """A run was not signed in; the pool's probe tells when that has changed."""
    PAUSE = "pause"
    """A person paused it."""


@dataclass(frozen=True)
class Closure:
    """Why a pool is closed, and until when."""

    pool: str
    cause: Cause
    since: datetime
    until: datetime | None
    """None: until its probe passes, or a person resumes it."""
    reason: str
    """The agent's words, or the note of who paused it."""
    agent: str | None = None
    """Whose run closed it."""
    run_id: int | None = None
    principal: str | None = None
    """Who paused it."""

    @property
    def text(self) -> str:
        """What it says to people who wait for the pool, such as `pool max is closed until 2026-...: usage limit`."""
        if self.cause is Cause.PAUSE:
            how = f"paused by {self.principal}"
        else:
            how = "closed" if self.cause is Cause.LIMIT else "closed until its probe passes"
        until = "" if self.until is None else f" until {format_instant(self.until)}"
        reason = f": {self.reason}" if self.reason else ""
        return f"{title(self.pool)} is {how}{until}{reason}"


@dataclass(frozen=True)
class Places:
    """How many runs may hold a place in a pool; None is no limit."""

    most: int | None = None
    reserved: int = 0
    """Places that only runs take which a person asked for."""

    def has_room(self, taken: int, *, requested: bool) -> bool:
        """Return whether another run may take a place."""
        return self.most is None or taken < self.most - (0 if requested else self.reserved)


@dataclass
class Pools:
    """The pools as they stand at one moment."""

    of_agents: Mapping[str, Sequence[str]]
    """The pools of each agent that has any."""
    places: Mapping[str, Places]
    closures: Sequence[Closure] = ()
    taken: dict[str, int] = field(default_factory=dict)
    """How many runs hold a place in each pool."""

    def closed_for(self, agent: str) -> Closure | None:
        """Return what holds back the runs of an agent the longest, None if its pools are open."""
        own = {EVERYTHING, private_pool(agent), *self.of_agents.get(agent, ())}
        closing = [closure for closure in self.closures if closure.pool in own]
        return max(closing, key=lambda closure: (closure.until is None, closure.until or closure.since), default=None)

    def closed_agents(self, agents: Iterable[str]) -> set[str]:
        """Return the agents that have a closed pool, of all that there are."""
        closed = {closure.pool for closure in self.closures}
        if EVERYTHING in closed:
            return {*agents}
        owners = {owner for pool in closed if (owner := owner_of(pool)) is not None}
        return owners | {agent for agent, own in self.of_agents.items() if not closed.isdisjoint(own)}

    def full_for(self, agent: str, *, requested: bool) -> str | None:
        """Return the first pool of an agent without a place for another run, None if there is none."""
        for pool in self.of_agents.get(agent, ()):
            if not self._places(pool).has_room(self.taken.get(pool, 0), requested=requested):
                return pool
        return None

    def take(self, agent: str) -> None:
        """Count a run of an agent that begins."""
        for pool in self.of_agents.get(agent, ()):
            self.taken[pool] = self.taken.get(pool, 0) + 1

    def wait_of(self, agent: str, *, requested: bool) -> str | None:
        """Return what a pending run of an agent waits for, None if its pools let it start."""
        closure = self.closed_for(agent)
        if closure is not None:
            return closure.text
        full = self.full_for(agent, requested=requested)
        return None if full is None else f"{title(full)} has no free place"

    def _places(self, pool: str) -> Places:
        return self.places.get(pool, Places())


def private_pool(agent: str) -> str:
    """Return the name of the pool that an agent has to itself; no other pool can have it."""
    return _PRIVATE + agent


def owner_of(pool: str) -> str | None:
    """Return the agent of a private pool, None for any other pool."""
    return pool.removeprefix(_PRIVATE) if pool.startswith(_PRIVATE) else None


def title(pool: str) -> str:
    """Return what people call a pool: `pool max`, `agent triage` for a private one, or `everything`."""
    owner = owner_of(pool)
    if owner is not None:
        return f"agent {owner}"
    return "everything" if pool == EVERYTHING else f"pool {pool}"


def held_pools(text: str | None) -> Iterator[str]:
    """Yield the pools that a run holds a place in, as its row names them; none if somebody edited it badly."""
    try:
        names = json.loads(text or "[]")
    except ValueError:
        return
    yield from (name for name in (names if isinstance(names, list) else ()) if isinstance(name, str))


def count_places(rows: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return how many places are taken in each pool; each row tells how many runs hold the same pools."""
    taken: dict[str, int] = {}
    for pools, runs in rows:
        for pool in held_pools(pools):
            taken[pool] = taken.get(pool, 0) + runs
    return taken


def end_of_limit(reset: datetime | None, now: datetime, hits: int, retry_delay: timedelta, chance: float) -> datetime:
    """Return until when a limit closes a pool that a run hit, as attempt number `hits` (from 1) in a row to do so.

    `reset` is when the limit ends, as far as known: after it a random part of the agent's `retry_delay` passes, at most
    a fifth, so that hosts which share an account do not return to it at once. If it is not known, or has passed, the
    wait is doubled with each hit, from 15 min or 1 s. `chance` is the random number, in [0, 1).
    """
    first = _UNKNOWN_RESET if reset is None else timedelta(seconds=1)
    least = first * (1 << min(hits - 1, 10))
    spread = min(retry_delay, _LONGEST) * _SPREAD * chance
    return min(max(reset or now, now + least), now + _LONGEST) + spread
