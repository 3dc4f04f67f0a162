"""Ready time, memory and idle CPU of the daemon with many declared schedules; the first start and a restart.

Run: python tests/benchmarks/start_time.py [COUNT ...]
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

IDLE = 10.0  # seconds over which CPU is measured
TICKS = os.sysconf("SC_CLK_TCK")


def write_config(folder: Path, count: int) -> Path:
    """Write schedules that are due once a year, so that the daemon is idle."""
    lines = ["[daemon]", 'state_dir = "state"', "[log]", 'level = "info"', "[agents.a]", 'command = ["true"]']
    for number in range(count):
        lines += [f"[agents.a.schedules.s{number}]", f'cron = "{number % 60} {number % 24} 1 1 *"']
    file = folder / "config.toml"
    file.write_text("\n".join(lines))
    return file


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def resident_mib(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def measure(file: Path) -> str:
    started = time.perf_counter()
    command = [sys.executable, "-m", "daemon", "--config", str(file), "run"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        for line in daemon.stderr:
            if "[daemon] Ready" in line:
                break
        ready = time.perf_counter() - started
        before = cpu_ticks(daemon.pid)
        threading.Event().wait(IDLE)
        cpu = (cpu_ticks(daemon.pid) - before) / TICKS / IDLE
        memory = resident_mib(daemon.pid)
        daemon.send_signal(signal.SIGTERM)
        daemon.stderr.read()
    return f"ready {ready:6.2f} s, resident {memory:6.1f} MiB, idle CPU {cpu * 100:.2f} %"


def main() -> None:
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed comes with its modules compiled
    for count in [int(word) for word in sys.argv[1:]] or [1, 1000, 10_000]:
        with tempfile.TemporaryDirectory() as folder:
            file = write_config(Path(folder), count)
            print(f"{count:7} schedules, first start: {measure(file)}")
            print(f"{count:7} schedules, restart:     {measure(file)}")


if __name__ == "__main__":
    main()
