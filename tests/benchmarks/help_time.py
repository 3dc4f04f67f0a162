"""How long `agentcron --help` takes beyond a bare interpreter, in interleaved rounds."""

import statistics
import subprocess
import sys
import time

ROUNDS = 20
HELP = [sys.executable, "-m", "daemon", "--help"]
BARE = [sys.executable, "-c", "pass"]


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    pairs = [(seconds(HELP), seconds(BARE)) for _ in range(ROUNDS)]
    help_time, bare = (statistics.median(times) for times in zip(*pairs, strict=True))
    beyond = statistics.median(ours - theirs for ours, theirs in pairs)
    print(f"--help {help_time * 1000:.0f} ms, bare python {bare * 1000:.0f} ms, beyond it {beyond * 1000:.0f} ms")
    print(f"ratio {help_time / bare:.1f}")


if __name__ == "__main__":
    main()
