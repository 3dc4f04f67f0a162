"""Start an agent's command as a child of its supervisor."""

import contextlib
import errno
import os
import signal
from collections.abc import Iterator
from typing import Any

_OOM_SCORE_ADJ = "/proc/self/oom_score_adj"
_LONGEST_SCORE = 16  # bytes
_MOMENTARY = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ETXTBSY}
_SETTABLE = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}  # once, not in the supervisor of each run
_MORE_LIKELY = 500  # of 1000; the kernel kills the highest score first when memory runs out


class StartError(Exception):
    """The command cannot be started; the text says what failed and why."""

    def __init__(self, text: str, *, momentary: bool) -> None:
        super().__init__(text)
        self.momentary = momentary
        """Whether the host only lacks a resource at the moment, such as a free process."""


def start(spec: dict[str, Any], output: int, errors: int) -> int:
    """Start the command in its own session and return its pid; raise StartError if it cannot be started.

    The supervisor itself temporarily takes on what the command is to inherit (folder, umask), because posix_spawn(3),
    which copies no memory, costs half as much as a fork.
    """
    with _failing(f"with the input {spec['stdin']!r}"):
        source = os.open(spec["stdin"], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(source, True)  # only opening must not wait for a pipe in place of the input
    umask = os.umask(spec["umask"])
    try:
        with _failing(f"in {spec['cwd']!r}"):
            os.chdir(spec["cwd"])
        name = spec["argv"][0]
        with _failing(repr(name)):
            program = _found(name, spec["env"])
        with _killed_first(), _failing(repr(name), program):
            return _spawn(program, spec, (source, output, errors))
    finally:
        os.chdir("/")
        os.umask(umask)
        os.close(source)


def _spawn(program: str, spec: dict[str, Any], standard: tuple[int, int, int]) -> int:
    return os.posix_spawn(
        program,
        spec["argv"],
        spec["env"],
        file_actions=[(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(standard)],
        setsid=True,
        setsigmask=(),
        setsigdef=_SETTABLE,
    )


def _found(program: str, environment: dict[str, str]) -> str:
    """Return the path of a program: the first on PATH that is executable, else the first that exists."""
    if "/" in program:
        return program
    places = [os.path.join(folder, program) for folder in os.get_exec_path(environment)]
    there = [place for place in places if os.path.isfile(place)]
    if not there:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return next((place for place in there if os.access(place, os.X_OK)), there[0])


def reason_of(error: OSError) -> str:
    """Return why a program cannot be started, for people."""
    if error.errno == errno.ENOEXEC:
        return "neither a program for this machine nor a script with #! and its interpreter in the first line"
    return error.strerror or type(error).__name__


@contextlib.contextmanager
def _failing(where: str, program: str | None = None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        if isinstance(error, FileNotFoundError) and program is not None and os.path.exists(program):
            reason = "the interpreter that its first line names does not exist"
        momentary = isinstance(error, OSError) and error.errno in _MOMENTARY
        raise StartError(f"cannot start {where}: {reason}", momentary=momentary) from None


@contextlib.contextmanager
def _killed_first() -> Iterator[None]:
    """Have the kernel kill what is started now before its supervisor and the daemon when memory runs out.

    Where a sandbox has no /proc, or one that cannot be written, the command runs anyway.
    """
    with contextlib.ExitStack() as after:
        with contextlib.suppress(OSError):
            descriptor = os.open(_OOM_SCORE_ADJ, os.O_RDWR | os.O_CLOEXEC)
            after.callback(os.close, descriptor)
            before = int(os.read(descriptor, _LONGEST_SCORE))
            after.callback(_set_score, descriptor, before)
            _set_score(descriptor, min(1000, before + _MORE_LIKELY))
        yield


def _set_score(descriptor: int, score: int) -> None:
    with contextlib.suppress(OSError):
        os.pwrite(descriptor, b"%d" % score, 0)
