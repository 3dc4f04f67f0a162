"""Looks up which schedules can start nothing under the config in force, at a start and after a reload."""

import structlog

from daemon.access import Access
from daemon.config.live import LiveConfig
from daemon.errors import StoreUnavailableError
from daemon.notify.outbox import Outbox
from daemon.schedules.blocked import Blocked, claims_of, record_blocked
from daemon.store.home import Home

_LOG = structlog.get_logger()


class Review:
    """Notes, logs and reports the schedules that can start nothing; called at the start and after each reload."""

    def __init__(self, home: Home, live: LiveConfig, access: Access, outbox: Outbox) -> None:
        self._home = home
        self._live = live
        self._access = access
        self._outbox = outbox

    async def __call__(self) -> list[Blocked]:
        """Return the schedules that can start nothing; none if the database cannot be written now."""
        try:
            claims = await self._home.database.read(claims_of)
            standings = await self._access.standings(claims)
            rights = {claim: standing.may_start for claim, standing in standings.items()}
            agents, now = frozenset(self._live.config.agents), self._home.now()
            found = await self._home.database.write(lambda tx: record_blocked(tx, agents, rights, now, self._outbox))
        except StoreUnavailableError:  # the log reports it often enough; each due time is checked again
            return []
        for one in found:
            _LOG.warning(
                "[config] Schedule cannot start anything", schedule=one.address, state=one.state, reason=one.reason
            )
        return found
