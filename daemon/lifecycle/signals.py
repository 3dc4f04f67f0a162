"""The wish to stop, as signals tell it: the first says how, a second one that it must be at once."""

import asyncio
import signal
from typing import Literal

StopMode = Literal["detach", "drain", "cancel"]


class Stop:
    """Whether and how the daemon is to stop; heard from its creation on."""

    def __init__(self, term_means: StopMode) -> None:
        """Listen for SIGTERM, and for SIGINT, which means cancel."""
        self.term_means = term_means
        self.mode: StopMode | None = None
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self._ask(self.term_means))
        loop.add_signal_handler(signal.SIGINT, lambda: self._ask("cancel"))

    def _ask(self, mode: StopMode) -> None:
        if self.mode is not None:
            self.at_once.set()
            return
        self.mode = mode
        self.asked.set()
