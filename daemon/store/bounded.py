"""End a query of a command on Ctrl-C, or after a time that no sound database takes.

Python runs its handlers of signals only between two calls of SQLite, and one call may be endless: a damaged file can
lead SQLite in circles. Only `sqlite3_interrupt` from another thread ends any call.
"""

import contextlib
import os
import select
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from daemon.errors import StoreError

_LEAST = 60.0  # seconds
_PER_SECOND = 1024**2  # bytes that the slowest disk reads
_REPEAT = 0.1  # seconds: an interrupt has no effect between two calls


@contextlib.contextmanager
def bounded(
    connection: sqlite3.Connection, path: Path, name: Path | None = None, least: float = _LEAST
) -> Iterator[None]:
    """Let Ctrl-C end queries of a connection during the block; raise StoreError if the block takes too long.

    It may take `least` seconds, plus what a slow disk takes to read a file as large as the database at `path`, which
    errors call `name` if it is a copy.
    """
    limit = least + _size(path) / _PER_SECOND
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    done, late = threading.Event(), threading.Event()
    watch = threading.Thread(target=_watch, args=(connection, reading, limit, done, late), daemon=True)
    watch.start()
    try:
        with _woken_by_signals(writing):
            yield
    except sqlite3.OperationalError:
        if late.is_set():
            raise StoreError(
                f"{name or path} is damaged: reading it takes more than {limit:.0f} seconds; restore a backup with "
                "`agentcron restore`"
            ) from None
        raise
    finally:
        done.set()
        os.write(writing, b"\0")
        watch.join()
        os.close(reading)
        os.close(writing)


def _watch(
    connection: sqlite3.Connection, reading: int, limit: float, done: threading.Event, late: threading.Event
) -> None:
    """Wait for Ctrl-C, the end of the time or that of the block; interrupt the connection until the block ends."""
    ready, _, _ = select.select([reading], [], [], limit)
    while ready and signal.SIGINT not in os.read(reading, 64) and not done.is_set():
        ready, _, _ = select.select([reading], [], [], limit)
    if not ready:
        late.set()
    while not done.wait(_REPEAT):
        with contextlib.suppress(sqlite3.ProgrammingError):  # the connection has been closed
            connection.interrupt()


@contextlib.contextmanager
def _woken_by_signals(descriptor: int) -> Iterator[None]:
    """Have signals that Python handles write their numbers to a pipe; only the main thread gets any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)


def _size(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0
