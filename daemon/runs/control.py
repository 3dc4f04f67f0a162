"""The remote control of the runs under way: what is asked of a run reaches its agent here."""

from collections.abc import Callable, Iterable

from daemon.agents.base import Stoppable
from daemon.agents.remote.agent import RemoteAgent


class RunControl:
    """Knows the agent of each run under way, and which of them wait for an answer or are suspended."""

    def __init__(self) -> None:
        self.in_flight: set[int] = set()
        """Runs of remote agents whose answers are under way: they cannot outlast the daemon."""
        self.suspended: set[int] = set()
        self._agents: dict[int, Stoppable] = {}

    def attach(self, run_id: int, agent: Stoppable) -> None:
        """Have what is asked of a run reach what it is busy with now."""
        self._agents[run_id] = agent

    def detach(self, run_id: int) -> None:
        """Let nothing reach the agent of a run any more."""
        self._agents.pop(run_id, None)

    def suspend(self, run_id: int) -> None:
        """Note that the work of a run continues elsewhere."""
        self.in_flight.discard(run_id)
        self.suspended.add(run_id)

    def forget(self, run_id: int) -> None:
        """Note that a run is under way no longer."""
        self.in_flight.discard(run_id)
        self.suspended.discard(run_id)

    def stop(self, run_id: int, *, at_once: bool) -> None:
        """Ask the agent of a run to end; a run on its way to its agent finds the flag in the database."""
        agent = self._agents.get(run_id)
        if agent is not None:
            agent.stop(at_once=at_once)

    def interrupt(self) -> None:
        """Abort the calls in flight."""
        for run_id in self.in_flight:
            agent = self._agents.get(run_id)
            if isinstance(agent, RemoteAgent):
                agent.interrupt()

    def settle(self, run_id: int) -> None:
        """Let a run's agent know that its hook was called; one on its way to its agent finds that it has ended."""
        agent = self._agents.get(run_id)
        if isinstance(agent, RemoteAgent):
            agent.settled.set()

    def mask_of(self, run_id: int) -> Callable[[str], str]:
        """Return the function that removes the secrets of a run under way from a text."""
        agent = self._agents.get(run_id)
        return agent.masked if isinstance(agent, RemoteAgent) else str

    def note_cancellation(self, run_ids: Iterable[int], reason: str) -> None:
        """Note on disk, without the database, that these runs are to end; blocks as long as the disk does."""
        for run_id in run_ids:
            agent = self._agents.get(run_id)
            if agent is not None:
                agent.note_cancellation(reason)
