"""Control of the runs under way: passes requests such as stop and interrupt to the agent of a run, here or remote."""

import asyncio
from collections.abc import Iterable

from daemon.agents.base import Confidential, Interruptible, Stoppable
from daemon.agents.process.supervisor.mask import Secrets


class RunControl:
    """Holds the agent of each run under way, and which runs wait for an answer or are suspended."""

    def __init__(self) -> None:
        self.in_flight: set[int] = set()
        """Runs of remote agents with a call in flight, which cannot outlive the daemon."""
        self.suspended: set[int] = set()
        self.progress = asyncio.Event()
        """Set when a run has been suspended or is no longer under way."""
        self._agents: dict[int, Stoppable] = {}
        self._is_leaving = False

    def attach(self, run_id: int, agent: Stoppable) -> None:
        """Pass requests for a run to its current activity from now on."""
        self._agents[run_id] = agent
        if self._is_leaving and isinstance(agent, Interruptible):
            agent.leaving.set()

    def detach(self, run_id: int) -> None:
        """Stop passing requests to the agent of a run."""
        self._agents.pop(run_id, None)

    def suspend(self, run_id: int) -> None:
        """Note that a run is suspended: its work continues on the agent's server."""
        self.in_flight.discard(run_id)
        self.suspended.add(run_id)
        self.progress.set()

    def forget(self, run_id: int) -> None:
        """Note that a run is no longer under way."""
        self.in_flight.discard(run_id)
        self.suspended.discard(run_id)
        self.progress.set()

    def stop(self, run_id: int, *, at_once: bool) -> None:
        """Ask the agent of a run to end; a run without an agent yet finds its flag in the database."""
        agent = self._agents.get(run_id)
        if agent is not None:
            agent.stop(at_once=at_once)

    def leave_deliveries(self) -> None:
        """Begin no further call to deliver an input: what is not acknowledged is left to the next daemon."""
        self._is_leaving = True
        for agent in self._agents.values():
            if isinstance(agent, Interruptible):
                agent.leaving.set()

    def interrupt(self) -> None:
        """Abort the calls in flight."""
        for run_id in self.in_flight:
            agent = self._agents.get(run_id)
            if isinstance(agent, Interruptible):
                agent.interrupt()

    def report_hook_call(self, run_id: int) -> None:
        """Report to a run's agent that its hook was called; a run without an agent yet finds that it has ended."""
        agent = self._agents.get(run_id)
        if isinstance(agent, Interruptible):
            agent.settled.set()

    def secrets_of(self, run_id: int) -> Secrets | None:
        """Return the secrets that a run under way was given, None if its agent has not read them."""
        agent = self._agents.get(run_id)
        return agent.secrets if isinstance(agent, Confidential) else None

    def note_cancellation(self, run_ids: Iterable[int], reason: str) -> None:
        """Record on disk, without the database, that these runs are cancelled; blocks as long as the disk does."""
        for run_id in run_ids:
            agent = self._agents.get(run_id)
            if agent is not None:
                agent.note_cancellation(reason)
