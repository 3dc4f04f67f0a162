"""The bounded output of a run: secrets masked, first and last part kept, the middle counted and dropped.

The first part goes straight to `output.log`. The rest goes to a ring buffer in the file `output.tail`, whose header
holds the write position, so that it can be appended to the log even after the supervisor was killed.
"""

import errno
import os
import struct
from collections.abc import Iterator

from .files import open_anew, open_regular
from .mask import Mask, Secrets

LOG = "output.log"
TAIL = "output.tail"
_HEADER = struct.Struct("<QQQ")  # length of the first part, size of the ring, bytes ever written to the ring
_COPY = 1 << 20
_PIECE = 64 * 1024  # bytes that are read at once
_LARGEST_RING = 1 << 60


class Output:
    """The bounded output of one run. A failed write counts as dropped and never ends the run."""

    def __init__(self, run_dir: str, most: int, secrets: Secrets) -> None:
        """Write to a run's folder at most `most` bytes, with secrets masked; raise OSError."""
        self._run_dir = run_dir
        self._head_size = most - most // 2
        self._ring_size = most // 2
        self._secrets = secrets
        self._masks: dict[int, Mask] = {}  # one for each stream, so that one cannot split a secret of the other
        self._log = open_anew(os.path.join(run_dir, LOG))
        self._tail = -1
        self._head = 0
        self._ringed = 0
        self.total = 0
        self.failed = 0

    def write(self, stream: int, chunk: bytes) -> bytes:
        """Add the next bytes of a stream; return the part that can be shown so far."""
        mask = self._masks.setdefault(stream, Mask(self._secrets))
        shown = mask.feed(chunk)
        self._keep(shown)
        return shown

    def end(self, stream: int) -> bytes:
        """Add what was held back of a stream that has ended; return it."""
        mask = self._masks.pop(stream, None)
        shown = b"" if mask is None else mask.flush()
        self._keep(shown)
        return shown

    def note(self, text: str) -> None:
        """Add a line of our own."""
        self._keep(f"\n[agentcron: {text}]\n".encode(errors="replace"))

    def kept(self) -> Iterator[bytes]:
        """Yield what is kept so far, in order; where something was dropped, a line ends. Raise OSError."""
        log = open_regular(os.path.join(self._run_dir, LOG))
        try:
            yield from _parts(log, 0, self._head)
        finally:
            os.close(log)
        if self._ringed <= self._ring_size:
            yield from _parts(self._tail, _HEADER.size, self._ringed)
            return
        at = self._ringed % self._ring_size
        yield b"\n"
        yield from _parts(self._tail, _HEADER.size + at, self._ring_size - at)
        yield from _parts(self._tail, _HEADER.size, at)

    def finish(self) -> None:
        """Write everything that was kept to `output.log`, in order."""
        for stream in list(self._masks):
            self.end(stream)
        os.close(self._log)
        if self._tail >= 0:
            os.close(self._tail)
            try:
                fold(self._run_dir)
            except OSError:
                self.failed += min(self._ringed, self._ring_size)

    def _open_ring(self) -> bool:
        try:
            self._tail = open_regular(os.path.join(self._run_dir, TAIL), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        except OSError:  # a full disk, or the agent interfered: the output is dropped and counted
            return False
        return True

    @property
    def dropped(self) -> int:
        """How many bytes are not in the log."""
        return self.failed + max(0, self._ringed - self._ring_size)

    def _keep(self, data: bytes) -> None:
        self.total += len(data)
        room = self._head_size - self._head
        if room > 0:
            written = _write(self._log, data[:room])
            self._head += len(data[:room])
            self.failed += len(data[:room]) - written
            data = data[room:]
        while data:
            data = data[self._ring(data) :]

    def _ring(self, data: bytes) -> int:
        """Write some bytes at the current position of the ring; return how many were taken."""
        if not self._ring_size:
            self.failed += len(data)
            return len(data)
        if self._tail < 0 and not self._open_ring():
            self.failed += len(data)
            return len(data)
        at = self._ringed % self._ring_size
        part = data[: self._ring_size - at]
        self.failed += len(part) - _write(self._tail, part, _HEADER.size + at)
        self._ringed += len(part)
        head = os.fstat(self._log).st_size
        _write(self._tail, _HEADER.pack(head, self._ring_size, self._ringed), 0)
        return len(part)


def fold(run_dir: str) -> None:
    """Append the ring to the log in the order it was written, and remove it; safe to repeat."""
    path = os.path.join(run_dir, TAIL)
    try:
        tail = open_regular(path)
    except FileNotFoundError:
        return
    try:
        header = os.read(tail, _HEADER.size)
        if len(header) == _HEADER.size:
            _append(run_dir, tail, *_HEADER.unpack(header))
    finally:
        os.close(tail)
    os.unlink(path)


def _append(run_dir: str, tail: int, head: int, size: int, written: int) -> None:
    log = open_regular(os.path.join(run_dir, LOG), os.O_RDWR)
    try:
        if not 0 < size <= _LARGEST_RING or head > os.fstat(log).st_size:  # the agent wrote this header
            raise OSError(errno.EINVAL, "not the last part of this output", TAIL)
        os.ftruncate(log, head)
        os.lseek(log, head, os.SEEK_SET)
        at = written % size if written > size else 0
        if written > size:
            os.write(log, b"\n[agentcron: %d bytes of output were dropped here]\n" % (written - size))
        _copy(tail, log, _HEADER.size + at, min(written, size) - at)
        _copy(tail, log, _HEADER.size, at)
    finally:
        os.close(log)


def _copy(source: int, target: int, start: int, length: int) -> None:
    while length > 0:
        copied = os.sendfile(target, source, start, min(length, _COPY))
        if copied == 0:
            return
        start += copied
        length -= copied


def _parts(descriptor: int, start: int, length: int) -> Iterator[bytes]:
    """Yield a part of a file in pieces; less than that if the file is shorter."""
    while length > 0:
        piece = os.pread(descriptor, min(length, _PIECE), start)
        if not piece:
            return
        yield piece
        start += len(piece)
        length -= len(piece)


def _write(descriptor: int, data: bytes, at: int | None = None) -> int:
    """Write as much as possible; return how many bytes that was."""
    done = 0
    while done < len(data):
        try:
            rest = data[done:]
            done += os.write(descriptor, rest) if at is None else os.pwrite(descriptor, rest, at + done)
        except OSError:
            break
    return done
