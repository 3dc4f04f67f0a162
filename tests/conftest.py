"""Fixtures that several rooms use: daemons as real processes, a ledger without one, a repository."""

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from daemon.store.state_dir import open_state
from tests.support import in_memory
from tests.support.daemon_process import StartDaemon, daemons_in
from tests.support.git_site import commit, git
from tests.support.ledger import START, Ledger

settings.register_profile("suite", deadline=None, max_examples=50)  # how fast is for the benchmarks to say
settings.load_profile("suite")

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a third of a daemon's start is the compiler's without a cache
IN_MEMORY = "/dev/shm"  # fsync, which the daemon calls for each commit, waits for no disk there
if in_memory.has_room(IN_MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", IN_MEMORY)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what is to run in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Start daemons on configs in the test's folder."""
    with daemons_in(tmp_path) as start:
        yield start


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    """A ledger in an empty database, without a daemon."""
    (tmp_path / "state").mkdir()
    async with open_state(tmp_path / "state", START, accept_data_loss=False) as database:
        yield Ledger(database, tmp_path)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A repository with one commit."""
    place = tmp_path / "origin"
    place.mkdir()
    git(place, "init", "-q", "-b", "main")
    commit(place, "a.txt", "one\n")
    return place


@pytest.fixture(params=["4m", "160m"], ids=["too small for a ballast", "with a ballast"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, mounted for this test alone."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
