"""Maintenance of mirrors beside the cleanups."""

import asyncio

from daemon.maintenance.cleanup import Cleanup
from daemon.workspaces.mirror_use import MirrorUse
from tests.support.parts import NO_NOTIFICATIONS
from tests.support.retention_history import History
from tests.support.waiting import DEADLINE, wait_until

SITE = '[environments.site]\nmode = "git"\nrepository = "/nowhere"\n'


async def test_no_cleanup_waits_for_a_mirror_to_be_repacked(history: History) -> None:
    history.live.replace(history.config(SITE))
    packs = history.state_dir / "environments/site/mirror/objects/pack"
    packs.mkdir(parents=True)
    for number in range(25):
        (packs / f"{number}.pack").touch()
    use = MirrorUse()
    mirrors = history.mirrors(use)
    cleanup = Cleanup(history.home(), history.live, NO_NOTIFICATIONS, mirrors, history.removal())
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(mirrors.serve())
        with use.reading("site"):
            await asyncio.to_thread(wait_until, lambda: use.is_changed("site"), what="the maintenance")
            await cleanup.sweep()
            assert use.is_changed("site")
        serving.cancel()
