"""The agent's process and its pipes; neither side blocks because the other does not read."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from typing import Any

from ..supervisor.untrusted_json import UntrustedJsonError, parse

_LONGEST_LINE = 16 * 1024 * 1024
_MOST_UNSENT = 64 * 1024 * 1024  # leaves room for a long input
_CHUNK = 64 * 1024
_LONGEST_PAUSE = 3600.0  # seconds
_END_WAIT = 2.0  # seconds that an agent has to end after it closed its standard output


class AgentGoneError(Exception):
    """The conversation with the agent is over; the text says why."""


class AgentPipes:
    """A running agent."""

    def __init__(self, command: list[str]) -> None:
        """Start the agent; raise OSError if it cannot be started."""
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._process.stdin is None or self._process.stdout is None:
            raise OSError("no pipes")
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._unsent = bytearray()
        self._unread = bytearray()
        self._searched = 0  # leading unread bytes that are known to hold no line break
        self._woken, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for descriptor in (self._to, self._from):
            os.set_blocking(descriptor, False)

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message, which is sent as fast as the agent reads; raise AgentGoneError if too much is queued."""
        self._unsent += json.dumps(message).encode() + b"\n"
        if len(self._unsent) > _MOST_UNSENT:
            raise AgentGoneError("the agent keeps sending requests but does not read the answers")
        self._send_some()

    def receive(self, awaited: str, deadline: float | None) -> dict[str, Any] | str | None:
        """Return the agent's next message, a line that is not a message as text, or None after a signal.

        Raise AgentGoneError if the agent has ended, sends an endless line, or misses the deadline (monotonic seconds).
        """
        while (line := self._next_line()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise AgentGoneError("the agent did not end its turn after session/cancel")
            if not self._wait(deadline):
                raise AgentGoneError(f"{self._ending()} before it answered {awaited}")
            if self._was_woken():
                return None
        return _message(line)

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
        if self._unsent:
            ready.register(self._to, select.POLLOUT)
        pause = _LONGEST_PAUSE if deadline is None else max(0.0, deadline - time.monotonic())
        for descriptor, _ in ready.poll(min(pause, _LONGEST_PAUSE) * 1000 + 1):
            if descriptor == self._to:
                self._send_some()
            elif descriptor == self._from:
                with contextlib.suppress(BlockingIOError):
                    chunk = os.read(self._from, _CHUNK)
                    self._unread += chunk
                    if not chunk:
                        return False
        return True

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


def _message(line: bytes) -> dict[str, Any] | str:
    """Return a line as a message, or as text to show if it is not one."""
    try:
        message = parse(line)
    except UntrustedJsonError:
        message = None
    return message if isinstance(message, dict) else line.decode(errors="replace")
