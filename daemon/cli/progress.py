"""Show a progress bar on a terminal during long work of the command or of the daemon."""

import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from typing import Any, Self

from daemon.cli.client import Client
from daemon.config.schema import Config
from daemon.errors import AgentcronError

_TIMEOUT = 24 * 3600.0  # seconds
_POLL_INTERVAL = 0.5  # seconds


class Bar:
    """A progress bar for work of the command itself; shows nothing unless standard error is a terminal."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._shown: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._shown = Progress(console=Console(stderr=True), transient=True)
            self._shown.start()
            self._task = self._shown.add_task(self._text, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.stop()

    def begin(self, text: str) -> None:
        """Show that another piece of work begins, whose length is not known yet."""
        if self._shown is not None:
            self._shown.reset(self._task, total=None, description=text)
            self._shown.refresh()

    def show(self, done: int, total: int) -> None:
        """Show that `done` of `total` is done."""
        if self._shown is not None:
            self._shown.update(self._task, completed=done, total=total)


def request_with_progress(config: Config, path: str, body: dict[str, Any], sweep: str, text: str) -> dict[str, Any]:
    """Have the daemon run a sweep, and return its response; `text` labels the bar."""
    client = Client(config, _TIMEOUT)
    if not sys.stderr.isatty():
        return client.ask("POST", path, body)
    from rich.console import Console
    from rich.progress import Progress

    with ThreadPoolExecutor(1) as pool, Progress(console=Console(stderr=True), transient=True) as bar:
        response = pool.submit(client.ask, "POST", path, body)
        task = bar.add_task(text, total=None)
        while True:
            try:
                return response.result(_POLL_INTERVAL)
            except NotYetError:
                progress = _progress(config, sweep)
                if progress is not None:
                    bar.update(task, completed=progress["done"], total=progress["total"] or None)


def _progress(config: Config, sweep: str) -> dict[str, int] | None:
    try:
        progress: dict[str, int] | None = Client(config).get("/status")["sweeps"].get(sweep)
    except AgentcronError:  # the sweep continues
        return None
    return progress
