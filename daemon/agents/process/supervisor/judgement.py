"""Judge whether the work of a run left what it was expected to leave: sentences about what it missed.

An agent decides what is looked at, and the config by which regular expression, which may never come to an end. So a
process of its own does that, with a limit of its CPU time, and it is ended as a command is.
"""

import os
import resource
import shlex
import signal
from typing import Any

from .command import Command
from .expectations import counts_as_completed, has_answer, line_with, missing_artifact, stated_in
from .listener import Listener
from .output import Output
from .requests import forget_in_child
from .start import StartError

_MOST_CPU = 10  # seconds
_LONGEST_TEXT = 4096  # bytes; a pipe holds more, so that the process never waits for its supervisor
_LONGEST_NAME = 100  # characters of a command
_NOT_WORTHWHILE = 3  # exit status of the process
_LIMITS = {
    "timeout": "the timeout of the run passed before it had ended",
    "idle_timeout": "it had no output for longer than idle_timeout",
    "cancelled": "it was cancelled",
}


class Look:
    """A look at what the work left; `start` is for `Command.run`."""

    def __init__(
        self, expect: dict[str, Any], run_dir: str, exit_code: int | None, listener: Listener, output: Output
    ) -> None:
        self._expect = expect
        self._run_dir = run_dir
        self._exit_code = exit_code
        self._listener = listener
        self._output = output
        self._result = -1
        self.is_worthwhile = False
        """Whether the work counts as completed so far, once the look has ended; what failed is not judged."""

    def start(self) -> int:
        """Fork a process that looks; return its pid, or raise StartError."""
        try:
            self._result, write_end = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            raise StartError(f"cannot open a pipe: {error.strerror}", momentary=True) from None
        try:
            child = os.fork()
        except OSError as error:
            os.close(write_end)
            raise StartError(f"cannot fork: {error.strerror}", momentary=True) from None
        if child == 0:
            self._look_and_exit(write_end)
        os.close(write_end)
        return child

    def _look_and_exit(self, write_end: int) -> None:
        code = 1
        try:
            forget_in_child()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (_MOST_CPU, _MOST_CPU + 1))
            stated = stated_in(self._run_dir)
            if counts_as_completed(stated, self._exit_code):
                os.write(write_end, self._sentence(stated).encode(errors="replace")[:_LONGEST_TEXT])
                code = 0
            else:
                code = _NOT_WORTHWHILE
        finally:
            os._exit(code)

    def _sentence(self, stated: dict[str, Any]) -> str:
        try:
            return self._miss(stated) or ""
        except OSError as error:  # the agent replaced the log of its output
            return f"what was expected could not be checked: {error.strerror}"

    def _miss(self, stated: dict[str, Any]) -> str | None:
        """Return the first expectation that the work missed."""
        answer, pattern = self._expect["answer"], self._expect["not_output"]
        if answer and not has_answer(answer, stated, self._listener.answer(), self._output.kept()):
            return "expected an answer: there is none"
        missing = missing_artifact(os.path.join(self._run_dir, "artifacts"), self._expect["artifacts"])
        if missing is not None:
            return f"expected the artifact {missing}"
        line = line_with(pattern, self._output.kept()) if pattern else None
        return None if line is None else f"unexpected output (not_output): {line}"

    def missed(self, looking: Command) -> str | None:
        """Return what was missed, once the process has ended; what could not be looked at is missed, too."""
        text = self._read_result()
        if looking.exit_code == 0:
            self.is_worthwhile = True
            return text or None
        if looking.exit_code == _NOT_WORTHWHILE:
            return None
        if looking.signal == signal.SIGXCPU:
            simpler = "; simplify not_output" if self._expect["not_output"] else ""
            return f"what was expected could not be checked within {_MOST_CPU} s of CPU time{simpler}"
        return f"what was expected could not be checked: {_why(looking)}"

    def _read_result(self) -> str:
        if self._result < 0:
            return ""
        try:
            return os.read(self._result, _LONGEST_TEXT).decode(errors="replace")
        finally:
            os.close(self._result)


def failed(argv: list[str], command: Command, last_line: str | None) -> str | None:
    """Return how a command failed that was expected to succeed, as a sentence; None if it succeeded."""
    if command.exit_code == 0 and command.reason == "exited":
        return None
    last = f": {last_line}" if last_line else ""
    return f"expected {shlex.join(argv)[:_LONGEST_NAME]} to succeed: {_why(command)}{last}"


def _why(command: Command) -> str:
    """Return why a command did not succeed."""
    if command.not_started is not None:
        return str(command.not_started)
    if command.reason != "exited":
        return _LIMITS[command.reason]
    if command.signal is not None:
        return f"ended by signal {command.signal}"
    return f"exit status {command.exit_code}"
