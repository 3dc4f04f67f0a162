"""Maintenance of mirrors beside the cleanups."""

import asyncio
from pathlib import Path

from structlog.testing import capture_logs

from daemon.maintenance.cleanup import Cleanup
from daemon.workspaces.clone import prepare_workspace
from daemon.workspaces.mirror_use import MirrorUse
from daemon.workspaces.sources import source_of
from tests.support.git_site import AUTHOR, GitSite
from tests.support.parts import NO_NOTIFICATIONS
from tests.support.retention_history import History
from tests.support.waiting import DEADLINE, wait_until

SITE = '[environments.site]\nmode = "git"\nrepository = "/nowhere"\n'


def add_packs(mirror: Path) -> None:
    """Add so many packs to a mirror that repacking it is due."""
    (mirror / "objects/pack").mkdir(parents=True, exist_ok=True)
    for number in range(25):
        (mirror / f"objects/pack/{number}.pack").touch()


async def test_no_cleanup_waits_for_a_mirror_to_be_repacked(history: History) -> None:
    history.live.replace(history.config(SITE))
    add_packs(history.state_dir / "environments/site/mirror")
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


async def test_only_a_mirror_that_was_repacked_is_said_to_be(history: History, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    site = GitSite(tmp_path / "site")
    history.live.replace(history.config(SITE.replace("/nowhere", str(site.origin))))
    source = source_of(history.live.config, "site")
    assert source is not None
    prepare_workspace(history.state_dir, source, AUTHOR, 1, 60, site.logged.append)
    mirror = history.state_dir / "environments/site/mirror"
    add_packs(mirror)
    for is_ours in (False, True):
        (mirror / "commondir").unlink() if is_ours else (mirror / "commondir").touch()
        with capture_logs() as logged:
            await history.mirrors(MirrorUse()).maintain()
        assert [line["event"] for line in logged if "Repacked" in line["event"]] == is_ours * [
            "[cleanup] Repacked the mirror of an environment"
        ]
