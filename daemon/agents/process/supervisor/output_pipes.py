"""The pipes that a command writes its output to, and whose content goes to the output of the run."""

import contextlib
import fcntl
import os
import time
from collections.abc import Collection

from .listener import Listener
from .output import Output

_CHUNK = 64 * 1024
_MOST_AT_ONCE = 16  # chunks
_MOST_DRAINED = 64  # chunks read after the end; a process outside the tree may still hold the pipe
_CAPACITY = 1024 * 1024  # bytes; some programs do not wait at their end for what a pipe cannot hold yet


class OutputPipes:
    """The read ends of the pipes: one, or two if the standard error is to be heard by itself."""

    def __init__(self, output: Output, listener: Listener) -> None:
        self._output = output
        self._listener = listener
        self._pipes: dict[int, bool] = {}  # descriptor: whether it is the standard error alone
        self.last_output = time.monotonic()
        """When the command last wrote something, in monotonic seconds; before that, when it was started."""

    def open(self) -> tuple[int, int]:
        """Open the pipes; return the ends for the standard output and the standard error, which may be the same."""
        write_end = error_end = self._open_pipe(is_error=False)
        if self._listener.tells_errors_apart:
            error_end = self._open_pipe(is_error=True)
        return write_end, error_end

    def _open_pipe(self, *, is_error: bool) -> int:
        """Open a pipe for output; return the end that the command writes to."""
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        if not is_error:  # which says little, and what a user may have in pipes is limited (pipe(7))
            with contextlib.suppress(OSError):  # it is used up: this pipe stays as it is
                fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _CAPACITY)
        os.set_blocking(write_end, True)
        self._pipes[read_end] = is_error
        return write_end

    def descriptors(self) -> Collection[int]:
        """Return the pipes that may still have output."""
        return self._pipes.keys()

    def read(self, pipe: int, most: int = _MOST_AT_ONCE) -> None:
        """Read at most `most` chunks; close the pipe if nobody can write to it any more."""
        for _ in range(most):
            try:
                chunk = os.read(pipe, _CHUNK)
            except BlockingIOError:
                return
            if not chunk:
                self._end(pipe)
                return
            self.last_output = time.monotonic()
            self._listener.hear(self._output.write(pipe, chunk), is_error=self._pipes[pipe])

    def _end(self, pipe: int) -> None:
        self._listener.hear(self._output.end(pipe), is_error=self._pipes[pipe])
        os.close(pipe)
        del self._pipes[pipe]

    def drain(self) -> None:
        """Read what is left after the end of the command."""
        for pipe in list(self._pipes):
            self.read(pipe, _MOST_DRAINED)
        for pipe in list(self._pipes):  # those that somebody outside the tree still holds
            self._end(pipe)
