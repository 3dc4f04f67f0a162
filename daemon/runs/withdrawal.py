"""Asks an agent behind a URL to stop its work on a run that was cancelled while it waited to be delivered again.

An earlier daemon left such a run without an answer, so the agent may have the input. That the run is cancelled is
recorded first: no agent that cannot be reached keeps it from its end, and no error here ends anything else.
"""

import structlog

from daemon.agents.factory import Agents
from daemon.config.live import LiveConfig
from daemon.errors import StoreDamagedError
from daemon.runs.control import RunControl
from daemon.runs.hook_tokens import HookTokens
from daemon.runs.settings import settings_of
from daemon.runs.work import work_of
from daemon.store.home import Home
from daemon.store.runs import get_run

_LOG = structlog.get_logger()


class Withdrawals:
    """Withdraws inputs whose delivery was not confirmed."""

    def __init__(self, home: Home, live: LiveConfig, agents: Agents, hooks: HookTokens, control: RunControl) -> None:
        self._home = home
        self._live = live
        self._agents = agents
        self._hooks = hooks
        self._control = control

    async def withdraw(self, run_id: int) -> None:
        """Ask the agent of a cancelled run to stop; log whatever keeps it from that."""
        try:
            await self._withdraw(run_id)
        except StoreDamagedError:
            raise
        except Exception as error:  # noqa: BLE001 - the run has ended
            _LOG.error("[delivery] Cannot ask the agent to stop", run_id=run_id, reason=type(error).__name__)
        finally:
            self._control.forget(run_id)

    async def _withdraw(self, run_id: int) -> None:
        run = await self._home.database.read_patiently(lambda connection: get_run(connection, run_id))
        if run is None:
            return
        config, settings = self._live.config, settings_of(run)
        agent = self._agents.remote(settings, config.agents.get(run.agent), config)
        await agent.recall(work_of(run, self._home.state_dir, self._hooks))
