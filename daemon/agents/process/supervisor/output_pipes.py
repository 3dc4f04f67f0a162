"""The pipes that a command writes its output to, and whose content goes to the output of the run."""

import os
import time
from collections.abc import Collection

from .output import Output, Tail

_CHUNK = 64 * 1024
_MOST_AT_ONCE = 16  # chunks
_MOST_DRAINED = 64  # chunks read after the end; a process outside the tree may still hold the pipe


class OutputPipes:
    """The read ends of the pipes: one, or two if the standard output is also kept alone."""

    def __init__(self, output: Output, standard_output: Tail) -> None:
        self._output = output
        self._standard_output = standard_output
        self._pipes: dict[int, bool] = {}  # descriptor: whether it is the standard output alone
        self.last_output = time.monotonic()
        """When the command last wrote something, in monotonic seconds; before that, when it was started."""

    def open(self) -> tuple[int, int]:
        """Open the pipes; return the ends for the standard output and the standard error, which may be the same."""
        write_end = error_end = self._open_pipe(alone=self._standard_output.size > 0)
        if self._standard_output.size:
            error_end = self._open_pipe(alone=False)
        return write_end, error_end

    def _open_pipe(self, *, alone: bool) -> int:
        """Open a pipe for output; return the end that the command writes to."""
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(write_end, True)
        self._pipes[read_end] = alone
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
                os.close(pipe)
                del self._pipes[pipe]
                return
            self.last_output = time.monotonic()
            shown = self._output.write(pipe, chunk)
            if self._pipes[pipe]:
                self._standard_output.write(shown)

    def drain(self) -> None:
        """Read what is left after the end of the command."""
        for pipe in list(self._pipes):
            self.read(pipe, _MOST_DRAINED)
