"""A daemon whose control API is asked."""

import pytest

from tests.api.calling import CONFIG
from tests.conftest import StartDaemon
from tests.daemon_process import DaemonProcess


@pytest.fixture
def daemon(start_daemon: StartDaemon) -> DaemonProcess:
    """A running daemon with one agent `a` and one declared schedule."""
    return start_daemon(CONFIG)
