"""Claims of runs: which pending runs start now, within the limits of the daemon, of each agent and of each pool."""

import json
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from daemon.config.effective import pools_of
from daemon.config.schema import Config
from daemon.model import RunStatus
from daemon.notify.outbox import Outbox
from daemon.rules.pools import EVERYTHING, Pools
from daemon.runs.fetches import Fetches
from daemon.runs.kept_workspaces import takes_kept_workspace
from daemon.runs.pipeline import Pipeline
from daemon.runs.pools import open_ended
from daemon.runs.sessions import choose_session
from daemon.runs.settings import settings_for, stored
from daemon.store.connection import Transaction, concerns_others
from daemon.store.fires import mark_launched
from daemon.store.home import Home
from daemon.store.pools import closures, places_taken, waiting_runs
from daemon.store.run_queue import next_attempt_at, occupied, startable
from daemon.store.runs import Run, change_status, get_run

_LOG = structlog.get_logger()
_MOST_HEADS = 100
_MOST_TOLD = 1000  # waiting runs that are remembered, so that each is logged once


@dataclass
class Claimed:
    """The runs that were claimed, those that could not be, and when the next one may start."""

    runs: list[Run] = field(default_factory=list)
    failures: dict[int, tuple[Exception, str | None]] = field(default_factory=dict)
    """Why others could not be, by number, and their agents; None if that is not known."""
    again_at: datetime | None = None
    to_fetch: dict[str, dict[int, str]] = field(default_factory=dict)
    """Environments whose mirrors must be fetched first, with the runs that need it and their agents."""
    waits: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Runs that wait for their pools and are not in the log yet, with their agents and what they wait for."""


class _Places:
    """The places that are taken and free: of the daemon, of each agent, and of each pool."""

    def __init__(self, tx: Transaction, config: Config, pools: Pools) -> None:
        self._tx = tx
        self._config = config
        self._pools = pools
        self._closed = pools.closed_agents(config.agents)
        self.count()

    def count(self) -> None:
        """Count the places that are taken, as the database has them."""
        self._running, self._by_agent = occupied(self._tx)
        if self._pools.of_agents:
            self._pools.taken = places_taken(self._tx)

    @property
    def room(self) -> int:
        """How many more runs the daemon may start."""
        if any(closure.pool == EVERYTHING for closure in self._pools.closures):
            return 0
        return self._config.daemon.max_concurrent_runs - self._running

    @property
    def full_agents(self) -> set[str]:
        """The agents none of whose runs may start."""
        full = {agent for agent, count in self._by_agent.items() if count >= self._limit(agent)}
        return full | self.held_by_pools

    @property
    def held_by_pools(self) -> set[str]:
        """The agents whose pools let none of their runs start."""
        full = {agent for agent in self._pools.of_agents if self._pools.full_for(agent, requested=True)}
        return full | self._closed

    @property
    def for_people(self) -> set[str]:
        """The agents of which only runs may start that a person asked for."""
        return {agent for agent in self._pools.of_agents if self._pools.full_for(agent, requested=False)}

    def take(self, run: Run) -> bool:
        """Count a run if there is a place for it; return whether there is."""
        count = self._by_agent.get(run.agent, 0)
        if count >= self._limit(run.agent) or self._pools.full_for(run.agent, requested=bool(run.requested)):
            return False
        self._running += 1
        self._by_agent[run.agent] = count + 1
        self._pools.take(run.agent)
        return True

    def _limit(self, agent: str) -> int:
        settings = self._config.agents.get(agent)
        return settings.max_concurrent if settings else 1


@dataclass
class _Pass:
    """One pass over the queue, in one transaction."""

    tx: Transaction
    config: Config
    now: datetime
    pools: Pools
    guarded: bool
    without: set[int]
    """Runs that are left out."""
    claimed: Claimed = field(default_factory=Claimed)
    fetching: set[str] = field(default_factory=set)
    """Agents with a run that waits for a fetch, and whose later runs wait with it."""


class Claims:
    """Moves runs from pending to running."""

    def __init__(self, home: Home, pipeline: Pipeline, fetches: Fetches, outbox: Outbox) -> None:
        self._home = home
        self._pipeline = pipeline
        self._fetches = fetches
        self._outbox = outbox
        self._pools: tuple[Config, Pools] | None = None
        """A config and its pools, which take a look at all agents to find."""
        self._told: set[int] = set()
        """Waiting runs that are in the log."""

    def claim(self, config: Config, put_off: set[int], tx: Transaction, *, guarded: bool = False) -> Claimed:
        """Open the pools whose time has come, and move runs from pending to running, except those that are put off.

        A run that cannot be claimed raises an error, so that nothing is written. With `guarded`, which is slower, it
        is left out and returned with its error, and the others are claimed.
        """
        now = self._home.now()
        pools = replace(self._pools_of(config), closures=open_ended(tx, closures(tx), now, self._outbox), taken={})
        places, one = _Places(tx, config, pools), _Pass(tx, config, now, pools, guarded, set(put_off))
        while places.room > 0 and self._claim_some(one, places):
            if guarded:
                places.count()
        self._note_waits(one, places)
        ends = [closure.until for closure in pools.closures]
        one.claimed.again_at = min((at for at in (next_attempt_at(tx, now), *ends) if at is not None), default=None)
        return one.claimed

    def _pools_of(self, config: Config) -> Pools:
        if self._pools is None or self._pools[0] is not config:
            self._pools = config, pools_of(config)
        return self._pools[1]

    def _claim_some(self, one: _Pass, places: _Places) -> bool:
        """Claim the runs at the head of the queue for which there are places; return whether to look again."""
        held_back, limit = places.full_agents | one.fetching, min(places.room, _MOST_HEADS)
        heads, unreadable = startable(one.tx, one.now, held_back, limit, one.without, places.for_people)
        one.claimed.failures.update({run: (error, None) for run, error in unreadable.items()})
        early = [run for run in heads if self._must_fetch(run, one)]
        one.fetching |= {run.agent for run in early}
        fitting = [run for run in heads if run not in early and places.take(run)]
        for run in fitting:
            if one.guarded:
                self._claim_guarded(one, run)
            else:
                one.claimed.runs.append(self._claim_one(one, run))
        one.without |= one.claimed.failures.keys()
        return bool(fitting or early or unreadable)

    def _must_fetch(self, run: Run, one: _Pass) -> bool:
        """Return whether a run must wait for a fetch, and add it to the fetch of its environment then."""
        environment = self._fetches.needed(run, one.config)
        if environment is not None:
            one.claimed.to_fetch.setdefault(environment, {})[run.id] = run.agent
        return environment is not None

    def _claim_guarded(self, one: _Pass, run: Run) -> None:
        try:
            with one.tx.savepoint():
                one.claimed.runs.append(self._claim_one(one, run))
        except Exception as error:
            if concerns_others(error):
                raise
            one.claimed.failures[run.id] = error, run.agent

    def _claim_one(self, one: _Pass, run: Run) -> Run:
        settings, own = settings_for(one.config, run.agent), one.pools.of_agents.get(run.agent)
        if takes_kept_workspace(one.tx, run, one.config, one.now):
            settings = replace(settings, keeps_workspace=True)
        columns: dict[str, object] = {"settings": stored(settings), "not_before": None}
        columns["resumed_session"] = choose_session(one.tx, run, settings, one.now)
        if own or run.pools:
            columns["pools"] = json.dumps(own) if own else None
        change_status(one.tx, run, RunStatus.RUNNING, one.now, columns)
        mark_launched(one.tx, run.id)
        self._pipeline.enter(one.tx, run, settings, one.now)
        return get_run(one.tx, run.id) or run

    def _note_waits(self, one: _Pass, places: _Places) -> None:
        """Find out which runs wait for their pools now and are not in the log yet."""
        held = places.held_by_pools
        for run_id, agent in waiting_runs(one.tx, held, self._told) if held else ():
            wait = one.pools.wait_of(agent, requested=True)
            if wait is not None:
                one.claimed.waits[run_id] = agent, wait

    def log_waits(self, claimed: Claimed) -> None:
        """Log once for each run that it waits for its pools."""
        for run_id, (agent, wait) in claimed.waits.items():
            _LOG.info("[run] Run waits", run_id=run_id, agent=agent, waiting_for=wait)
        if len(self._told) > _MOST_TOLD:
            self._told.clear()
        self._told |= claimed.waits.keys()
        self._told -= {run.id for run in claimed.runs}
