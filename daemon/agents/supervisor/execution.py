"""The last steps of a forked child before it becomes the agent's command."""

import os
import signal
from typing import Any, NoReturn


def execute(spec: dict[str, Any], output: int, errors: int, report: int) -> NoReturn:
    """Become the command, in the forked child; report what went wrong and end if that cannot be done."""
    where = f"in {spec['cwd']!r}"
    try:
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.chdir(spec["cwd"])
        where = f"with the input {spec['stdin']!r}"
        source = os.open(spec["stdin"], os.O_RDONLY)
        os.dup2(source, 0)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        os.umask(spec["umask"])
        _die_first()
        where = repr(spec["argv"][0])
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - no shell is the point
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, FileNotFoundError) and os.path.exists(spec["argv"][0]):
            reason = "the interpreter that its first line names does not exist"
        os.write(report, f"cannot start {where}: {reason}"[:500].encode(errors="replace"))
    os._exit(127)


def _die_first() -> None:
    """Let the kernel choose the command before its supervisor and the daemon when memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "r+") as stream:
            adjusted = min(1000, int(stream.read()) + 500)
            stream.seek(0)
            stream.write(str(adjusted))
    except OSError:  # a sandbox without /proc: the command runs all the same
        return
