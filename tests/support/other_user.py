"""Commands of root on the state of another user, whatever folder Python and agentcron are installed in."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import DEADLINE, wait_until

NOBODY = 65534
ONLY_FOR_ROOT = "what only root may read\n"
_CODE = Path(__file__).parents[2]
_NEEDED = sorted({Path(sys.base_prefix), Path(sys.prefix), _CODE})
_OPEN = """
closed=$1 && shift
kept=/mnt && mount -t tmpfs tmpfs "$kept"
for place in $NEEDED; do
    case $place in "$closed"/*) mkdir -p "$kept$place" && mount --bind "$place" "$kept$place";; esac
done
mount -t tmpfs -o mode=755 tmpfs "$closed"
for place in $NEEDED; do
    case $place in "$closed"/*) mkdir -p "$place" && mount --bind "$kept$place" "$place";; esac
done
exec "$@"
"""
"""Replaces a folder that others cannot enter by one that holds nothing but what agentcron needs."""

_SERVE = """
import json, os, signal, sys
from pathlib import Path
from tests.support import forked
daemons = {}
for line in sys.stdin:
    kind, arguments, uid, log = json.loads(line)
    become = f"import os; os.setgroups([]); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})"
    if kind == "run":
        done = forked.run(arguments, os.environ, Path("/"))
        answer = [done.returncode, done.stdout, done.stderr]
    elif kind == "start":
        daemon = forked.Forked(arguments, os.environ, Path("/"), Path(log), Path(log), slowed=become if uid else "")
        daemons[daemon.pid] = daemon
        answer = daemon.pid
    else:
        daemon = daemons.pop(arguments)
        daemon.send_signal(signal.SIGINT)
        answer = daemon.wait(60)
    print(json.dumps(answer), flush=True)
"""

needs_another_user = pytest.mark.skipif(
    os.geteuid() != 0 or None in map(shutil.which, ("unshare", "setpriv")),
    reason="becoming another user needs root, unshare and setpriv",
)


class Shell:
    """A process that has agentcron loaded and forks root's commands, in its own view of the file system."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [*prefix(), sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_CODE,
            env={**os.environ, "NEEDED": _names()},
        )

    def run(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command of root to its end; fail if it takes longer than any should."""
        return subprocess.CompletedProcess(arguments, *self._ask("run", arguments))

    def start(self, arguments: list[str], uid: int, log: Path) -> int:
        """Start a command as a user, with its output in a file; return its pid."""
        return int(self._ask("start", arguments, uid, str(log)))

    def stop(self, pid: int) -> None:
        """Interrupt a command that was started, and wait for its end."""
        self._ask("stop", pid)

    def _ask(self, kind: str, arguments: object, uid: int = 0, log: str = "") -> Any:  # noqa: ANN401 - it differs
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([kind, arguments, uid, log]), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"{arguments} did not end"
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(DEADLINE)


def prefix(uid: int = 0) -> list[str]:
    """Return what to put before a command so that it runs as a user, and any user can read agentcron."""
    closed = {above for place in _NEEDED for above in (place, *place.parents) if not above.stat().st_mode & 0o001}
    outermost = [one for one in closed if not closed & set(one.parents)]
    command = ["unshare", "--mount", "--propagation", "private"] if closed else []
    for place in outermost:
        command += ["sh", "-ec", _OPEN, "sh", str(place)]
    if uid:
        command += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all"]
    return command


class Site:
    """A folder of the host with a config of root's and a state directory in `n/`, which is the other user's."""

    def __init__(self, folder: Path, shell: Shell) -> None:
        self.folder = folder
        self._shell = shell
        self.config = folder / "config.toml"
        self.theirs = folder / "n"
        self.state = self.theirs / "state"
        self.secret = folder / "only-root"

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of agentcron on the config as root."""
        return self._shell.run(["--config", str(self.config), *arguments])

    def cli_of(self, uid: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of agentcron on the config as another user."""
        command = [*prefix(uid), sys.executable, "-m", "daemon", "--config", str(self.config), *arguments]
        given = {**os.environ, "NEEDED": _names()}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=given, cwd=_CODE)

    def give_away(self, path: Path) -> None:
        """Make a path, not what a link leads to, the other user's."""
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)

    @contextlib.contextmanager
    def daemon(self, uid: int = NOBODY) -> Iterator[int]:
        """Run a daemon as a user until the end of the block; it is ready when the block begins. Yield its pid."""
        log = self.folder / "daemon.log"
        log.unlink(missing_ok=True)
        pid = self._shell.start(["--config", str(self.config), "run"], uid, log)
        try:
            wait_until(
                lambda: log.exists() and "[daemon] Ready" in log.read_text(),
                what="the daemon's start",
                deadline=3 * DEADLINE,
            )
            yield pid
        finally:
            self._shell.stop(pid)


def new_site(folder: Path, config: str, shell: Shell) -> Site:
    """Return a site in an empty folder, which others may enter."""
    site = Site(folder, shell)
    folder.chmod(0o755)
    site.theirs.mkdir()
    site.give_away(site.theirs)
    site.secret.write_text(ONLY_FOR_ROOT)
    site.secret.chmod(0o600)
    site.config.write_text(config)
    return site


def _names() -> str:
    return " ".join(map(str, _NEEDED))
