"""What is asked of the supervisor of a run by signals: SIGTERM ends the run with grace, SIGUSR1 at once."""

import os
import signal


class Requests:
    """The requests so far; from its creation on, signals are noted instead of ending this process."""

    def __init__(self) -> None:
        self.wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        """Readable when a signal came, also when a child has ended."""
        self.came = False
        """Whether somebody has asked for the end of the run."""
        self._latest: str | None = None
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._ask("cancelled"))
        signal.signal(signal.SIGUSR1, lambda *_: self._ask("terminated"))
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def _ask(self, how: str) -> None:
        self.came = True
        if self._latest != "terminated":
            self._latest = how

    def clear_wakeup(self) -> None:
        """Wait for the next signal again."""
        os.read(self.wakeup, 4096)

    def take(self) -> str | None:
        """Return what was asked since the last time: `cancelled`, `terminated` (at once), or None."""
        latest, self._latest = self._latest, None
        return latest


def forget_in_child() -> None:
    """Let signals end this process, a child that was forked, as they end any other."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
