"""The signals: SIGTERM and SIGINT stop the daemon, a second one at once, and SIGHUP reloads it."""

import asyncio
import signal
from functools import partial
from typing import Literal

from daemon.api.background import Background
from daemon.config.live import LiveConfig
from daemon.lifecycle.reload import Reloader
from daemon.log import Log

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


def ignore_hangups() -> None:
    """Ignore SIGHUP until there is a `Hangup`; it would end the start."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


class Hangup:
    """Reopens the log file and reloads the config at each SIGHUP, from its creation on.

    The log file is reopened at once; the reload waits until the daemon is `ready`.
    """

    def __init__(self, log: Log, reloader: Reloader, background: Background) -> None:
        self.ready = asyncio.Event()
        self._log = log
        self._reloader = reloader
        self._background = background
        self._waits = False
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_signal)

    def _on_signal(self) -> None:
        self._log.file.reopen()
        if not self._waits:
            self._waits = True
            self._background.start_unattended(self._reload())

    async def _reload(self) -> None:
        await self.ready.wait()
        self._waits = False
        await self._reloader.on_signal()
