"""One command of a run: its start, its time limits, and the end of its whole process tree."""

import os
import select
import time
from collections.abc import Callable
from typing import Any

from . import tree
from .cgroup import Cgroup
from .output_pipes import OutputPipes
from .requests import Requests
from .start import StartError

_KILL_EVERY = 0.05  # seconds between two rounds of SIGKILL
_LONGEST_PAUSE = 3600.0  # seconds; poll(2) takes no more than 24 days
_GIVE_UP = 10.0  # seconds after the first SIGKILL; only a process stuck in the kernel survives that long


class Command:
    """A command and what it started."""

    def __init__(
        self, spec: dict[str, Any], pipes: OutputPipes, cgroup: Cgroup, requests: Requests, deadline: float
    ) -> None:
        """Take the limits of a run from its spec; `deadline` is when its timeout ends, in monotonic seconds."""
        self.pipes = pipes
        self.reason = "exited"
        """Why it ended: by itself, or `cancelled`, `timeout` or `idle_timeout`."""
        self.not_started: StartError | None = None
        self.left_over = 0
        """How many of its processes could not be killed."""
        self._cgroup = cgroup
        self._requests = requests
        self._deadline = deadline
        self._idle_timeout: float | None = spec["idle_timeout"]
        self._grace: float = spec["kill_grace"]
        self._spares_tree: bool = spec["ends_its_own"]  # while the command lives, it alone is asked to end
        self._main = 0
        self._status: int | None = None
        self._childless = False
        self._term_at: float | None = None  # when SIGTERM was sent to the tree
        self._kill_at: float | None = None  # when SIGKILL is, or was first, due

    @property
    def exit_code(self) -> int | None:
        """The exit status of the command itself; None if it is unknown, or a signal ended it."""
        return os.WEXITSTATUS(self._status) if self._status is not None and os.WIFEXITED(self._status) else None

    @property
    def signal(self) -> int | None:
        """The signal that ended the command itself; None if it is unknown, or none did."""
        return os.WTERMSIG(self._status) if self._status is not None and os.WIFSIGNALED(self._status) else None

    def run(self, start: Callable[[], int]) -> None:
        """Have it started by a function that returns its pid, and wait until no process of it is left."""
        try:
            self._main = start()
        except StartError as error:
            self.not_started = error
            self._childless = True
        while not self._childless:
            self._wait()
            self.reap()
            self._check_limits()
            self._end_tree()
        self.pipes.drain()

    def _wait(self) -> None:
        """Wait for output, a signal or the next deadline; read the output."""
        ready = select.poll()
        ready.register(self._requests.wakeup, select.POLLIN)
        for pipe in self.pipes.descriptors():
            ready.register(pipe, select.POLLIN)
        pause = min(max(0.0, self._next_deadline() - time.monotonic()), _LONGEST_PAUSE)
        for descriptor, _ in ready.poll(pause * 1000 + 1):
            if descriptor == self._requests.wakeup:
                self._requests.clear_wakeup()
            else:
                self.pipes.read(descriptor)

    def _next_deadline(self) -> float:
        if self._kill_at is not None:
            now = time.monotonic()
            return max(self._kill_at, now + _KILL_EVERY) if now >= self._kill_at else self._kill_at
        if self._idle_timeout is None:
            return self._deadline
        return min(self._deadline, self.pipes.last_output + self._idle_timeout)

    def reap(self) -> None:
        """Learn how the command and its orphans ended, as far as they have."""
        while True:
            try:
                pid, code = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                break
            if pid == self._main:
                self._status = code
        if self._status is not None:  # the command has ended, so end what it left behind
            self._begin_end(self._grace)
            if self._spares_tree:
                self._spares_tree = False
                tree.terminate(descendants())

    def _check_limits(self) -> None:
        """Start to end the command if somebody asked for it or a time limit has passed."""
        now = time.monotonic()
        asked = self._requests.take()
        if asked is not None:
            self._begin_end(0 if asked == "terminated" else self._grace, "cancelled")
        elif self._term_at is None and now >= self._deadline:
            self._begin_end(self._grace, "timeout")
        elif self._term_at is None and self._is_idle(now):
            self._begin_end(self._grace, "idle_timeout")

    def _is_idle(self, now: float) -> bool:
        return self._idle_timeout is not None and now >= self.pipes.last_output + self._idle_timeout

    def _begin_end(self, grace: float, reason: str | None = None) -> None:
        """Send SIGTERM and set the time of SIGKILL; a reason counts only while the command itself is alive."""
        now = time.monotonic()
        if reason is not None and self._status is None and self.reason == "exited":
            self.reason = reason
        if self._kill_at is not None and self._kill_at <= now + grace:
            return
        self._kill_at = now + grace
        if self._term_at is None and not self._childless:
            self._term_at = now
            if grace:
                tree.terminate([one for one in descendants() if one.pid == self._main or not self._spares_tree])

    def _end_tree(self) -> None:
        if self._childless or self._kill_at is None or time.monotonic() < self._kill_at:
            return
        kill_tree(self._cgroup)
        if time.monotonic() > self._kill_at + _GIVE_UP:
            self.left_over = len(descendants())
            self._childless = True


def kill_tree(cgroup: Cgroup) -> None:
    """Kill all that this process started, and all that is in the cgroup of its run."""
    cgroup.kill()
    tree.kill(descendants)


def descendants() -> list[tree.Process]:
    """Return the living processes that this process started, or that those started."""
    return tree.descendants(os.getpid())
