"""The agent's process and its pipes; neither side blocks because the other does not read."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from typing import Any, NoReturn

from ..supervisor.untrusted_json import UntrustedJsonError, parse
from .failures import CRASHED, SessionError

_LONGEST_LINE = 16 * 1024 * 1024
_MOST_UNSENT = 64 * 1024 * 1024  # leaves room for a long input
_CHUNK = 64 * 1024
_LONGEST_PAUSE = 3600.0  # seconds
_MOST_DRAINED = 64  # chunks of the standard error that are read after the agent's end
_LONGEST_LAST_LINE = 500  # bytes
_ESCAPES = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x1f\x7f]+")  # colours and other control characters
_END_WAIT = 2.0  # seconds that an agent has to end after it closed its standard output


class AgentGoneError(SessionError):
    """The agent has ended, or is not to be waited for."""


class AgentPipes:
    """A running agent."""

    def __init__(self, command: list[str]) -> None:
        """Start the agent; raise OSError if it cannot be started."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        if self._process.stdin is None or self._process.stdout is None or self._process.stderr is None:
            raise OSError("no pipes")
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._errors: int | None = self._process.stderr.fileno()
        self._printed = bytearray()  # on the standard error, and not yet given to the caller
        self._last_printed = b""
        self._end: str | None = None
        self._unsent = bytearray()
        self._unread = bytearray()
        self._searched = 0  # leading unread bytes that are known to hold no line break
        self._woken, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for descriptor in (self._to, self._from, self._errors):
            os.set_blocking(descriptor, False)

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message, which is sent as fast as the agent reads; raise AgentGoneError if too much is queued."""
        self._unsent += json.dumps(message).encode() + b"\n"
        if len(self._unsent) > _MOST_UNSENT:
            raise AgentGoneError("the agent keeps sending requests but does not read the answers")
        self._send_some()

    def receive(self, awaited: str, deadline: float | None) -> dict[str, Any] | str | bytes | None:
        """Return the agent's next message, or None after a signal.

        A line that is not a message is returned as text, and what the agent printed on its standard error as bytes.
        Raise AgentGoneError if the agent has ended, sends an endless line, or misses the deadline (monotonic seconds).
        """
        while True:
            is_late = deadline is not None and time.monotonic() >= deadline
            if self._printed and not is_late:
                return self.take_printed()
            line = self._next_line()
            if line is not None:
                return _message(line)
            if is_late:
                raise AgentGoneError("the agent did not end its turn after session/cancel")
            if self._end is not None:
                kind = CRASHED if (self._process.poll() or 0) < 0 else None
                raise AgentGoneError(f"{self._end} before it answered {awaited}{self._last_line()}", kind)
            if not self._wait(deadline):
                self._end = self._ending()
                self._drain()
            elif self._was_woken():
                return None

    def take_printed(self) -> bytes:
        """Return what the agent printed on its standard error since the last call, as far as it was read."""
        printed, self._printed = bytes(self._printed), bytearray()
        return printed

    def leave_reader(self) -> None:
        """Leave a process behind that passes on what is printed on the standard error until nobody can print there.

        The agent is ended after the client: without a reader, whoever prints something while it cleans up is killed.
        """
        with contextlib.suppress(OSError):  # no process can be started: then it is so
            if self._errors is None or os.fork():
                return
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for descriptor in (self._to, self._from):  # the agent should notice that the client has gone
                os.close(descriptor)
            _pass_on(self._errors)

    def exit_status(self) -> int | None:
        """Return the agent's exit status as a shell reports it, None while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code  # as a shell reports it

    def _next_line(self) -> bytes | None:
        end = self._unread.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._unread)
            if self._searched > _LONGEST_LINE:
                raise AgentGoneError("the agent sent a line of more than 16 MiB")
            return None
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        self._searched = 0
        return line

    def _wait(self, deadline: float | None) -> bool:
        """Wait for a signal or for a pipe to be ready; return False once the agent has closed its standard output."""
        ready = select.poll()
        ready.register(self._woken, select.POLLIN)
        ready.register(self._from, select.POLLIN)
        if self._errors is not None:
            ready.register(self._errors, select.POLLIN)
        if self._unsent:
            ready.register(self._to, select.POLLOUT)
        pause = _LONGEST_PAUSE if deadline is None else max(0.0, deadline - time.monotonic())
        for descriptor, _ in ready.poll(min(pause, _LONGEST_PAUSE) * 1000 + 1):
            if descriptor == self._to:
                self._send_some()
            elif descriptor == self._errors:
                self._read_errors()
            elif descriptor == self._from:
                with contextlib.suppress(BlockingIOError):
                    chunk = os.read(self._from, _CHUNK)
                    self._unread += chunk
                    if not chunk:
                        return False
        return True

    def _read_errors(self) -> bool:
        """Read a chunk of the standard error; return False if there is none at the moment, or never again."""
        if self._errors is None:
            return False
        try:
            chunk = os.read(self._errors, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._errors = None
        self._printed += chunk
        self._last_printed = (self._last_printed + chunk)[-_CHUNK:]
        return bool(chunk)

    def _drain(self) -> None:
        for _ in range(_MOST_DRAINED):
            if not self._read_errors():
                return

    def _last_line(self) -> str:
        """Return the last line with text on the standard error, after a colon; empty without one."""
        for line in reversed(self._last_printed.split(b"\n")):
            text = _ESCAPES.sub(b" ", line).strip()[:_LONGEST_LAST_LINE]
            if text:
                return f": {text.decode(errors='replace')}"
        return ""

    def _was_woken(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._woken, _CHUNK))
        return False

    def _send_some(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._to, self._unsent[:_CHUNK])]
        except BlockingIOError:
            return
        except OSError:  # it does not read any more; its end shows on its output pipe
            self._unsent.clear()

    def _ending(self) -> str:
        try:
            code = self._process.wait(_END_WAIT)
        except subprocess.TimeoutExpired:
            return "the agent closed its standard output"
        how = f"by signal {-code}" if code < 0 else f"with exit status {code}"
        return f"the agent ended {how}"


def _pass_on(errors: int) -> NoReturn:
    try:
        os.set_blocking(errors, True)
        while chunk := os.read(errors, _CHUNK):
            os.write(sys.stdout.fileno(), chunk)
    finally:
        os._exit(0)


def _message(line: bytes) -> dict[str, Any] | str:
    """Return a line as a message, or as text to show if it is not one."""
    try:
        message = parse(line)
    except UntrustedJsonError:
        message = None
    return message if isinstance(message, dict) else line.decode(errors="replace")
