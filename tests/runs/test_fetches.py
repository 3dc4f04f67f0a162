"""What a mirror was fetched for counts only while the config says the same."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemon.config.schema import Config
from daemon.model import RunStatus
from daemon.runs.fetches import Fetches
from daemon.store.runs import Run, get_run
from daemon.workspaces.clone import prepare_workspace
from daemon.workspaces.mirror_use import MirrorUse
from daemon.workspaces.sources import source_for
from tests.support.git_site import AUTHOR, commit, git
from tests.support.ledger import SECOND, START, Ledger


class Reloads:
    """The fetches of a daemon whose config is replaced, for runs of the agent `a` that wait for their workspaces."""

    def __init__(self, fetches: Fetches, ledger: Ledger, ended: asyncio.Event) -> None:
        self.fetches = fetches
        self.state = ledger.folder / "state"
        self._ledger = ledger
        self._ended = ended

    async def runs(self) -> list[Run]:
        """Return two runs that wait."""
        await self._ledger.declare('overlap = "allow_all"')
        await self._ledger.decide(START + 20 * SECOND)
        found = await self._ledger.database.read(lambda c: [get_run(c, number) for number in (1, 2)])
        return [run for run in found if run is not None]

    async def fetch(self, run: Run, config: Config) -> None:
        """Fetch what a run waits for."""
        environment = self.fetches.needed(run, config)
        assert environment is not None
        self._ended.clear()
        self.fetches.start({environment: {run.id: run.agent}}, config)
        await self._ended.wait()

    def failure(self, run: Run, config: Config) -> str | None:
        source = source_for(config, run.agent)
        assert source is not None
        return self.fetches.failure(run.id, source)

    async def clone(self, run: Run, config: Config) -> str:
        """Return the commit that the workspace of a run starts from."""
        source = source_for(config, run.agent)
        assert source is not None
        made = await asyncio.to_thread(prepare_workspace, self.state, source, AUTHOR, run.id, 60, print, fetches=False)
        return made.base


@pytest.fixture
async def reloads(ledger: Ledger) -> AsyncIterator[Reloads]:
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        fetches = Fetches(ledger.folder / "state", MirrorUse(), tasks)
        fetches.on_end(ended.set)
        yield Reloads(fetches, ledger, ended)


@pytest.fixture
def other(tmp_path: Path) -> tuple[Path, str]:
    """Another repository, and its commit."""
    place = tmp_path / "other"
    place.mkdir()
    git(place, "init", "-q", "-b", "main")
    return place, commit(place, "b.txt", "two\n")


def config_of(repository: Path, **keys: Any) -> Config:  # noqa: ANN401 - of any setting
    environment = {"mode": "git", "repository": str(repository), "fetch_every": "1h", **keys}
    return Config.model_validate(
        {"environments": {"site": environment}, "agents": {"a": {"command": ["true"], "environment": "site"}}}
    )


async def test_a_repository_that_a_reload_brings_back_is_fetched_again(
    reloads: Reloads, origin: Path, other: tuple[Path, str]
) -> None:
    first, second = config_of(origin), config_of(other[0])
    run, later = await reloads.runs()
    await reloads.fetch(run, first)
    await reloads.fetch(run, second)
    assert reloads.fetches.needed(later, second) is None
    await reloads.fetch(later, first)
    assert reloads.fetches.needed(later, first) is None
    assert await reloads.clone(later, first) == git(origin, "rev-parse", "HEAD")


@pytest.mark.parametrize("fetch_every", ["0s", "1h"])
async def test_a_run_that_waits_for_a_slot_is_not_started_from_what_an_earlier_config_named(
    reloads: Reloads, origin: Path, other: tuple[Path, str], fetch_every: str
) -> None:
    first, second = config_of(origin, fetch_every=fetch_every), config_of(other[0], fetch_every=fetch_every)
    run, later = await reloads.runs()
    await reloads.fetch(run, first)
    assert reloads.fetches.needed(run, first) is None  # it may start, and waits for a slot
    await reloads.fetch(run, second)
    assert await reloads.clone(run, second) == other[1]
    assert reloads.fetches.needed(run, first) == "site"  # the mirror holds the other by now
    await reloads.fetch(later, first)
    assert reloads.fetches.needed(later, first) is None


async def test_another_ref_is_fetched_for_a_run_that_waits_for_a_slot(reloads: Reloads, origin: Path) -> None:
    git(origin, "branch", "old")
    first, second = config_of(origin), config_of(origin, ref="old")
    run, _ = await reloads.runs()
    await reloads.fetch(run, first)
    assert reloads.fetches.needed(run, second) == "site"


async def test_the_failure_of_a_fetch_ends_with_the_url_that_it_was_about(
    reloads: Reloads, tmp_path: Path, origin: Path
) -> None:
    broken, mended = config_of(tmp_path / "nothing"), config_of(origin)
    run, later = await reloads.runs()
    await reloads.fetch(run, broken)
    assert reloads.fetches.needed(run, broken) is None  # it may start, to fail at once
    await reloads.fetch(later, mended)
    assert reloads.fetches.needed(run, mended) is None
    assert reloads.failure(run, mended) is None
    assert await reloads.clone(run, mended) == git(origin, "rev-parse", "HEAD")


async def test_the_failure_of_a_fetch_fails_the_run_that_asked_for_it(reloads: Reloads, tmp_path: Path) -> None:
    broken = config_of(tmp_path / "nothing")
    run, later = await reloads.runs()
    await reloads.fetch(run, broken)
    assert reloads.fetches.needed(later, broken) == "site"
    assert "cannot fetch the repository" in (reloads.failure(run, broken) or "")
    assert run.status is RunStatus.PENDING


async def test_a_run_that_waits_for_its_submodules_lets_the_mirror_be_fetched(reloads: Reloads, origin: Path) -> None:
    git(origin, "branch", "old")
    first, second = config_of(origin), config_of(origin, ref="old")
    run, later = await reloads.runs()
    await reloads.fetch(run, first)
    reloads.fetches.begin(run, first)
    reloads.fetches.note_wait(run, "site", "submodules")
    async with asyncio.timeout(30):
        await reloads.fetch(later, second)
    reloads.fetches.end(run.id)
    assert reloads.fetches.needed(later, second) is None
