"""Fetches mirrors before the runs that need them are started, so that a remote that hangs holds no slot."""

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
    """The end of a fetch, for one of the runs that waited for it."""

    until: float
    """The monotonic time until which it counts."""
    error: str | None
    """Why the run cannot have its workspace."""


class Fetches:
    """The fetches under way, and what they led to."""

    def __init__(self, state_dir: Path, use: MirrorUse, tasks: asyncio.TaskGroup) -> None:
        self._state_dir = state_dir
        self._use = use
        self._group = tasks
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._fresh: dict[Source, float] = {}
        """The monotonic times until which mirrors need not be fetched."""
        self._fetched: dict[int, _Fetched] = {}
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
        now, fetched = time.monotonic(), self._fetched.get(run.id)
        is_ready = (fetched is not None and fetched.until > now) or self._fresh.get(source, 0.0) > now
        return None if is_ready else source.environment

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
            try:
                async with workspace_helper(self._state_dir, partial(_log, environment)) as helper:
                    age = (await helper.fetch_mirror(FetchMirror(source, _LONGEST))).age
            except (WorkspaceHelperError, OSError) as failure:
                error = str(failure)
            except Exception as failure:  # noqa: BLE001 - it must not stop the daemon
                _LOG.exception("[run] Unexpected error during a fetch", environment=environment)
                error = f"unexpected error: {type(failure).__name__}"
            now = time.monotonic()
            if error is None:
                self._fresh = {known: until for known, until in self._fresh.items() if until > now}
                self._fresh[source] = now + source.fetch_every - age
            self._fetched = {run: fetched for run, fetched in self._fetched.items() if fetched.until > now}
            until = now + max(_SHORTEST_USE, source.fetch_every - age)
            self._fetched |= dict.fromkeys(runs, _Fetched(until, error))
            self._tasks.pop(environment, None)  # the end of the change wakes the queue

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

    def end(self, run_id: int) -> None:
        """Note that the workspace of a run is complete, or that there will be none."""
        stack = self._reading.pop(run_id, None)
        if stack is not None:
            stack.close()

    def failure(self, run_id: int) -> str | None:
        """Return why the fetch for a run failed, None if it did not."""
        fetched = self._fetched.pop(run_id, None)
        return fetched.error if fetched is not None else None

    def close(self) -> None:
        """End the fetches under way; the runs that wait for them stay pending."""
        for task in self._tasks.values():
            task.cancel()


def _log(environment: str, text: str) -> None:
    _LOG.warning("[run] Fetching a mirror", environment=environment, message=text)
