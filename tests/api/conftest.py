"""A daemon whose control API is asked."""

from collections.abc import Iterator

import pytest

from tests.api.calling import CONFIG
from tests.conftest import StartDaemon, daemons_in
from tests.daemon_process import DaemonProcess


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> DaemonProcess:
    """A running daemon with one agent `a` and one declared schedule."""
    return start_daemon(CONFIG)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """The same for tests that ask for nothing but what is refused, so that they can share it."""
    with daemons_in(tmp_path_factory.mktemp("refusing")) as start:
        yield start(CONFIG)
