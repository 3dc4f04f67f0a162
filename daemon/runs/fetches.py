"""Fetches mirrors before the runs that need them are started, so that a remote that hangs holds no slot.

An environment's mirror and those of its submodules are fetched and used together, so this speaks of one mirror.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from daemon.config.schema import Config
from daemon.store.runs import Run
from daemon.workspaces.client import WorkspaceHelperError, workspace_helper
from daemon.workspaces.jobs import FetchMirror, Source
from daemon.workspaces.mirror_use import MirrorUse
from daemon.workspaces.sources import source_for, source_of

_LOG = structlog.get_logger()
_LONGEST = 6 * 3600.0  # seconds for one fetch that makes progress
_SHORTEST_USE = 60.0  # seconds for which a fetch counts for the runs that asked for it, whatever fetch_every is


@dataclass(frozen=True)
class _Fetched:
    """The end of a fetch, which counts only while the config still says the same."""

    source: Source
    until: float
    """The monotonic time until which it counts."""
    error: str | None = None
    """Why the run that waited for it cannot have its workspace."""

    def counts(self, source: Source, now: float) -> bool:
        """Return whether it is a recent fetch of the same source, at a monotonic time."""
        return self.source == source and self.until > now


class Fetches:
    """The fetches under way, and what they led to."""

    def __init__(self, state_dir: Path, use: MirrorUse, tasks: asyncio.TaskGroup) -> None:
        self._state_dir = state_dir
        self._use = use
        self._group = tasks
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._held: dict[str, _Fetched] = {}
        """What each environment's mirror holds: the last fetch, if it succeeded, and until when none is needed."""
        self._fetched: dict[int, _Fetched] = {}
        """How the fetches ended that runs waited for."""
        self._reading: dict[int, contextlib.ExitStack] = {}
        """The runs whose workspaces are being made."""

    def on_end(self, listener: Callable[[], None]) -> None:
        """Have a function called whenever runs that waited for a mirror may start."""
        self._use.on_change_end(listener)

    def needed(self, run: Run, config: Config) -> str | None:
        """Return the environment whose mirror must be fetched, or left alone by others, before a run may start."""
        source = source_for(config, run.agent)
        if source is None:
            return None
        if self._use.is_changed(source.environment):
            return source.environment
        return None if self._is_ready(run.id, source, time.monotonic()) else source.environment

    def _is_ready(self, run_id: int, source: Source, now: float) -> bool:
        """Return whether the mirror is recent enough for a run, or its fetch has failed."""
        held, fetched = self._held.get(source.environment), self._fetched.get(run_id)
        if held is not None and held.counts(source, now):
            return True
        if fetched is None or not fetched.counts(source, now):
            return False
        return fetched.error is not None or (held is not None and held.source == source)

    def start(self, wanted: Mapping[str, Mapping[int, str]], config: Config) -> None:
        """Fetch the mirrors of some environments for some runs, given with their agents."""
        for environment, runs in wanted.items():
            source = source_of(config, environment)
            if source is not None and not self._use.is_changed(environment) and environment not in self._tasks:
                task = self._group.create_task(self._fetch(source, runs), name=f"fetch {environment}")
                self._tasks[environment] = task
                task.add_done_callback(partial(self._done, environment))

    def _done(self, environment: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(environment) is task:
            del self._tasks[environment]

    async def _fetch(self, source: Source, runs: Mapping[int, str]) -> None:
        environment, error, age = source.environment, None, 0.0
        async with self._use.changing(environment, "fetch", runs):
            self._held.pop(environment, None)
            try:
                note_step = partial(self._use.note_step, environment)
                async with workspace_helper(self._state_dir, partial(_log, environment), note_step) as helper:
                    age = (await helper.fetch_mirror(FetchMirror(source, _LONGEST))).age
            except (WorkspaceHelperError, OSError) as failure:
                error = str(failure)
            except Exception as failure:  # noqa: BLE001 - it must not stop the daemon
                _LOG.exception("[run] Unexpected error during a fetch", environment=environment)
                error = f"unexpected error: {type(failure).__name__}"
            self._note(source, runs, error, age)
            self._tasks.pop(environment, None)  # the end of the change wakes the queue

    def _note(self, source: Source, runs: Mapping[int, str], error: str | None, age: float) -> None:
        """Note how a fetch for some runs ended, and how many seconds ago the mirror was fetched."""
        now = time.monotonic()
        self._fetched = {run: fetched for run, fetched in self._fetched.items() if fetched.until > now}
        if error is None:
            self._held[source.environment] = _Fetched(source, now + source.fetch_every - age)
            until = now + max(_SHORTEST_USE, source.fetch_every - age)
        else:
            until = now + _SHORTEST_USE
        self._fetched |= dict.fromkeys(runs, _Fetched(source, until, error))

    @contextlib.contextmanager
    def claiming(self, config: Config) -> Iterator[None]:
        """Let no change of a mirror begin while runs are claimed."""
        with contextlib.ExitStack() as stack:
            for name, environment in config.environments.items():
                if environment.mode == "git" and not self._use.is_changed(name):
                    stack.enter_context(self._use.reading(name))
            yield

    def begin(self, run: Run, config: Config) -> None:
        """Note that the workspace of a claimed run is being made from the mirror."""
        source = source_for(config, run.agent)
        if source is not None:
            stack = self._reading[run.id] = contextlib.ExitStack()
            stack.enter_context(self._use.reading(source.environment))

    def note_wait(self, run: Run, environment: str, what: str) -> None:
        """Note what the workspace of a claimed run waits for at remotes, until `end`; it has what the mirror holds."""
        self._stop_reading(run.id)
        self._use.note_wait(environment, what, run.id, run.agent)

    def end(self, run_id: int) -> None:
        """Note that the workspace of a run is complete, or that there will be none."""
        self._use.end_wait(run_id)
        self._stop_reading(run_id)

    def _stop_reading(self, run_id: int) -> None:
        stack = self._reading.pop(run_id, None)
        if stack is not None:
            stack.close()

    def failure(self, run_id: int, source: Source) -> str | None:
        """Return why the fetch of a source for a run failed, None if it did not, or if the mirror holds it by now."""
        fetched, held = self._fetched.pop(run_id, None), self._held.get(source.environment)
        if fetched is None or fetched.source != source or (held is not None and held.source == source):
            return None
        return fetched.error

    def close(self) -> None:
        """End the fetches under way; the runs that wait for them stay pending."""
        for task in self._tasks.values():
            task.cancel()


def _log(environment: str, text: str) -> None:
    _LOG.warning("[run] Fetching a mirror", environment=environment, message=text)
