"""The supervisor of one run: starts its command, judges what that left, and records how it ended.

The nursery forks it with one end of a socketpair. It sends a hello, waits for the spec, which is also the permission to
start, and from then on depends on nobody: it enforces time limits and keeps the exit status even without a daemon.
SIGTERM means "end the process tree with grace", SIGUSR1 "end it at once".
"""

import fcntl
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from . import status
from .cgroup import Cgroup
from .channel import ENDED, LENGTH, STARTED, receive_spec, tell
from .command import Command, kill_tree
from .files import open_regular
from .listener import Listener
from .mask import Secrets
from .output import Output
from .output_pipes import OutputPipes
from .prctl import become_subreaper, set_process_name
from .requests import Requests
from .result_file import mask_result_file
from .start import start


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
    """One run: its command, output and report, what it is expected to leave, and its records."""

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
        self.requests: Requests
        self.output: Output
        self.listener = Listener(spec["result_format"])
        self.expect: dict[str, Any] | None = spec.get("expect")  # a daemon of an earlier version sends none
        if self.expect is not None:
            from . import judgement  # noqa: F401, PLC0415 - of this version, if an upgrade comes before it is needed
        self.work: Command | None = None
        self.left_over = 0
        self.missed: str | None = None
        self.is_cancelled = False
        self.complaint: str | None = None
        self.deadline: float = time.monotonic() + spec["timeout"]

    def run(self, channel: socket.socket) -> None:
        """Start the command, wait until no process of it is left, and record how it ended."""
        self.requests = Requests()
        self.output = Output(self.run_dir, self.spec["max_output"], self.secrets)
        exec_record = {"pid": os.getpid(), "at": time.time(), "key": self.spec["env"]["AGENTCRON_IDEMPOTENCY_KEY"]}
        self._record("exec", exec_record)
        tell(channel, STARTED)  # before the command can damage that record or kill this process
        self.work = work = self._command(self.listener)
        self._run(work, lambda: self._start(work.pipes, self.spec))
        if self.expect is not None:
            self._judge(work, self.expect)
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
        kill_tree(self.cgroup)
        if self.work is not None:
            self.work.reap()
        failure = {"reason": "supervisor_failed", "error": f"{type(error).__name__}: {error}"}
        self._record("exit", {**self._ending(), **failure})

    def _record(self, slot: str, record: dict[str, Any]) -> None:
        status.write_record(self.status_file, slot, record, self.key)

    def _command(self, listener: Listener | None = None) -> Command:
        pipes = OutputPipes(self.output, listener or Listener("none"))
        return Command(self.spec, pipes, self.cgroup, self.requests, self.deadline)

    def _run(self, command: Command, start: Callable[[], int]) -> None:
        command.run(start)
        self.left_over = command.left_over
        self.is_cancelled = command.reason == "cancelled"

    def _start(self, pipes: OutputPipes, spec: dict[str, Any]) -> int:
        """Start a command with its output in pipes; return its pid, or raise StartError."""
        write_end, error_end = pipes.open()
        try:
            with self.cgroup.joined():
                return start(spec, write_end, error_end)
        finally:
            for descriptor in {write_end, error_end}:
                os.close(descriptor)

    def _judge(self, work: Command, expect: dict[str, Any]) -> None:
        """Find out whether work that ended by itself left what it was expected to leave.

        Whoever asks for the end of the run before that is known cancels it.
        """
        from .judgement import Look  # noqa: PLC0415 - loaded already, for a run that needs it

        if work.not_started is not None or work.reason != "exited":
            return
        look, looking = Look(expect, self.run_dir, work.exit_code, self.listener, self.output), self._command()
        if self._is_judged(looking, look.start):
            self.missed = look.missed(looking)
        if look.is_worthwhile and self.missed is None and expect["command"]:
            self.missed = self._verify(expect["command"])

    def _verify(self, argv: list[str]) -> str | None:
        """Run the command that must succeed after the work; return how it failed, None if it did not."""
        from .judgement import failed  # noqa: PLC0415 - as above

        self.output.note(f"checking the work: {argv[0]}")
        heard = Listener("none")
        command, spec = self._command(heard), {**self.spec, "argv": argv, "stdin": os.devnull}
        if not self._is_judged(command, lambda: self._start(command.pipes, spec)):
            return None
        return failed(argv, command, heard.last_line(self.secrets))

    def _is_judged(self, command: Command, start: Callable[[], int]) -> bool:
        """Run what judges the work; return False if somebody asked for the end of the run before, or meanwhile."""
        self.is_cancelled = self.requests.came
        if not self.is_cancelled:
            self._run(command, start)
        return not self.is_cancelled

    def _save_report(self) -> None:
        self.listener.save(self.run_dir, self.secrets)

    def _mask_result(self) -> None:
        mask_result_file(self.run_dir, self.secrets)

    def _exit_record(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return {
            **self._ending(),
            "reason": self._reason(),
            "error": self._error(),
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
        if self.is_cancelled or self.work is None:
            return "cancelled"
        if self.work.not_started is None:
            return self.work.reason
        return "exec_impossible_now" if self.work.not_started.momentary else "exec_failed"

    def _error(self) -> str | None:
        """Return what kept the command from starting, or the expectation that its work missed."""
        if self.work is not None and self.work.not_started is not None:
            return str(self.work.not_started)
        return self.missed

    def _ending(self) -> dict[str, Any]:
        """Return how the command itself ended, as far as known."""
        return {
            "exit_code": self.work.exit_code if self.work else None,
            "signal": self.work.signal if self.work else None,
            "at": time.time(),
        }
