"""Run git with a time limit, without a terminal, and without executing anything that a repository may have planted.

Standard library only: the helper process imports this.
"""

import contextlib
import ctypes
import errno
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import cache, partial
from pathlib import Path

from daemon.disk_room import NO_ROOM
from daemon.workspaces.cpu_time import cpu_seconds

_GRACE = 5.0  # seconds
_LEAST_WORK = 0.01  # of the time: what only waits for a remote uses less of a CPU
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_NON_INTERACTIVE = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "SSH_ASKPASS": "true",
    "SSH_ASKPASS_REQUIRE": "force",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "true",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "LC_ALL": "C",
}
_SAFE_SETTINGS = (
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("gc.auto", "0"),
    ("checkout.workers", "0"),
    ("maintenance.auto", "false"),
    ("core.protectNTFS", "false"),
    ("core.protectHFS", "false"),
    ("core.safecrlf", "false"),
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "60"),
    ("advice.detachedHead", "false"),
    ("advice.objectNameWarning", "false"),
    ("core.warnAmbiguousRefs", "false"),
)
_ISOLATED = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_ALLOW_PROTOCOL": "none",
    "HOME": "/nonexistent",
    "XDG_CONFIG_HOME": "/nonexistent",
    "PATH": os.environ.get("PATH", os.defpath),
}
_INHERITED = {"GIT_SSH_COMMAND", "GIT_SSH", "GIT_SSL_CAINFO", "GIT_PROXY_COMMAND"}
"""How the administrator wants remotes to be reached."""
_QUERY = re.compile(r"(?<=[^\s?])\?(?=[^\s?/'\"]*=)[^\s/'\"]*")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_PROGRESS = re.compile(r": +[0-9]+% \(|: [0-9]+, done\.|^remote: Total [0-9]")
_ERROR = re.compile(rb"^error:", re.MULTILINE)
_FULL = tuple(map(os.strerror, NO_ROOM))
_LACKING = (*_FULL, *map(os.strerror, (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)))
_PART_KILLED = re.compile(r"died of signal (?:9|15)\b")  # what git says of a program that it started
_READS_FILES = {"ls-files", "update-index", "diff-files"}
"""Commands that only warn of a folder or file that they cannot read, and end well without it."""
_running: set[int] = set()  # process groups of running git commands


class _Start:
    """The start of a command, which a signal handler must not interrupt: nobody would know the command."""

    def __init__(self) -> None:
        self.is_under_way = False
        self.then: Callable[[], None] | None = None
        """What a handler wants done after it."""

    def __enter__(self) -> None:
        self.is_under_way = True

    def __exit__(self, *_: object) -> None:
        self.is_under_way = False
        if self.then is not None:
            self.then()


_start_of_command = _Start()


def terminate_all_and(then: Callable[[], None]) -> None:
    """End the git commands that are running, with everything that they started, then do something: for a handler.

    If a command is just being started, that is done as soon as it is known.
    """

    def terminate() -> None:
        for group in list(_running):
            _end(group)
        then()

    if _start_of_command.is_under_way:
        _start_of_command.then = terminate
    else:
        terminate()


def _end(group: int) -> None:
    """End a git command and what it started, with time to remove its lock files.

    `group` is its pid, which nobody has waited for yet: until then no other process group can get this number.
    """
    with contextlib.suppress(ProcessLookupError):  # it has just exited
        os.killpg(group, signal.SIGTERM)
        _wait_for_end(group)
        os.killpg(group, signal.SIGKILL)  # git has ended, but what it started may ignore SIGTERM


def _wait_for_end(pid: int) -> None:
    """Wait until a child has ended, but at most the grace period; do not reap it."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # out of open files at the moment
        return
    try:
        end = select.poll()
        end.register(descriptor, select.POLLIN)
        end.poll(_GRACE * 1000)
    finally:
        os.close(descriptor)


class GitError(Exception):
    """A git command failed; the text says how, without credentials."""

    def __init__(self, text: str, code: int | None = None, *, is_too_slow: bool = False) -> None:
        """Take git's message, and its exit status if it has one; too slow is a command that was ended for its time."""
        super().__init__(without_credentials(text))
        self.is_disk_full = any(reason in text for reason in _FULL)
        self.code = code
        self.is_too_slow = is_too_slow
        self.is_passing = code is None or code < 0 or _PART_KILLED.search(text) is not None or is_lack(text)
        """Whether it says nothing of what git read: git was killed or too slow, or the host lacked something."""


def is_lack(text: str) -> bool:
    """Return whether an error's text says that the host lacks something at the moment, such as room on a disk."""
    return any(reason in text for reason in _LACKING)


def config_value(text: str) -> str:
    """Return a text quoted as a value in a git config file (git-config(1), Syntax)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def without_credentials(text: str) -> str:
    """Return a text without the user information and the queries of the URLs in it."""
    return _QUERY.sub("?...", _CREDENTIALS.sub("", text))


def exit_with_parent(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent's thread ends (prctl(2)).

    SIGTERM lets git remove its lock files. Exit now if the parent, given by its pid, is already gone: the kernel sends
    nothing then.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


@cache
def _ends_with_us() -> tuple[str, ...]:
    """Return what to put before a command for the kernel to end it with this process; () if this host cannot do that.

    Unlike a function that is called between fork and exec, it needs no copy of this process, which costs as much CPU
    time as two git commands, and in a large process as five. It does not notice a parent that ends in the
    millisecond before it has asked the kernel. setpriv(1) has the option since util-linux 2.33.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    before = (setpriv, "--pdeathsig", "TERM", "--")
    tried = subprocess.run([*before, "true"], check=False, capture_output=True)
    return before if tried.returncode == 0 else ()


def _start(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, which ends with this process; raise FileNotFoundError."""
    before, preparation = _ends_with_us(), None
    if before:
        path = (os.environ if environment is None else environment).get("PATH")
        program = shutil.which(command[0], path=path)
        if program is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0])
        command = [*before, program, *command[1:]]
    else:
        preparation = partial(exit_with_parent, os.getpid())
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=preparation,  # noqa: PLW1509 - it only makes system calls
        start_new_session=True,
    )


def run_program(
    command: Sequence[str],
    folder: Path,
    timeout: float,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    silence: float | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a folder, and end everything that it started after `timeout` seconds or when this process ends.

    `silence` are the seconds after which it is ended if it writes nothing and does not work either: git checks in
    silence whether all that it fetched is connected, which may take minutes. Raise GitError if it cannot be run or
    takes too long.
    """
    try:
        with _start_of_command:
            process = _start(command, folder, environment)
            _running.add(process.pid)
    except FileNotFoundError as error:
        raise GitError(f"cannot run {command[0]}: {error.strerror}: {error.filename}") from None
    with process:
        try:
            stdout, stderr = _communicate(process, stdin, timeout, silence)
        except BaseException as error:
            if process.returncode is None:
                _end(process.pid)
            if isinstance(error, _TookTooLongError):
                raise GitError(f"{_name_of(command)} {error}", is_too_slow=True) from None
            raise
        finally:
            _running.discard(process.pid)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _name_of(command: Sequence[str]) -> str:
    """Return how a command is named in messages: the program, and the first word that is no setting."""
    words = iter(word for word in command[1:] if not word.startswith("--config-env="))
    rest = [word for word in words if word != "-c" or not next(words, None)]
    return " ".join([command[0], *rest[:1]])


class _TookTooLongError(Exception):
    pass


def _communicate(
    process: subprocess.Popen[bytes], stdin: bytes, timeout: float, silence: float | None
) -> tuple[bytes, bytes]:
    """Return what a program writes until it ends; raise _TookTooLongError."""
    end, written, worked = time.monotonic() + timeout, 0, 0.0
    while (left := end - time.monotonic()) > 0:
        try:
            return process.communicate(stdin, left if silence is None else min(silence, left))
        except subprocess.TimeoutExpired as error:  # the next call continues where this one stopped
            so_far = len(error.stdout or b"") + len(error.stderr or b"")
        if silence is not None:
            work = cpu_seconds(process.pid)
            if so_far == written and work - worked < _LEAST_WORK * silence and time.monotonic() < end:
                raise _TookTooLongError(f"made no progress for {silence:g} s")
            worked = work
        written = so_far
    raise _TookTooLongError(f"took longer than {timeout:.0f} s")


class Git:
    """Git with one environment, one working directory and one time limit."""

    def __init__(self, timeout: float, folder: Path, *, isolated: bool = False, **environment: str) -> None:
        """Run in a folder; isolated means without any configuration but ours, and without network."""
        self._timeout = timeout
        self.silence: float | None = None
        self.folder = folder
        self._is_strict = isolated
        inherited = {key: value for key, value in os.environ.items() if key in _INHERITED or not key.startswith("GIT_")}
        self._environment: dict[str, str] = {
            **(_ISOLATED if isolated else inherited),
            **_NON_INTERACTIVE,
            **environment,
            **_settings(_SAFE_SETTINGS),
        }

    def ended_when_silent(self, seconds: float) -> "Git":
        """Return a git of which a command is ended if it makes no progress for so long: for those that show it."""
        found = copy(self)
        found.silence = seconds
        return found

    def in_folder(self, folder: Path) -> "Git":
        """Return the same git for another working directory."""
        found = copy(self)
        found.folder = folder
        return found

    def run(self, *arguments: str, stdin: bytes = b"", **environment: str) -> bytes:
        """Return the standard output of a git command; raise GitError if it fails or takes too long.

        A command that prints `error:` has failed, whatever its exit status: a checkout on a full disk exits with 0.
        Isolated, a command that reads files of a workspace has failed if it prints anything to standard error: a folder
        that git cannot read is only a warning to it, but lost work to us.
        """
        variables = {**self._environment, **environment}
        done = run_program(["git", *arguments], self.folder, self._timeout, stdin, variables, self.silence)
        if done.returncode != 0 or _ERROR.search(done.stderr) or self._has_complaints(arguments, done.stderr):
            raise GitError(_reason(arguments, done.stderr, done.returncode), done.returncode)
        return done.stdout

    def _has_complaints(self, arguments: Sequence[str], stderr: bytes) -> bool:
        return self._is_strict and bool(stderr) and not _READS_FILES.isdisjoint(arguments)

    def text(self, *arguments: str, **environment: str) -> str:
        """Return the standard output of a git command as text, without the final newline."""
        return os.fsdecode(self.run(*arguments, stdin=b"", **environment)).rstrip("\n")

    def names(self, *arguments: str, **environment: str) -> list[bytes]:
        """Return the NUL-separated names that a git command prints."""
        return [name for name in self.run(*arguments, stdin=b"", **environment).split(b"\0") if name]

    def succeeds(self, *arguments: str, **environment: str) -> bool:
        """Return whether a git command succeeds."""
        try:
            self.run(*arguments, stdin=b"", **environment)
        except GitError:
            return False
        return True


def _settings(settings: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """Return variables that override the settings of every config file (git-config(1), GIT_CONFIG_COUNT)."""
    found = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found


def _reason(arguments: Sequence[str], stderr: bytes, code: int) -> str:
    text = stderr.decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _PROGRESS.search(line)]
    important = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "ssh:"))] or lines[-3:]
    return f"{_name_of(['git', *arguments])}: {'; '.join(important[:4]) or f'exit status {code}'}"
