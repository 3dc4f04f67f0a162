"""The daemon's side of supervisors: start the nursery that forks them, and hold, signal and watch each one."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import structlog

from daemon.agents.base import Identity
from daemon.agents.process.supervisor import status, tree
from daemon.agents.process.supervisor.channel import ENDED, LENGTH, STARTED
from daemon.agents.process.supervisor.nursery import FORK, KILL_ORPHANS
from daemon.log_file import standard_error_of_child

_LOG = structlog.get_logger()
_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from process.supervisor.nursery import serve; serve(int(sys.argv[2]))"
)
_SUPERVISOR = "agentcron-run"  # the process name of a supervisor
_LAUNCHES_AT_ONCE = 16  # far fewer than fit into a socket's buffer
_TRIES = 3
_HELLO_TIMEOUT = 5.0
_WAKE_EVERY = 1.0  # seconds
_ORPHANS_TIMEOUT = 10.0  # seconds
_CHUNK = 64 * 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LaunchError(Exception):
    """No supervisor could be started."""


@cache
def boot_id() -> str:
    """Return the id of the current boot, which no other boot shares."""
    return _BOOT_ID.read_text().strip()


@dataclass(frozen=True)
class _Generation:
    """One nursery process and the control socket to it."""

    control: socket.socket
    process: "subprocess.Popen[bytes]"


class Nursery:
    """The small process that forks supervisors; started on first use, and again whenever it dies."""

    def __init__(self, open_files: int | None = None) -> None:
        """Prepare; `open_files` is the soft limit of open files for agents, by default the daemon's own."""
        self.boot_id = boot_id()
        self._open_files = open_files if open_files is not None else resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._generation: _Generation | None = None
        self._changing = asyncio.Lock()
        self._room = asyncio.Semaphore(_LAUNCHES_AT_ONCE)
        self._killing = asyncio.Lock()  # held while the nursery kills orphans, since it forks nothing meanwhile

    async def supervisor(self) -> "SupervisorHandle":
        """Return a new supervisor that waits for its spec; raise LaunchError."""
        async with self._room:
            for _ in range(_TRIES):
                try:
                    generation = await self._current_generation()
                    async with self._killing:  # else a nursery at work would be taken for one that is stuck, and ended
                        channel = _request(generation, FORK)
                except OSError as error:  # out of processes or open files at the moment
                    raise LaunchError(f"no supervisor process could be started: {error.strerror}") from None
                if channel is not None:
                    with contextlib.suppress(OSError, TimeoutError):
                        async with asyncio.timeout(_HELLO_TIMEOUT):
                            return await self._receive_hello(channel)
                    channel.close()
                    _LOG.warning("[daemon] Nursery process does not answer; starting another")
                await self._end(generation)
        raise LaunchError("no supervisor process could be started (out of processes or memory?)")

    async def kill_orphans(self) -> list[tree.Process]:
        """Kill what killed supervisors of this nursery left, and return it; none if the nursery has ended."""
        async with self._killing:
            return [] if self._generation is None else await self._killed_by(self._generation)

    async def _killed_by(self, generation: _Generation) -> list[tree.Process]:
        loop, answer = asyncio.get_running_loop(), b""
        with contextlib.suppress(OSError, TimeoutError):  # out of open files at the moment, or it does not answer
            channel = _request(generation, KILL_ORPHANS)
            if channel is None:
                return []
            with channel:
                async with asyncio.timeout(_ORPHANS_TIMEOUT):
                    while part := await loop.sock_recv(channel, _CHUNK):
                        answer += part
        return tree.unpacked(answer)

    async def close(self) -> None:
        """End the nursery; supervisors live on."""
        if self._generation is not None:
            await self._end(self._generation)

    async def _receive_hello(self, channel: socket.socket) -> "SupervisorHandle":
        """Read the supervisor's hello and open a pidfd, so that its end cannot go unnoticed."""
        loop = asyncio.get_running_loop()
        hello = b""
        while len(hello) < LENGTH.size:
            part = await loop.sock_recv(channel, LENGTH.size - len(hello))
            if not part:
                raise ConnectionResetError("the nursery or the supervisor is gone")
            hello += part
        pid = LENGTH.unpack(hello)[0]
        descriptor = os.pidfd_open(pid)
        started = tree.start_of(pid)
        if started is None or _is_closed(channel):  # if it has ended, another process may have its pid by now
            os.close(descriptor)
            raise ProcessLookupError(pid)
        return SupervisorHandle(Identity(self.boot_id, pid, started), descriptor, channel)

    async def _current_generation(self) -> _Generation:
        async with self._changing:
            if self._generation is None:
                self._generation = await asyncio.to_thread(_start, self._open_files)
            return self._generation

    async def _end(self, generation: _Generation) -> None:
        """End one generation, once; a later one that others started meanwhile stays."""
        async with self._changing:
            if self._generation is not generation:
                return
            self._generation = None
            generation.control.close()
            generation.process.kill()  # it has no state, and a stopped process would not see the closed socket
            await asyncio.to_thread(generation.process.wait)


def _start(open_files: int) -> _Generation:
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-I", "-S", "-c", _CODE, str(Path(__file__).parents[1]), str(open_files)]
    with theirs, standard_error_of_child() as errors:
        process = subprocess.Popen(command, stdin=theirs.fileno(), stderr=errors, start_new_session=True)
    return _Generation(control, process)


def _is_closed(channel: socket.socket) -> bool:
    """Return whether a supervisor's end of a channel is closed, as it is when the supervisor has ended."""
    try:
        return not channel.recv(1, socket.MSG_PEEK)  # which does not wait: the socket is non-blocking
    except BlockingIOError:
        return False


def _request(generation: _Generation, what: bytes) -> socket.socket | None:
    """Send the nursery a request with one end of a socketpair; return the other, None if the nursery has ended."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)  # noqa: FBT003 - the method's own signature
    try:
        socket.send_fds(generation.control, [what], [theirs.fileno()])
    except OSError:
        _LOG.warning("[daemon] Nursery process has ended; starting it again")
        ours.close()
        return None
    finally:
        theirs.close()
    return ours


class SupervisorHandle:
    """One supervisor process, newly forked or adopted from an earlier daemon."""

    def __init__(self, identity: Identity, descriptor: int, channel: socket.socket | None) -> None:
        self.identity = identity
        self._descriptor = descriptor
        self._channel = channel

    @classmethod
    def adopt(cls, identity: Identity) -> "SupervisorHandle | None":
        """Return a handle of a living supervisor; None if it has ended, even if another process has its pid now."""
        if identity.boot_id != boot_id():
            return None
        descriptor = tree.open_exactly(tree.Process(identity.pid, identity.started))
        return None if descriptor is None else cls(identity, descriptor, None)

    async def release(self, spec: dict[str, Any]) -> bool:
        """Send the spec, which is also the permission to start; return whether the supervisor confirmed the start."""
        channel = self._channel
        if channel is None:
            raise ValueError("an adopted supervisor has its spec already")
        body = json.dumps(spec).encode()
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(channel, LENGTH.pack(len(body)) + body)
            while True:
                try:
                    async with asyncio.timeout(_WAKE_EVERY):
                        return await loop.sock_recv(channel, 1) == STARTED
                except TimeoutError:  # something, perhaps its own command, may have stopped it (SIGSTOP)
                    self.send(signal.SIGCONT)
        except OSError:
            return False

    def has_ended_its_tree(self) -> bool:
        """Return whether a supervisor that has ended reported that no process of its run was left.

        Only it can: the other end of this socket is its alone. An adopted supervisor has nobody to report that to.
        """
        if self._channel is None:
            return False
        try:
            return self._channel.recv(1) == ENDED
        except OSError:
            return False

    def stop(self, *, at_once: bool) -> None:
        """Ask it to end its process tree, with grace or at once; wake it if it is stopped."""
        self.send(signal.SIGUSR1 if at_once else signal.SIGTERM)
        self.send(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        """Signal exactly this process; do nothing if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    async def wait(self) -> None:
        """Wait for the process to end."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._descriptor, ended.set_result, None)
        try:
            await ended
        finally:  # before the descriptor is closed, whose number another run may get
            loop.remove_reader(self._descriptor)

    def close(self) -> None:
        """Close the handle: a supervisor that has its spec continues, any other ends."""
        if self._channel is not None:
            self._channel.close()
        os.close(self._descriptor)


@dataclass(frozen=True)
class Supervisor:
    """A living supervisor, as it is found on the host."""

    run: int
    """The run that it works on, if the database knows it as that run's."""
    process: tree.Process

    def is_known_as(self, identity: tuple[str | None, int | None, int | None] | None) -> bool:
        """Return whether boot id, pid and start time are its own."""
        return identity == (boot_id(), *self.process)


def living_supervisors(state_dir: Path) -> list[Supervisor]:
    """Return the living supervisors of a state directory, of which several may claim one run.

    A supervisor is recognized by its process name and by the status file that it holds open, even if that was moved or
    removed since.
    """
    found, runs = [], (state_dir / "runs").resolve()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if entry.name.isdigit() and (entry / "comm").read_text().strip() == _SUPERVISOR:
                pid = int(entry.name)
                started = tree.start_of(pid)
                claimed = _runs_of(pid, runs)
                if started is not None and tree.start_of(pid) == started:  # else another process has its pid by now
                    found += [Supervisor(run, tree.Process(pid, started)) for run in claimed]
    return found


def _runs_of(supervisor: int, runs: Path) -> set[int]:
    """Return the runs in a folder whose status files a process holds open."""
    targets = (Path(target) for _, target in status.open_files_of(supervisor))
    return {int(path.parent.name) for path in targets if path.name == status.NAME and path.parent.parent == runs}
