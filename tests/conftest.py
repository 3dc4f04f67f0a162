"""What all tests share: a daemon as a real process, and waiting for what it does without sleeping blindly."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.daemon_process import DaemonProcess

settings.register_profile("suite", deadline=None, max_examples=50)  # how fast is for the benchmarks to say
settings.load_profile("suite")

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a third of a daemon's start is the compiler's without a cache
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what is to run in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

StartDaemon = Callable[..., DaemonProcess]


@contextlib.contextmanager
def daemons_in(folder: Path) -> Iterator[StartDaemon]:
    """Start daemons on configs in a folder; whatever still runs at the end is ended, agents included."""
    started: list[DaemonProcess] = []

    def start(config: str, *, ready: bool = True, **options: object) -> DaemonProcess:
        daemon = DaemonProcess(folder, config, **options)  # type: ignore[arg-type]
        started.append(daemon)
        if ready:
            daemon.wait_for_log("[daemon] Ready")
        return daemon

    yield start
    for daemon in started:
        daemon.clean_up()


@pytest.fixture
def start_daemon(tmp_path: Path) -> Iterator[StartDaemon]:
    """Start daemons on configs in the test's folder."""
    with daemons_in(tmp_path) as start:
        yield start
