"""Commands of root on the state of another user, whatever folder Python and agentcron are installed in."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.waiting import DEADLINE, wait_until

NOBODY = 65534
ONLY_FOR_ROOT = "what only root may read\n"
_NEEDED = sorted({Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[2]})
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

needs_another_user = pytest.mark.skipif(
    os.geteuid() != 0 or None in map(shutil.which, ("unshare", "setpriv")),
    reason="becoming another user needs root, unshare and setpriv",
)


def run(*command: str, uid: int = 0, timeout: float = 60, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run agentcron, or another Python command with `-c`, as a user, in its own view of the file system."""
    return subprocess.run(
        [*prefix(uid), sys.executable, *([] if command[0] == "-c" else ["-m", "daemon"]), *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, "NEEDED": _names(), **environment},
        stdin=subprocess.DEVNULL,
    )


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

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.theirs = folder / "n"
        self.state = self.theirs / "state"
        self.secret = folder / "only-root"

    def cli(self, *arguments: str, uid: int = 0, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command of agentcron on the config, by default as root."""
        return run("--config", str(self.config), *arguments, uid=uid, timeout=timeout)

    def give_away(self, path: Path) -> None:
        """Make a path, not what a link leads to, the other user's."""
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)

    @contextlib.contextmanager
    def daemon(self, uid: int = NOBODY) -> Iterator["subprocess.Popen[str]"]:
        """Run a daemon as a user until the end of the block; it is ready when the block begins."""
        command = [*prefix(uid), sys.executable, "-m", "daemon", "--config", str(self.config), "run"]
        log = self.folder / "daemon.log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                command, stderr=errors, stdin=subprocess.DEVNULL, text=True, env={**os.environ, "NEEDED": _names()}
            )
        try:
            wait_until(
                lambda: "[daemon] Ready" in log.read_text() or process.poll() is not None, what="the daemon's start"
            )
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(DEADLINE)


def new_site(folder: Path, config: str) -> Site:
    """Return a site in an empty folder, which others may enter."""
    site = Site(folder)
    folder.chmod(0o755)
    site.theirs.mkdir()
    site.give_away(site.theirs)
    site.secret.write_text(ONLY_FOR_ROOT)
    site.secret.chmod(0o600)
    site.config.write_text(config)
    return site


def _names() -> str:
    return " ".join(map(str, _NEEDED))
