"""Put a file of root's where only root may write, after this process has given up being root.

The file is created and opened before. Moving it into place takes a right to its folder, so a child process that
remains root does that, and nothing else.
"""

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

from daemon.errors import StoreError
from daemon.store.ownership import open_parent

_PUBLISH = b"p"
_DONE = 0


class Publisher:
    """A new file that takes the place of another, or of none, once it is published."""

    def __init__(self, target: Path, descriptor: int, channel: socket.socket) -> None:
        self.descriptor = descriptor
        """The new file, open for writing."""
        self.target = target
        """Where it will be, without links."""
        self._channel = channel

    def publish(self) -> None:
        """Move the file into its place, and return once that is on disk; raise StoreError."""
        self._channel.sendall(_PUBLISH)
        answer = self._channel.recv(4)
        code = int.from_bytes(answer, "little")
        if not answer or code != _DONE:
            reason = os.strerror(code) if answer else "the process that should move it into place has ended"
            raise StoreError(f"cannot write {self.target}: {reason}")


@contextlib.contextmanager
def publisher(target: Path) -> Iterator[Publisher]:
    """Create a private file beside a target as root; remove it at the end unless it was published.

    Both are in the directory that the target is in now, even if something else takes its place. Raise StoreError, or
    RefusedError for a link of another user.
    """
    try:
        folder, name = open_parent(target)
        folder = _reopened(folder)
        target = Path(f"/proc/self/fd/{folder}").readlink() / name
        temporary = f".{name[:200]}.{secrets.token_hex(4)}.partial"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        os.fchown(descriptor, 0, 0)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror}") from None
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _serve(theirs, folder, temporary, name)
    theirs.close()
    os.close(folder)
    try:
        with ours:
            yield Publisher(target, descriptor, ours)
    finally:
        os.close(descriptor)
        os.waitpid(child, 0)


def _reopened(folder: int) -> int:
    """Return a descriptor that can be synced for an open directory, and close the given one; raise OSError."""
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)


def _serve(channel: socket.socket, folder: int, temporary: str, name: str) -> None:
    """Move the file into place when asked; remove it if the other end closes before. End the process."""
    try:
        os.setresuid(0, 0, 0)  # so that the user whom the other end becomes cannot signal this process
        os.setsid()  # so that no signal to the process group of the other end keeps this one from cleaning up
        code = _DONE
        try:
            if channel.recv(1) == _PUBLISH:
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
        except OSError as error:
            code = error.errno or 1
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        channel.sendall(code.to_bytes(4, "little"))
    finally:
        os._exit(0)
