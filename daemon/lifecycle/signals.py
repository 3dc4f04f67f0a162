"""The wish to stop, as signals express it: the first says how, a second one that it must be at once."""

import asyncio
import signal
from functools import partial
from typing import Literal

from daemon.config.live import LiveConfig

StopMode = Literal["detach", "drain", "cancel"]


class Stop:
    """Whether and how the daemon is to stop; it listens from its creation on."""

    def __init__(self, live: LiveConfig) -> None:
        """Listen for SIGTERM, which means what the config in force says, and for SIGINT, which means cancel."""
        self._live = live
        self.mode: StopMode | None = None
        self.requested = asyncio.Event()
        self.at_once = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_term)
        loop.add_signal_handler(signal.SIGINT, partial(self._request, "cancel"))

    def _on_term(self) -> None:
        self._request(self._live.config.daemon.on_stop)

    def _request(self, mode: StopMode) -> None:
        if self.mode is not None:
            self.at_once.set()
            return
        self.mode = mode
        self.requested.set()
