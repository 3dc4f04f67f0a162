"""The agent's process and the lines to and from it; a side that does not read never stops the other."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from typing import Any

_LONGEST_LINE = 16 * 1024 * 1024
_MOST_UNSENT = 64 * 1024 * 1024  # an input may be long
_CHUNK = 64 * 1024
_LONGEST_PAUSE = 3600.0  # seconds
_LAST_MOMENT = 2.0  # seconds for an agent to end that has closed its standard output
_SHOWN = 2000  # characters of a line that is no message


class AgentGoneError(Exception):
    """There is nobody to talk to any more; the text says why."""


class AgentPipes:
    """A running agent."""

    def __init__(self, command: list[str]) -> None:
        """Start the agent; raise OSError."""
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._process.stdin is None or self._process.stdout is None:
            raise OSError("no pipes")
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._unsent = bytearray()
        self._unread = bytearray()
        self._searched = 0  # bytes of the unread ones that hold no end of a line
        self._woken, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for descriptor in (self._to, self._from):
            os.set_blocking(descriptor, False)

    def send(self, message: dict[str, Any]) -> None:
        """Have a message sent as fast as the agent takes it."""
        self._unsent += json.dumps(message).encode() + b"\n"
        if len(self._unsent) > _MOST_UNSENT:
            raise AgentGoneError("the agent asks without end and reads no answers")
        self._send_some()

    def receive(self, awaited: str, deadline: float | None) -> dict[str, Any] | str | None:
        """Return the agent's next message, a line that is none as text, or None after a signal.

        Raise AgentGoneError if the agent has ended, writes without end, or lets the deadline pass (monotonic seconds).
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
        """Return how the agent ended, None while it lives."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code  # as a shell says it

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
        """Wait for something to happen; return False once the agent has closed its standard output."""
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
        except OSError:  # it reads no more; that it has ended is seen at its output
            self._unsent.clear()

    def _ending(self) -> str:
        try:
            code = self._process.wait(_LAST_MOMENT)
        except subprocess.TimeoutExpired:
            return "the agent closed its standard output"
        how = f"by signal {-code}" if code < 0 else f"with exit status {code}"
        return f"the agent ended {how}"


def _message(line: bytes) -> dict[str, Any] | str:
    """Return a line as a message, or as text to show if it is none."""
    try:
        message = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        message = None
    if isinstance(message, dict):
        return message
    return line[:_SHOWN].decode(errors="replace")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
