"""Running git: with a bound on its time, without a terminal, and with nothing that a repository could have planted.

Standard library only: the helper process imports this.
"""

import contextlib
import ctypes
import errno
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

_GRACE = 5.0  # seconds
_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_QUIET = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "SSH_ASKPASS": "true",
    "SSH_ASKPASS_REQUIRE": "force",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "true",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "LC_ALL": "C",
}
_NOTHING_PLANTED = (
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
_ALONE = {
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
_KEPT = {"GIT_SSH_COMMAND", "GIT_SSH", "GIT_SSL_CAINFO", "GIT_PROXY_COMMAND"}
"""How the administrator has remotes reached."""
_QUERY = re.compile(r"(?<=[^\s?])\?(?=[^\s?/'\"]*=)[^\s/'\"]*")
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


_ERROR = re.compile(rb"^error:", re.MULTILINE)
_TALKING = {("bundle", "verify")}  # it says that all is well, too
_running: set[int] = set()  # the groups of git processes under way


def end_all() -> None:
    """End the git processes that are under way, with all that they started."""
    for group in list(_running):
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.killpg(group, signal.SIGTERM)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a git process and what it started, with time to remove its locks."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


class GitError(Exception):
    """Git failed; the text says how, without credentials."""

    def __init__(self, text: str, code: int | None = None) -> None:
        """Note what git said, and its exit status if it came to one."""
        super().__init__(without_credentials(text))
        self.full = os.strerror(errno.ENOSPC) in text
        self.code = code


def config_value(text: str) -> str:
    """Return a text as a value in a config file of git's, whatever is in it (git-config(1), Syntax)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def without_credentials(text: str) -> str:
    """Return a text with the user information and the queries of all URLs in it left out."""
    return _QUERY.sub("?...", _CREDENTIALS.sub("", text))


def die_with(parent: int) -> None:
    """Have the kernel end this process when its parent's thread ends (prctl(2)); git then removes its locks.

    End it now if the parent, given by its pid, is gone already: the kernel says nothing of that.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def run_program(
    command: Sequence[str],
    place: Path,
    timeout: float,
    given: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in a folder, and end it with all that it started after some seconds, or when this process ends.

    Raise GitError if it cannot be run or takes too long.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=partial(die_with, os.getpid()),  # noqa: PLW1509 - it calls the kernel alone
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise GitError(f"cannot run {command[0]}: {error.strerror}: {error.filename}") from None
    _running.add(process.pid)
    with process:
        try:
            out, said = process.communicate(given, timeout)
        except BaseException as error:
            _end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                raise GitError(f"{' '.join(command[:2])} took longer than {timeout:.0f} s") from None
            raise
        finally:
            _running.discard(process.pid)
    return subprocess.CompletedProcess(command, process.returncode, out, said)


class Git:
    """Git with one environment and one bound on its time."""

    def __init__(self, timeout: float, place: Path, *, alone: bool = False, **environment: str) -> None:
        """Run in a folder; alone means with no configuration but ours, and no network."""
        self._timeout = timeout
        self._place = place
        self._strict = alone
        inherited = {key: value for key, value in os.environ.items() if key in _KEPT or not key.startswith("GIT_")}
        self._environment: dict[str, str] = {
            **(_ALONE if alone else inherited),
            **_QUIET,
            **environment,
            **_settings(_NOTHING_PLANTED),
        }

    def run(self, *arguments: str, given: bytes = b"", **environment: str) -> bytes:
        """Return the standard output of a git command; raise GitError if it fails or takes too long.

        A command that tells of an error has failed, whatever its exit status: a checkout on a full disk ends with 0.
        Alone, one that says anything at all has failed: a folder that it could not read is a warning, and work lost.
        """
        done = run_program(["git", *arguments], self._place, self._timeout, given, {**self._environment, **environment})
        if done.returncode != 0 or _ERROR.search(done.stderr) or self._says_too_much(arguments, done.stderr):
            raise GitError(_reason(arguments, done.stderr, done.returncode), done.returncode)
        return done.stdout

    def _says_too_much(self, arguments: Sequence[str], said: bytes) -> bool:
        return self._strict and bool(said) and arguments[:2] not in _TALKING

    def text(self, *arguments: str, **environment: str) -> str:
        """Return the standard output of a git command as text, its last newline left out."""
        return os.fsdecode(self.run(*arguments, given=b"", **environment)).rstrip("\n")

    def names(self, *arguments: str, **environment: str) -> list[bytes]:
        """Return the NUL-separated names that a git command prints."""
        return [name for name in self.run(*arguments, given=b"", **environment).split(b"\0") if name]

    def succeeds(self, *arguments: str, **environment: str) -> bool:
        """Tell whether a git command ends well."""
        try:
            self.run(*arguments, given=b"", **environment)
        except GitError:
            return False
        return True


def _settings(settings: Sequence[tuple[str, str]]) -> Mapping[str, str]:
    """Return the variables that give git settings above those of any file (git-config(1), GIT_CONFIG_COUNT)."""
    found = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found


def _reason(arguments: Sequence[str], said: bytes, code: int) -> str:
    lines = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "ssh:"))] or lines[-3:]
    return f"git {arguments[0]}: {'; '.join(told[:4]) or f'exit status {code}'}"
