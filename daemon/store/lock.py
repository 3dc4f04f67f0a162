"""The lock of a state directory: which daemon holds it, and where that daemon listens."""

import fcntl
import os
import struct
from pathlib import Path

from daemon.errors import RefusedError, StoreError
from daemon.model import DATABASE, LOCK

_NOBODY_HERE = 2**22 + 1  # no pid is that high (proc(5), pid_max): the holder lives in another pid namespace
_FLOCK = "hhqqi4x"  # struct flock of fcntl(2) on 64-bit Linux


class DaemonLock:
    """The lock of a state directory's one daemon: a POSIX record lock, which the kernel releases with its holder.

    Nothing else in the process may open the file: closing any descriptor of it would release the lock.
    """

    def __init__(self, state_dir: Path) -> None:
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _close_to_others(state_dir)
            self._descriptor = os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"the state directory {state_dir} cannot be used: {error.strerror}") from None
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(self._descriptor)
            os.close(self._descriptor)
            raise RefusedError(
                f"a daemon (pid {holder or 'unknown'}) is running on {state_dir}; "
                "stop it first, or set another state_dir for this one"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def record_socket(self, socket: Path) -> None:
        """Write into the lock file where the daemon listens."""
        os.pwrite(self._descriptor, b"%d\n%s\n" % (os.getpid(), os.fsencode(socket)), 0)

    def release(self) -> None:
        """Release the state directory to other daemons."""
        os.close(self._descriptor)


def _close_to_others(state_dir: Path) -> None:
    """Set mode 0700 on a state directory; leave a folder alone that holds other files and none of agentcron's."""
    names = {entry.name for entry in state_dir.iterdir()}
    if state_dir.stat().st_mode & 0o077 and (not names or names & {LOCK, DATABASE}):
        state_dir.chmod(0o700)


def running_daemon(state_dir: Path) -> int | None:
    """Return the pid of the daemon that holds the state directory, None if there is none; take no lock."""
    try:
        descriptor = os.open(state_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{state_dir / LOCK} cannot be read: {error.strerror}") from None
    try:
        return _holder(descriptor)
    finally:
        os.close(descriptor)


def socket_in_use(state_dir: Path) -> tuple[Path, int] | None:
    """Return the socket and the pid of the daemon that holds a state directory; None if either is unknown."""
    try:
        pid = running_daemon(state_dir)
        words = (state_dir / LOCK).read_bytes().split(b"\n")
    except (OSError, StoreError):
        return None
    return (Path(os.fsdecode(words[1])), pid) if pid is not None and words[1:] and words[1] else None


def _holder(descriptor: int) -> int | None:
    question = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    if kind == fcntl.F_UNLCK:
        return None
    return pid or _NOBODY_HERE
