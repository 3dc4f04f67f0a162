"""Long work, the daemon's for us or our own, with a bar on a terminal that shows how far it has come."""

import sys
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from typing import Any, Self

from daemon.cli.client import Client
from daemon.config.schema import Config
from daemon.errors import AgentcronError

_LONGEST = 24 * 3600.0  # seconds
_LOOK_EVERY = 0.5  # seconds


class Bar:
    """A bar for work of our own, on a terminal; elsewhere nothing is shown."""

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

    def show(self, done: int, total: int) -> None:
        """Show how much of how much is done."""
        if self._shown is not None:
            self._shown.update(self._task, completed=done, total=total)


def ask_and_watch(config: Config, path: str, body: dict[str, Any], sweep: str, text: str) -> dict[str, Any]:
    """Have the daemon do a sweep, and return its answer; `text` stands beside the bar."""
    client = Client(config, _LONGEST)
    if not sys.stderr.isatty():
        return client.ask("POST", path, body)
    from rich.console import Console
    from rich.progress import Progress

    with ThreadPoolExecutor(1) as pool, Progress(console=Console(stderr=True), transient=True) as bar:
        answer = pool.submit(client.ask, "POST", path, body)
        task = bar.add_task(text, total=None)
        while True:
            try:
                return answer.result(_LOOK_EVERY)
            except NotYetError:
                found = _progress(config, sweep)
                if found is not None:
                    bar.update(task, completed=found["done"], total=found["total"] or None)


def _progress(config: Config, sweep: str) -> dict[str, int] | None:
    try:
        found: dict[str, int] | None = Client(config).get("/status")["sweeps"].get(sweep)
    except AgentcronError:  # the sweep goes on all the same
        return None
    return found
