"""Ready time, memory and idle CPU with 1 and 1,000 schedules, against yacron and Debian cron.

Nothing is due while they are watched, for a little more than a minute, since both peers wake at each minute. Ours
starts on an empty state directory (every schedule gets its rows) and then again, as after a restart. cron has a
namespace of its own, sees no crontab but ours and says nothing when it is ready; it is left out where it is not
installed or where we are not root. Memory is what a process has for itself and a share of what others have too (PSS).

Run: pip install 'agentcron[benchmarks]'; python tests/benchmarks/idle_peers.py [COUNT ...]
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

IDLE = 65.0  # seconds
TICKS = os.sysconf("SC_CLK_TCK")
CRON = "/usr/sbin/cron"


def ours(folder: Path, count: int) -> tuple[list[str], str]:
    lines = ["[daemon]", 'state_dir = "state"', "[agents.a]", 'command = ["true"]']
    for number in range(count):
        lines += [f"[agents.a.schedules.s{number}]", f'cron = "{number % 60} {number % 24} 1 1 *"']
    file = folder / "config.toml"
    file.write_text("\n".join(lines))
    return [sys.executable, "-m", "daemon", "--config", str(file), "run"], "[daemon] Ready"


def yacron(folder: Path, count: int) -> tuple[list[str], str]:
    lines = ["jobs:"]
    for number in range(count):
        lines += [f"  - name: j{number}", "    command: 'true'", f'    schedule: "{number % 60} {number % 24} 1 1 *"']
    file = folder / "yacron.yaml"
    file.write_text("\n".join(lines))
    return [sys.executable, "-m", "yacron", "-l", "DEBUG", "-c", str(file)], "Will sleep for"


def cron(folder: Path, count: int) -> tuple[list[str], str]:
    empty, tab, run = folder / "empty", folder / "crontab", folder / "run"
    empty.mkdir(exist_ok=True)
    run.mkdir(exist_ok=True)
    tab.write_text("".join(f"{number % 60} {number % 24} 1 1 * root true\n" for number in range(count)))
    binds = {empty: "/etc/cron.d", tab: "/etc/crontab", run: "/run"}
    mounts = "; ".join(f"mount --bind {ours} {theirs}" for ours, theirs in binds.items())
    script = f"{mounts}; mount --bind {empty} /var/spool/cron/crontabs; exec {CRON} -f"
    return ["unshare", "--mount", "sh", "-ec", script], ""


def measure(command: list[str], ready_line: str) -> tuple[float, float, float]:
    """Return seconds until ready, MiB and CPU seconds per minute."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        if ready_line:
            next(line for line in process.stderr if ready_line in line)
        ready = time.perf_counter() - began
        threading.Thread(target=process.stderr.read, daemon=True).start()
        rest = threading.Event()
        rest.wait(2)
        before = cpu_seconds(process.pid)
        rest.wait(IDLE)
        cpu, memory = cpu_seconds(process.pid) - before, proportional_mib(process.pid)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    return ready, memory, cpu / IDLE * 60


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and of the children that it has waited for, finer than clock ticks."""
    slices = sum(int(task.read_text().split()[0]) for task in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return slices / 1e9 + (int(fields[13]) + int(fields[14])) / TICKS


def proportional_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed comes with its modules compiled
    for count in [int(word) for word in sys.argv[1:]] or [1, 1000]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            measured = {"first start": measure(*ours(folder, count)), "restart": measure(*ours(folder, count))}
            measured["yacron"] = measure(*yacron(folder, count))
            if shutil.which(CRON) and os.getuid() == 0:
                measured["cron"] = measure(*cron(folder, count))
        theirs = measured["yacron"]
        for who, (ready, memory, cpu) in measured.items():
            ready_text = "not told" if who == "cron" else f"{ready:5.2f} s ({ready / theirs[0]:4.2f})"
            print(
                f"{count:5} schedules, {who:11}: ready {ready_text}, memory {memory:5.1f} MiB "
                f"({memory / theirs[1]:4.2f}), CPU {cpu * 1000:7.1f} ms a minute ({cpu / theirs[2]:5.3f})"
            )


if __name__ == "__main__":
    main()
