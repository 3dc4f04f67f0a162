"""Repacks the mirrors of environments, beside the cleanups: it may take an hour, for which no cleanup should wait."""

import asyncio

import structlog

from daemon.config.live import LiveConfig
from daemon.problems import described, standing_loop
from daemon.store.home import Home
from daemon.workspaces.client import WorkspaceHelperError, workspace_helper
from daemon.workspaces.jobs import MaintainMirrors, Source
from daemon.workspaces.mirror_maintenance import is_due
from daemon.workspaces.mirror_use import MirrorUse
from daemon.workspaces.sources import source_of

_LOG = structlog.get_logger()
_PART = "mirrors"
_TIMEOUT = 3600.0  # seconds for one git command


class MirrorMaintenance:
    """Looks after the mirrors of one daemon."""

    def __init__(self, home: Home, live: LiveConfig, mirrors: MirrorUse) -> None:
        self._home = home
        self._live = live
        self._mirrors = mirrors
        self._cleaned = asyncio.Event()

    async def serve(self) -> None:
        """Repack the mirrors for which that is due, at the start and after each cleanup."""
        await standing_loop(_PART, self._home.problems, self.maintain, lambda _: self._cleaned.wait())

    def wake(self) -> None:
        """Have it looked after the mirrors soon, because a cleanup has ended."""
        self._cleaned.set()

    async def maintain(self) -> None:
        """Repack the mirrors for which that is due, each at a moment when no workspace is made from it."""
        self._cleaned.clear()
        for name in self._live.config.environments:
            source = source_of(self._live.config, name)
            if source is None:
                self._home.problems.resolve(_PART, name)
            elif await asyncio.to_thread(is_due, self._home.state_dir, name):
                await self._repack(name, source)
        self._home.problems.keep_only(_PART, self._live.config.environments)

    async def _repack(self, name: str, source: Source) -> None:
        try:
            async with (
                self._mirrors.changing(name, "maintenance", {}),
                workspace_helper(self._home.state_dir) as helper,
            ):
                is_repacked = await helper.maintain_mirrors(MaintainMirrors(source, _TIMEOUT))
        except (WorkspaceHelperError, OSError) as error:
            self._home.problems.report(_PART, described(error), subject=name)
            _LOG.error("[cleanup] ERROR: Cannot repack the mirror of an environment", name=name, error=str(error))
        else:
            self._home.problems.resolve(_PART, name)
            if is_repacked:
                _LOG.info("[cleanup] Repacked the mirror of an environment", name=name)
