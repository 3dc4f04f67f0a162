"""The lock of a state directory: which daemon holds it, and where that daemon listens."""

import fcntl
import os
import struct
from pathlib import Path
from shlex import quote

from daemon.errors import RefusedError, StoreError
from daemon.model import DATABASE, HOOK_KEY, LAST_CONFIG, LOCK, STATE_FOLDERS, WITNESS
from daemon.path_owners import owner_name
from daemon.store import ballast
from daemon.store.private_file import open_or_create, open_private

_NOBODY_HERE = 2**22 + 1  # no pid is that high (proc(5), pid_max): the holder lives in another pid namespace
_FLOCK = "hhqqi4x"  # struct flock of fcntl(2) on 64-bit Linux
_OURS = {LOCK, WITNESS, HOOK_KEY, LAST_CONFIG, *STATE_FOLDERS}
"""What agentcron itself has in a state directory, besides database and ballast."""
_LONGEST = 8192  # bytes of the file that are read: a pid and a path


class DaemonLock:
    """The lock of a state directory's one daemon: a POSIX record lock, which the kernel releases with its holder.

    Nothing else in the process may open the file: closing any descriptor of it would release the lock.
    """

    def __init__(self, state_dir: Path) -> None:
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_owner(state_dir)
            _close_to_others(state_dir)
            self._descriptor = open_or_create(state_dir / LOCK, os.O_RDWR)
        except OSError as error:
            place = f": {error.filename}" if error.filename not in {None, str(state_dir)} else ""
            raise StoreError(f"the state directory {state_dir} cannot be used: {error.strerror}{place}") from None
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(self._descriptor)
            os.close(self._descriptor)
            raise RefusedError(
                f"a daemon (pid {holder or 'unknown'}) is running on {state_dir}; "
                "stop it first, or set another state_dir for this one"
            ) from None
        self._path = state_dir / LOCK
        try:
            self._write(b"%d\n" % os.getpid())
        except StoreError:
            os.close(self._descriptor)
            raise

    def record_socket(self, socket: Path) -> None:
        """Write into the lock file where the daemon listens; raise StoreError."""
        self._write(b"%d\n%s\n" % (os.getpid(), os.fsencode(socket)))

    def _write(self, content: bytes) -> None:
        """Replace the content in place, which takes no room on a full disk if there was one."""
        try:
            os.pwrite(self._descriptor, content, 0)
            os.ftruncate(self._descriptor, len(content))
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error.strerror}") from None

    def release(self) -> None:
        """Release the state directory to other daemons."""
        os.close(self._descriptor)


def check_owner(state_dir: Path) -> None:
    """Raise RefusedError if a state directory belongs to another user, OSError if it cannot be looked at."""
    owner = state_dir.stat().st_uid
    if owner != os.geteuid():
        ours, theirs = owner_name(os.geteuid()), owner_name(owner)
        raise RefusedError(
            f"{state_dir} belongs to {theirs}, but this command runs as {ours}; run it as {theirs} or root, "
            f"or give the directory away with `chown -R {ours} {quote(str(state_dir))}`"
        )


def may_be_state(folder: Path) -> bool:
    """Return whether a directory is a state directory, or empty; raise OSError. Another is not ours to close."""
    names = {entry.name for entry in folder.iterdir()}
    return not names or not names.isdisjoint({LOCK, DATABASE})


def _close_to_others(state_dir: Path) -> None:
    """Set mode 0700 on a state directory, unless it holds something else: it may be one like /usr/share."""
    if state_dir.stat().st_mode & 0o077 and all(_is_ours(entry.name) for entry in state_dir.iterdir()):
        state_dir.chmod(0o700)


def _is_ours(name: str) -> bool:
    return name in _OURS or name.startswith((DATABASE, ballast.NAME))  # with what SQLite and a restore add to them


def running_daemon(state_dir: Path) -> int | None:
    """Return the pid of the daemon that holds the state directory, None if there is none; take no lock."""
    holder, _ = _read(state_dir)
    return holder


def socket_in_use(state_dir: Path) -> tuple[Path, int] | None:
    """Return the socket and the pid of the daemon that holds a state directory; None if either is unknown."""
    try:
        pid, content = _read(state_dir)
    except StoreError:
        return None
    words = content.split(b"\n")
    if pid is None or not words[1:] or not words[1] or b"\0" in words[1]:
        return None
    return Path(os.fsdecode(words[1])), pid


def _read(state_dir: Path) -> tuple[int | None, bytes]:
    """Return the pid of the lock's holder and the beginning of the file; raise StoreError if it cannot be read."""
    path = state_dir / LOCK
    try:
        descriptor = open_private(path)
    except (FileNotFoundError, NotADirectoryError):
        return None, b""
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return _holder(descriptor), os.pread(descriptor, _LONGEST, 0)
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> int | None:
    question = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    if kind == fcntl.F_UNLCK:
        return None
    return pid or _NOBODY_HERE
