"""Who reads or changes which mirror in this daemon, so that no run waits for a mirror while it holds a slot."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from daemon.units import utc_now


@dataclass(frozen=True)
class MirrorChange:
    """A change of a mirror that is under way; the runs of its environment wait until it ends."""

    environment: str
    what: str
    since: datetime
    runs: Mapping[int, str]
    """The runs that need this change, with their agents."""


class MirrorUse:
    """The readers and the changes of all mirrors. A change waits for the readers, new readers wait for it."""

    def __init__(self) -> None:
        self._readers: Counter[str] = Counter()
        self._changes: dict[str, MirrorChange] = {}
        self._waits: dict[int, MirrorChange] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._reader_left = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    @property
    def changes(self) -> list[MirrorChange]:
        """The changes under way, by environment."""
        return [self._changes[name] for name in sorted(self._changes)]

    @property
    def waits(self) -> list[MirrorChange]:
        """The changes under way, and likewise what running runs wait for at remotes."""
        return [*self.changes, *(self._waits[run] for run in sorted(self._waits))]

    def note_step(self, environment: str, what: str) -> None:
        """Note what a change that is under way does from now on."""
        self._changes[environment] = replace(self._changes[environment], what=what, since=utc_now())

    def note_wait(self, environment: str, what: str, run_id: int, agent: str) -> None:
        """Note what a run waits for at remotes from now on."""
        self._waits[run_id] = MirrorChange(environment, what, utc_now(), {run_id: agent})

    def end_wait(self, run_id: int) -> None:
        """Note that a run waits for no remote any more."""
        self._waits.pop(run_id, None)

    def is_changed(self, environment: str) -> bool:
        """Return whether a mirror is being changed, or is to be as soon as its readers are done."""
        return environment in self._changes

    def on_change_end(self, listener: Callable[[], None]) -> None:
        """Have a function called, which must not block or raise, whenever a change ends."""
        self._listeners.append(listener)

    @contextlib.contextmanager
    def reading(self, environment: str) -> Iterator[None]:
        """Read a mirror that is not being changed."""
        self._readers[environment] += 1
        try:
            yield
        finally:
            self._readers[environment] -= 1
            self._reader_left.set()

    @contextlib.asynccontextmanager
    async def changing(self, environment: str, what: str, runs: Mapping[int, str]) -> AsyncIterator[None]:
        """Change a mirror when its turn has come and its readers are done; `runs` are those that need it."""
        async with self._turns.setdefault(environment, asyncio.Lock()):
            self._changes[environment] = MirrorChange(environment, what, utc_now(), runs)
            try:
                while self._readers[environment]:
                    self._reader_left.clear()
                    await self._reader_left.wait()
                yield
            finally:
                del self._changes[environment]
                for listener in self._listeners:
                    listener()
