"""A separate host for a test: systemd as pid 1 of fresh namespaces, over an overlay of this host's files.

$AGENTCRON_TEST_TREE may name the files of another release instead, which debootstrap(8) lays down; it needs Python with
venv, git, sqlite3, procps, and what pip needs to find packages.
"""

import contextlib
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.agents.process.supervisor import cgroup
from tests.support.waiting import wait_until

_TREE = Path(os.environ.get("AGENTCRON_TEST_TREE", "/"))
_SYSTEMD = Path("/lib/systemd/systemd")
_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs -o size=2g tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=$3,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys && mount -o remount,ro,bind proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
for node in 'null 1 3' 'zero 1 5' 'full 1 7' 'random 1 8' 'urandom 1 9' 'tty 5 0'; do
    set -- "$1" "$2" $node
    mknod -m 666 "dev/$3" c "$4" "$5"
done
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
rm -rf etc/systemd/system opt/agentcron var/lib/agentcron etc/agentcron var/log/journal
mkdir -p etc/systemd/system var/tmp/here
: >etc/machine-id
printf '[Unit]\\nDescription=nothing but what a test starts\\n' >etc/systemd/system/bare.target
mkdir .outside && pivot_root . .outside && umount -l /.outside
mount --make-rshared /
exec env -i PATH=/usr/sbin:/usr/bin container=other \\
    "$2" --system --unit=bare.target --log-target=console --show-status=0
"""


class Host:
    """The running host; commands are run in it as root."""

    def __init__(self, pid: int) -> None:
        self._enter = ["nsenter", "-t", str(pid), "-m", "-p", "-i", "-u", "-C"]
        self.root = Path(f"/proc/{pid}/root")
        """Its files, from outside."""

    def run(self, script: str, *, check: bool = True, timeout: float = 90) -> str:
        """Run a shell script; return what it printed, and fail with that if it fails."""
        done = subprocess.run(
            [*self._enter, "sh", "-ec", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
            env={**os.environ, "PATH": "/usr/local/bin:/usr/sbin:/usr/bin", "HOME": "/root"},
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{script!r} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def wait_for(self, script: str, *, deadline: float = 40) -> None:
        """Return when a script has succeeded."""
        succeeds = f"{{ {script}\n}} >/dev/null 2>&1 && echo yes"
        wait_until(lambda: "yes" in self.run(succeeds, check=False), deadline=deadline, what=script)


@contextlib.contextmanager
def booted(folder: Path) -> Iterator[Host]:
    """Boot a host; skip the test, saying why, where that cannot be done."""
    mount = _version_2()
    if os.geteuid() != 0 or mount is None:
        pytest.skip("booting systemd needs root and cgroups of version 2")
    if not (_TREE / _SYSTEMD.relative_to("/")).exists() or not all(
        map(shutil.which, ("unshare", "nsenter", "pivot_root"))
    ):
        pytest.skip("booting systemd needs systemd and util-linux")
    group = mount / f"agentcron-host-{uuid.uuid4().hex[:12]}"
    for controller in (mount / "cgroup.controllers").read_text().split():
        cgroup.write(str(mount), "cgroup.subtree_control", f"+{controller}")
    group.mkdir()
    folder.mkdir()
    begin = 'echo $$ >"$0/cgroup.procs"; exec unshare -m -p -i -u -C --fork --kill-child sh -c "$1" sh "$2" "$3" "$4"'
    with (folder.parent / "systemd.log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", begin, str(group), _BOOT, str(folder), str(_SYSTEMD), str(_TREE)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        host = _up(process, folder.parent / "systemd.log")
        cgroup.write(str(mount), "cgroup.procs", str(process.pid))  # processes live in leaves only
        yield host
    finally:
        process.kill()  # and with it the host's first process, which takes all others along
        process.wait()
        wait_until(lambda: removed(group), what="the end of the host")


def removed(group: Path) -> bool:
    """Remove a cgroup as soon as the last of its processes is gone; tell whether that was done."""
    cgroup.remove(str(group))
    return not group.exists()


def _up(process: "subprocess.Popen[bytes]", log: Path) -> Host:
    def look() -> Host | None:
        if process.poll() is not None:
            pytest.skip(f"systemd cannot be booted here: {log.read_text(errors='replace')[-300:]}")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        host = Host(int(children[0])) if children else None
        return host if host is not None and _is_up(host) else None

    return wait_until(look, deadline=30, what="a booted host")


def _is_up(host: Host) -> bool:
    return host.run("systemctl is-active bare.target", check=False).strip() == "active"


def _version_2() -> Path | None:
    """Return where cgroups of version 2 are mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, system = line.partition(" - ")
        if system.split()[0] == "cgroup2" and os.access(mount.split()[4], os.W_OK):
            return Path(mount.split()[4])
    return None
