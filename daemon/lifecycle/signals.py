"""Stop requests from signals: the first one selects how to stop, a second one stops at once."""

import asyncio
import signal
from functools import partial
from typing import Literal

from daemon.config.live import LiveConfig

StopMode = Literal["detach", "drain", "cancel"]


class Stop:
    """Whether and how to stop the daemon; handles signals from its creation on."""

    def __init__(self, live: LiveConfig) -> None:
        """Handle SIGTERM, which stops as `on_stop` of the config in force says, and SIGINT, which cancels runs."""
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
