"""Binds the control sockets: with the right mode from the first moment, and never in place of another daemon's."""

import errno
import grp
import os
import resource
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from daemon.errors import ConfigError, RefusedError

_MOST_CONNECTIONS = 4096  # an idle one takes about 20 kB


@dataclass(frozen=True)
class Listeners:
    """The sockets on which the API is served."""

    unix: "ControlSocket"
    tcp: socket.socket | None


def most_connections() -> int:
    """Return how many clients one socket may have at once; runs, the database and the other socket also need files."""
    return min(_MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


@contextmanager
def listening(path: Path, group: str | None, address: str | None) -> Iterator[Listeners]:
    """Listen on a Unix socket, and on TCP if there is an address; raise RefusedError or ConfigError."""
    unix = ControlSocket(path, group)
    try:
        tcp = listen_on(address) if address is not None else None
        yield Listeners(unix, tcp)
    finally:
        unix.close()


class ControlSocket:
    """A listening Unix socket at a path; closing it removes the path if it is still ours."""

    def __init__(self, path: Path, group: str | None) -> None:
        """Bind the socket; raise RefusedError if another daemon listens there, ConfigError if binding fails."""
        self.path = path
        try:
            _make_folder(path.parent)
            with _folder(path) as near:
                _refuse_if_live(path, near)
                self.listener, self._inode = _bind(path, near, group)
        except (OSError, LookupError) as error:
            if isinstance(error, PermissionError) and group is not None and os.access(path.parent, os.W_OK):
                problem = f"control.group: the daemon's user is not in group {group!r}, which must own the socket"
                fix = f"run usermod -aG {quote(group)} USER and restart the daemon"
                raise ConfigError([f"{problem}; {fix}"]) from None
            reason = error.strerror or str(error) if isinstance(error, OSError) else f"there is no group {group!r}"
            raise ConfigError([f"control.socket: cannot listen on {path}: {reason}"]) from None

    def close(self) -> None:
        """Stop listening."""
        self.listener.close()
        try:
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()
        except OSError:  # it was already removed
            return


def _make_folder(folder: Path) -> None:
    """Create a folder that others may enter, regardless of the umask; the socket's mode decides who may connect."""
    umask = os.umask(0o022)
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    finally:
        os.umask(umask)


def _bind(path: Path, near: Path, group: str | None) -> tuple[socket.socket, int]:
    """Bind under a temporary name, set group and mode, and only then rename it to its own name."""
    temporary = near / f".{path.name}.{secrets.token_hex(4)}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        listener.bind(str(temporary))
        try:
            if group is not None:
                os.chown(temporary, -1, grp.getgrnam(group).gr_gid)
            temporary.chmod(0o660)
            listener.listen()
            listener.setblocking(False)  # noqa: FBT003 - the method's own signature
            temporary.rename(near / path.name)
        except BaseException:
            temporary.unlink()
            raise
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(umask)
    return listener, path.lstat().st_ino


def _refuse_if_live(path: Path, near: Path) -> None:
    """Raise RefusedError if another daemon listens at the path, OSError if something other than a socket is there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            with suppress(TimeoutError):  # its queue is full, so a daemon listens
                probe.connect(str(near / path.name))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            if path.is_socket():
                return
            raise OSError(errno.EEXIST, "a file that is not a socket is there; move it away") from None
    raise RefusedError(f"another daemon listens on {path}; set another control.socket for this one")


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """Yield a short path of the folder, since a socket's path is limited to 107 bytes (unix(7))."""
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def listen_on(address: str) -> socket.socket:
    """Return a listening TCP socket; raise ConfigError if that fails."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, at = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(at)
            listener.listen()
            listener.setblocking(False)  # noqa: FBT003 - the method's own signature
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError([f"control.listen: cannot listen on {address}: {error.strerror}"]) from None
    return listener
