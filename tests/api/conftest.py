"""A daemon for tests of its control API."""

import time
from collections.abc import Iterator

import pytest

from tests.support.api import CONFIG
from tests.support.daemon_process import DaemonProcess, StartDaemon, daemons_in
from tests.support.peers.processes import free_port
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def _not_at_the_full_hour() -> None:
    """Let a test whose schedules are due hourly not begin when the hour is about to end."""
    wait_until(lambda: time.time() % 3600 < 3590)


@pytest.fixture
def in_mid_minute() -> None:
    """Let a test whose schedules are due each minute not begin when the minute is about to end."""
    wait_until(lambda: time.time() % 60 < 50)


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> DaemonProcess:
    """A running daemon with one agent `a` and one declared schedule."""
    return start_daemon(CONFIG)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """The same for tests that ask for nothing but what is refused, so that they can share it."""
    with daemons_in(tmp_path_factory.mktemp("refusing")) as start:
        yield start(CONFIG)


@pytest.fixture
def port() -> int:
    return free_port()
