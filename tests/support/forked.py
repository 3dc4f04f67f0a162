"""agentcron in its own process, forked from one that has loaded it: most of a start is Python's imports.

What depends on the start itself (a preloaded library, a cgroup) is for `subprocess` to start.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from daemon.cli.main import main

_LONGEST = 60.0  # seconds
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "daemon.cli.app",
        "daemon.cli.daemon_process",
        "daemon.recovery.restore",
        "daemon.cli.client",
        "daemon.cli.status",
        "daemon.cli.locate",
        "daemon.cli.offline",
        "daemon.cli.schedule_views",
        "daemon.doctor.reachable",
        "daemon.doctor.state",
        "rich.table",
        "tests.support.forked",
    ]
)


class Forked:
    """A process that runs a command of agentcron, with as much of `subprocess.Popen` as tests need."""

    def __init__(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        folder: Path,
        output: Path,
        errors: Path,
        *,
        slowed: str = "",
    ) -> None:
        self.arguments = arguments
        given = (arguments, dict(environment), str(folder), str(output), str(errors), slowed)
        self._process = _SERVER.Process(target=_enter, args=given, daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit status, a signal's number below zero, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status as far as there is one."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once there is one; raise TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.arguments, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


def run(arguments: list[str], environment: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a folder; raise TimeoutExpired if it takes longer than any should."""
    with tempfile.TemporaryDirectory() as place:
        output, errors = Path(place, "output"), Path(place, "errors")
        process = Forked(arguments, environment, folder, output, errors)
        try:
            status = process.wait(_LONGEST)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())


def _enter(
    arguments: list[str], environment: dict[str, str], folder: str, output: str, errors: str, slowed: str
) -> None:
    """Be the command: with its own environment, folder and standard streams."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(folder)
    for descriptor, place, how in (
        (0, os.devnull, os.O_RDONLY),
        (1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(place, how, 0o666)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115 - descriptors
    sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115 - likewise
    sys.argv = ["agentcron", *arguments]
    if slowed:
        _run_slowed(slowed)
    else:
        main()


def _run_slowed(slowed: str) -> None:
    """Run code, then the program, whose modules are loaded anew so that they meet what the code has changed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "daemon"]:
        del sys.modules[name]
    exec(f"{slowed}\nfrom daemon.__main__ import main\nmain()", {"__name__": "__main__"})  # noqa: S102 - the test's own
