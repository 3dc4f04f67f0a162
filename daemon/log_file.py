"""The destination of log lines: a file or standard error, which never holds up whoever writes a line."""

import contextlib
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

_CHECK_EVERY = 1.0  # seconds between two checks whether the file was moved away
_MOST_WAITING = 1 << 20  # bytes
_LAST_CHANCE = 2.0  # seconds at the end of the process for lines that wait
_STANDARD_ERROR = 2


class LogFile:
    """The destination of lines: a file, reopened after it was moved away, or standard error.

    Whatever does not accept a line at once, such as a pipe whose reader has stopped, gets it from a thread later; up
    to 1 MiB of lines wait. Beyond that, and where a line cannot be written at all (disk full, closed pipe), lines are
    lost and counted. `on_loss` is called with their number and the reason, once lines are accepted again.
    """

    def __init__(self, path: Path | None, on_loss: Callable[[int, str], object]) -> None:
        self.lost = 0
        """How many lines have been lost since the start, without reports of losses; it never decreases."""
        self._path = path
        self._on_loss = on_loss
        self._reported = 0
        self._reporter: int | None = None  # the thread that reports losses at the moment
        self._report_was_lost = False
        self._reason = ""
        self._checked_at = time.monotonic()
        self._opened = _STANDARD_ERROR if path is None else _open(path)
        self._target = _Target(self._opened)
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes in `_waiting`
        self._writer: threading.Thread | None = None
        self._changed = threading.Condition()  # with a reentrant lock: a destructor may log while a line is written

    def write(self, text: str) -> None:
        """Write one line, or leave it to the thread; never wait."""
        data = text.encode(errors="backslashreplace")
        with self._changed:
            was_written = self._write(data)
        if was_written:
            self._report_losses()

    def flush(self) -> None:
        """Do nothing: what can be written at once is never buffered."""

    def reopen(self) -> None:
        """Reopen the file after log rotation; keep the old one if that fails."""
        with self._changed:
            if self._path is None:
                return
            with contextlib.suppress(OSError):  # a moved folder, no free inodes: better the old file than none
                fresh = _open(self._path)
                os.dup2(fresh, self._opened, inheritable=False)
                os.close(fresh)
                self._target = _Target(self._opened)

    def is_terminal(self) -> bool:
        """Return whether the destination is a terminal."""
        return os.isatty(self._opened)

    def trouble(self) -> str | None:
        """Return why lines have been lost since the last one that was written, None if none has."""
        with self._changed:
            lost = self.lost - self._reported
            return f"{self._reason}; log lines lost: {lost}" if lost else None

    def close(self) -> None:
        """Give lines that wait a last chance, for at most 2 s; afterwards nothing waits for standard error any more."""
        with self._changed:
            if self._waiting and not self._changed.wait_for(lambda: not self._waiting, _LAST_CHANCE):
                nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
                os.dup2(nowhere, _STANDARD_ERROR)
                os.close(nowhere)

    def _write(self, data: bytes) -> bool:
        """Write one line or enqueue it; return whether it has been written."""
        if self._waiting or self._target.may_block:
            self._enqueue(data)
            return False
        self._follow_path()
        try:
            while data:
                data = data[self._target.write(data) :]
        except BlockingIOError:
            self._enqueue(data)
        except OSError as error:
            self._lose(_reason(error))
        return not data

    def _enqueue(self, data: bytes) -> None:
        if self._size + len(data) > _MOST_WAITING:
            self._lose(f"the reader of {self._path or 'standard error'} has stopped reading")
            return
        self._waiting.append(data)
        self._size += len(data)
        if self._writer is None:
            with contextlib.suppress(RuntimeError):  # no room for a thread now: the next line makes it
                writer = threading.Thread(target=self._write_waiting, name="log", daemon=True)
                writer.start()
                self._writer = writer
        self._changed.notify_all()

    def _lose(self, reason: str) -> None:
        self._reason = reason
        if self._reporter == threading.get_ident():
            self._report_was_lost = True
        else:
            self.lost += 1

    def _report_losses(self) -> None:
        """Report lost lines after one that was written, without the lock: the report takes locks of its own."""
        with self._changed:
            lines, reason = self.lost - self._reported, self._reason
            if lines == 0 or self._reporter is not None:
                return
            self._reporter = threading.get_ident()
        try:
            self._on_loss(lines, reason)
        finally:
            with self._changed:
                self._reported += 0 if self._report_was_lost else lines
                self._reporter, self._report_was_lost = None, False

    def _follow_path(self) -> None:
        if self._path is not None and time.monotonic() - self._checked_at > _CHECK_EVERY:
            self._checked_at = time.monotonic()
            if self._was_moved(self._path):
                self.reopen()

    def _was_moved(self, path: Path) -> bool:
        try:
            there = path.stat()
        except OSError:
            return True
        ours = os.fstat(self._opened)
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _write_waiting(self) -> None:
        """Write what waits, for as long as the process lives."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data, target = self._waiting[0], self._target
            written, reason = _write_later(target, data)
            was_written = reason is None and written == len(data)
            with self._changed:
                self._follow_path()
                self._size -= written
                self._waiting[0] = data[written:]
                if reason is not None:
                    self._lose(reason)
                    self._drop_first()
                elif was_written:
                    self._drop_first()
                if not self._waiting:
                    self._changed.notify_all()
            if was_written:
                self._report_losses()

    def _drop_first(self) -> None:
        self._size -= len(self._waiting.popleft())


class _Target:
    """An open descriptor, and how to write to it without waiting, if that is possible."""

    def __init__(self, descriptor: int) -> None:
        try:
            kind = os.fstat(descriptor).st_mode
        except OSError:  # closed by whoever started the process: each line is lost
            kind = stat.S_IFREG
        self.may_block = False
        self.descriptor = descriptor
        if stat.S_ISSOCK(kind):
            channel = socket.socket(fileno=os.dup(descriptor))
            self.write: Callable[[bytes], int] = lambda data: channel.send(data, socket.MSG_DONTWAIT)
            return
        if not stat.S_ISREG(kind) and os.get_blocking(descriptor):
            try:
                self.descriptor = unblocked(descriptor)
            except OSError:  # a terminal or a pipe of another user
                self.may_block = True
        self.write = lambda data: os.write(self.descriptor, data)


def unblocked(descriptor: int) -> int:
    """Open what stands behind a descriptor again, so that writes fail instead of waiting; raise OSError.

    The flag O_NONBLOCK of the descriptor itself is shared with every process that inherited it.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    return os.open(f"/proc/self/fd/{descriptor}", flags)


@contextlib.contextmanager
def standard_error_of_child() -> Iterator[int | None]:
    """Yield what a helper process gets as standard error, so that it never waits for its reader; None: ours."""
    try:
        is_file = stat.S_ISREG(os.fstat(_STANDARD_ERROR).st_mode)  # which shares our position in it
        descriptor = None if is_file else unblocked(_STANDARD_ERROR)
    except OSError:  # a socket, closed, or of another user
        descriptor = None
    if descriptor is None:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_later(target: _Target, data: bytes) -> tuple[int, str | None]:
    """Write a part of some data, waiting up to a second; return its length, and why the rest cannot be written."""
    try:
        if not target.may_block:
            poll = select.poll()
            poll.register(target.descriptor, select.POLLOUT)
            if not poll.poll(_CHECK_EVERY * 1000):
                return 0, None
        return target.write(data), None
    except BlockingIOError:
        return 0, None
    except OSError as error:
        return 0, _reason(error)


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a pipe without a reader: an error
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640)
        os.fchmod(descriptor, 0o640)  # whatever the daemon's umask
    except FileExistsError:
        descriptor = os.open(path, flags)
    return descriptor
