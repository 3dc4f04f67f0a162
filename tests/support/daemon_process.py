"""A daemon in its own process, and what can be seen of it from outside: log, database, exit status."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from daemon.agents.process.launcher import living_supervisors
from daemon.agents.process.supervisor import tree
from tests.support import forked
from tests.support.waiting import DEADLINE, wait_until


def _program(slowed: str) -> list[str]:
    return ["-c", f"{slowed}\nfrom daemon.__main__ import main\nmain()"] if slowed else ["-m", "daemon"]


def _inside(cgroup: Path | None) -> list[str]:
    """Return what to put before a command for it to begin in a cgroup."""
    return [] if cgroup is None else ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(cgroup / "cgroup.procs")]


class DaemonProcess:
    """`agentcron run` on a config in a folder; its state is in `state/` there unless told otherwise.

    `slowed` is code that puts a delay into one place of the program before it starts. The process is forked from one
    that has the program loaded; `anew` starts an interpreter, which imports only what this daemon needs.
    """

    def __init__(
        self,
        folder: Path,
        config: str,
        *,
        arguments: tuple[str, ...] = (),
        state: Path | None = None,
        slowed: str = "",
        cgroup: Path | None = None,
        anew: bool = False,
        **environment: str,
    ) -> None:
        self.folder = folder
        self.state = state or folder / "state"
        self.config = folder / "config.toml"
        self.log_file = folder / f"daemon-{time.monotonic_ns()}.log"
        if "[daemon]" not in config:
            config = '[daemon]\nstate_dir = "state"\n' + config
        self.config.write_text(config)
        self.environment = {**os.environ, **environment}
        self.log_file.touch()
        command = ["--config", str(self.config), "run", *arguments]
        self.process: subprocess.Popen[bytes] | forked.Forked
        if anew or cgroup or "LD_PRELOAD" in environment:
            with self.log_file.open("ab") as log:
                self.process = subprocess.Popen(
                    [*_inside(cgroup), sys.executable, *_program(slowed), *command],
                    stderr=log,
                    stdout=log,
                    stdin=subprocess.DEVNULL,
                    env=self.environment,
                )
        else:
            streams = (self.log_file, self.log_file)
            self.process = forked.Forked(command, self.environment, Path.cwd(), *streams, slowed=slowed)

    # what it says

    def log(self) -> list[dict[str, Any]]:
        """Return the log's events; every line must be one."""
        lines = self.log_file.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def log_text(self) -> str:
        return self.log_file.read_text()

    def wait_for_supervisors(self) -> None:
        """Wait until the last supervisor of a run in this state directory has ended."""
        wait_until(lambda: not living_supervisors(self.state), what="the end of what ran")

    def wait_for_log(self, text: str, *, deadline: float = DEADLINE, **keys: object) -> dict[str, Any]:
        """Return the first event whose text contains `text` and whose keys match; fail if the daemon ends first."""

        def look() -> dict[str, Any] | None:
            ended = self.process.poll() is not None
            for event in self._events():
                if text in event["event"] and all(event.get(key) == value for key, value in keys.items()):
                    return event
            if ended:
                raise AssertionError(f"the daemon ended before it logged {text!r}:\n{self.log_text()}")
            return None

        return wait_until(look, deadline=deadline, what=f"log line {text!r} {keys}\n{self.log_text()[-3000:]}")

    def _events(self) -> list[dict[str, Any]]:
        with contextlib.suppress(ValueError):  # a line that is just being written
            return self.log()
        return []

    # what it keeps

    def query(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """Run a query on the database, read-only."""
        connection = sqlite3.connect(f"file:{self.state / 'state.db'}?mode=ro", uri=True, timeout=10)
        connection.row_factory = sqlite3.Row
        with contextlib.closing(connection):
            return connection.execute(sql, values).fetchall()

    def wait_for_row(self, sql: str, *values: object, deadline: float = DEADLINE) -> sqlite3.Row:
        """Return the first row that a query gives."""
        rows = wait_until(lambda: self.query(sql, *values), deadline=deadline, what=f"{sql}\n{self.log_text()[-3000:]}")
        return rows[0]

    def wait_for_run(self, status: str, *, deadline: float = DEADLINE, number: int | None = None) -> sqlite3.Row:
        """Return the first run (or the numbered one) once it has a status."""
        if number is None:
            return self.wait_for_row("SELECT * FROM runs WHERE status = ? ORDER BY id", status, deadline=deadline)
        return self.wait_for_row("SELECT * FROM runs WHERE id = ? AND status = ?", number, status, deadline=deadline)

    def output(self, run: int) -> str:
        return (self.state / "runs" / str(run) / "output.log").read_text(errors="replace")

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of agentcron on the same config."""
        return forked.run(["--config", str(self.config), *arguments], self.environment, Path.cwd())

    # what is done to it

    def stop(self, number: int = signal.SIGTERM, *, deadline: float = DEADLINE) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(deadline)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)

    def clean_up(self) -> None:
        """End the daemon, and by their mark whatever agents its runs left."""
        if self.process.poll() is None:
            self.kill()
        if not (self.state / "state.db").exists():
            return
        with contextlib.suppress(sqlite3.DatabaseError):  # a test may have damaged it
            for run in self.query("SELECT idempotency_key AS key, pid, pid_started FROM runs WHERE pid IS NOT NULL"):
                tree.send(tree.Process(run["pid"], run["pid_started"]), signal.SIGKILL)
                mark = f"AGENTCRON_IDEMPOTENCY_KEY={run['key']}".encode()
                if tree.marked(mark):
                    tree.kill(lambda mark=mark: tree.marked(mark))  # type: ignore[misc]


def processes_of(key: str) -> list[tree.Process]:
    """Return the living processes of a run, found by its mark."""
    return tree.marked(f"AGENTCRON_IDEMPOTENCY_KEY={key}".encode())


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
