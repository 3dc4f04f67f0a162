"""The supervisor of one command run: starts it, enforces its time limits, and ends its whole process tree.

The nursery forks it with one end of a socketpair. It sends a hello, waits for the spec, which is also the permission to
start, and from then on depends on nobody: it enforces time limits and keeps the exit status even without a daemon.
SIGTERM means "end the process tree with grace", SIGUSR1 "end it at once".
"""

import fcntl
import os
import resource
import select
import signal
import socket
import time
from typing import Any

from . import status, tree
from .cgroup import Cgroup
from .channel import ENDED, LENGTH, STARTED, receive_spec, tell
from .files import open_regular
from .listener import Listener
from .mask import Secrets
from .output import Output
from .output_pipes import OutputPipes
from .prctl import become_subreaper, set_process_name
from .result_file import mask_result_file
from .start import StartError, start

_KILL_EVERY = 0.05  # seconds between two rounds of SIGKILL
_LONGEST_PAUSE = 3600.0  # seconds; poll(2) takes no more than 24 days
_GIVE_UP = 10.0  # seconds after the first SIGKILL; only a process stuck in the kernel survives that long


def supervise(channel: socket.socket) -> None:
    """Own one run; return when it has ended, or when no spec arrived."""
    _become_supervisor()
    channel.sendall(LENGTH.pack(os.getpid()))
    spec = receive_spec(channel)
    if spec is None:
        return
    supervisor = Supervisor(spec)
    try:
        supervisor.run(channel)
    except Exception as error:  # noqa: BLE001 - whatever failed, no process of the run may stay behind
        supervisor.give_up(error)


def _become_supervisor() -> None:
    # a request to end that arrives before the handlers are installed must not be lost
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    if null > 2:  # noqa: PLR2004 - the nursery's standard input may have been closed already
        os.close(null)
    set_process_name("agentcron-run")
    become_subreaper()


def _locked(workspace: str | None) -> int | None:
    """Lock a workspace for the life of this process; the command does not inherit the descriptor."""
    if workspace is None:
        return None
    folder = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder


class Supervisor:
    """One run: its command, time limits and output, and the end of its process tree."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.run_dir: str = spec["run_dir"]
        self.status_file = open_regular(os.path.join(self.run_dir, status.NAME), os.O_RDWR)
        fcntl.flock(self.status_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        key: str | None = spec.get("record_key")  # a daemon of an earlier version sends none
        self.key = bytes.fromhex(key) if key is not None else None
        self.workspace = _locked(spec.get("lock"))
        self.cgroup = Cgroup(spec.get("cgroup"))
        self.secrets = Secrets(spec["hidden"])
        self.output: Output
        self.pipes: OutputPipes
        self.listener = Listener(spec["result_format"])
        self.main = 0
        self.main_status: int | None = None
        self.reason = "exited"
        self.not_started: StartError | None = None
        self.childless = False
        self.left_over = 0
        self.spares_tree: bool = spec["ends_its_own"]  # while the command lives, it alone is asked to end
        self.complaint: str | None = None
        self.deadline: float = time.monotonic() + spec["timeout"]
        self.term_at: float | None = None  # when SIGTERM was sent to the tree
        self.kill_at: float | None = None  # when SIGKILL is, or was first, due
        self.asked: str | None = None

    def run(self, channel: socket.socket) -> None:
        """Start the command, wait until no process of it is left, and record how it ended."""
        self._install_signals()
        self.output = Output(self.run_dir, self.spec["max_output"], self.secrets)
        self.pipes = OutputPipes(self.output, self.listener)
        exec_record = {"pid": os.getpid(), "at": time.time(), "key": self.spec["env"]["AGENTCRON_IDEMPOTENCY_KEY"]}
        self._record("exec", exec_record)
        tell(channel, STARTED)  # before the command can damage that record or kill this process
        self._start()
        while not self.childless:
            self._wait()
            self._reap()
            self._check_limits()
            self._end_tree()
        self.pipes.drain()
        self.output.finish()
        for finish in (self._save_report, self._mask_result):
            try:
                finish()
            except OSError as error:  # a full disk: the exit status matters more than the agent's report
                self.complaint = error.strerror
        self._record("exit", self._exit_record())
        self.cgroup.remove()
        if not self.left_over:
            tell(channel, ENDED)

    def give_up(self, error: Exception) -> None:
        """Kill the tree after an error in the supervisor itself, and record that with what is known of the command."""
        self._kill_tree()
        self._reap()
        failure = {"reason": "supervisor_failed", "error": f"{type(error).__name__}: {error}"}
        self._record("exit", {**self._ending(), **failure})

    def _record(self, slot: str, record: dict[str, Any]) -> None:
        status.write_record(self.status_file, slot, record, self.key)

    def _install_signals(self) -> None:
        self.wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._ask("cancelled"))
        signal.signal(signal.SIGUSR1, lambda *_: self._ask("terminated"))
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def _ask(self, how: str) -> None:
        if self.asked != "terminated":
            self.asked = how

    def _start(self) -> None:
        write_end, error_end = self.pipes.open()
        try:
            with self.cgroup.joined():
                self.main = start(self.spec, write_end, error_end)
        except StartError as error:
            self.not_started = error
            self.childless = True
        for descriptor in {write_end, error_end}:
            os.close(descriptor)

    def _wait(self) -> None:
        """Wait for output, a signal or the next deadline; read the output."""
        ready = select.poll()
        ready.register(self.wakeup, select.POLLIN)
        for pipe in self.pipes.descriptors():
            ready.register(pipe, select.POLLIN)
        pause = min(max(0.0, self._next_deadline() - time.monotonic()), _LONGEST_PAUSE)
        for descriptor, _ in ready.poll(pause * 1000 + 1):
            if descriptor == self.wakeup:
                os.read(self.wakeup, 4096)
            else:
                self.pipes.read(descriptor)

    def _next_deadline(self) -> float:
        if self.kill_at is not None:
            now = time.monotonic()
            return max(self.kill_at, now + _KILL_EVERY) if now >= self.kill_at else self.kill_at
        idle: float | None = self.spec["idle_timeout"]
        return self.deadline if idle is None else min(self.deadline, self.pipes.last_output + idle)

    def _reap(self) -> None:
        while True:
            try:
                pid, code = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self.childless = True
                return
            if pid == 0:
                break
            if pid == self.main:
                self.main_status = code
        if self.main_status is not None:  # the command has ended, so end what it left behind
            self._begin_end(self.spec["kill_grace"])
            if self.spares_tree:
                self.spares_tree = False
                tree.terminate(self._tree())

    def _check_limits(self) -> None:
        """Start to end the run if somebody asked for it or a time limit has passed."""
        now = time.monotonic()
        asked, self.asked = self.asked, None
        if asked == "terminated":
            self._begin_end(0, "cancelled")
        elif asked == "cancelled":
            self._begin_end(self.spec["kill_grace"], "cancelled")
        elif self.term_at is None and now >= self.deadline:
            self._begin_end(self.spec["kill_grace"], "timeout")
        elif self.term_at is None and self._is_idle(now):
            self._begin_end(self.spec["kill_grace"], "idle_timeout")

    def _is_idle(self, now: float) -> bool:
        idle: float | None = self.spec["idle_timeout"]
        return idle is not None and now >= self.pipes.last_output + idle

    def _begin_end(self, grace: float, reason: str | None = None) -> None:
        """Send SIGTERM and set the time of SIGKILL; a reason counts only while the command itself is alive."""
        now = time.monotonic()
        if reason is not None and self.main_status is None and self.reason == "exited":
            self.reason = reason
        if self.kill_at is not None and self.kill_at <= now + grace:
            return
        self.kill_at = now + grace
        if self.term_at is None and not self.childless:
            self.term_at = now
            if grace:
                tree.terminate([one for one in self._tree() if one.pid == self.main or not self.spares_tree])

    def _end_tree(self) -> None:
        if self.childless or self.kill_at is None or time.monotonic() < self.kill_at:
            return
        self._kill_tree()
        if time.monotonic() > self.kill_at + _GIVE_UP:
            self.left_over = len(self._tree())
            self.childless = True

    def _kill_tree(self) -> None:
        self.cgroup.kill()
        tree.kill(self._tree)

    def _tree(self) -> list[tree.Process]:
        return tree.descendants(os.getpid())

    def _save_report(self) -> None:
        self.listener.save(self.run_dir, self.secrets)

    def _mask_result(self) -> None:
        mask_result_file(self.run_dir, self.secrets)

    def _exit_record(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            **self._ending(),
            "reason": self._reason(),
            "error": str(self.not_started) if self.not_started else None,
            "output_bytes": self.output.total,
            "output_dropped": self.output.dropped,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "memory_peak": usage.ru_maxrss * 1024,
            **self.cgroup.usage(),
            "left_over": self.left_over,
            "complaint": self.complaint,
            "last_line": self.listener.last_line(self.secrets),
        }

    def _reason(self) -> str:
        if self.not_started is None:
            return self.reason
        return "exec_impossible_now" if self.not_started.momentary else "exec_failed"

    def _ending(self) -> dict[str, Any]:
        """Return how the command itself ended, as far as known."""
        code = self.main_status
        return {
            "exit_code": os.WEXITSTATUS(code) if code is not None and os.WIFEXITED(code) else None,
            "signal": os.WTERMSIG(code) if code is not None and os.WIFSIGNALED(code) else None,
            "at": time.time(),
        }
