"""Sends notifications: each target gets its events in their order, tried again until they are taken."""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

import aiohttp
import structlog
from yarl import URL

from daemon.agents.process.spec import base_environment, program_of
from daemon.agents.process.supervisor import tree
from daemon.config.schema import Config, Notify
from daemon.errors import StoreUnavailableError
from daemon.http_client import CallError, HttpCall, calling
from daemon.notify.payload import request_of
from daemon.rules.notifications import next_try
from daemon.store.database import Database
from daemon.store.notifications import (
    Notification,
    ailing_schedules,
    first_of_each,
    put_off_notification,
    remove_notification,
)

_LOG = structlog.get_logger()
_TO_HEADERS = 10.0  # seconds that a service has for its answer
_COMMAND_TIME = 30.0  # seconds
_GIVEN_UP_AFTER = timedelta(hours=24)
_TRIES_IF_REFUSED = 5  # what a service does not want must not hold up what comes after it for ever
_LONGEST_WAIT = timedelta(hours=1)
_PING_EVERY = 60.0  # seconds
_AGAIN_AFTER = 5.0  # seconds, while the database cannot be read or written
_COMPLAINT = 300  # bytes of what a command says of its failure


class NotSentError(Exception):
    """A target did not take an event; the text says why."""

    def __init__(self, text: str, *, may_pass: bool = True, wait: timedelta | None = None) -> None:
        super().__init__(text)
        self.may_pass = may_pass
        self.wait = wait


class Notifier:
    """Empties the table of what is to be sent, and tells the dead-man's switches how the daemon is."""

    def __init__(
        self,
        database: Database,
        session: aiohttp.ClientSession,
        config: Config,
        now: Callable[[], datetime],
        count: Callable[[str], None],
    ) -> None:
        """Prepare; `count` hears the result of each try: `sent`, `failed` or `given_up`."""
        self.config = config
        self._database = database
        self._session = session
        self._now = now
        self._count = count
        self._wanted = asyncio.Event()
        self._news = asyncio.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._well: dict[str, bool] = {}

    def wake(self) -> None:
        """Look soon: there is something to send."""
        self._wanted.set()

    def look(self) -> None:
        """Look soon whether all is still well: something has changed, perhaps the config."""
        self._wanted.set()
        self._news.set()

    async def serve(self) -> None:
        """Send until the task is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_for_ever())
            while True:
                self._wanted.clear()
                pause = await self._begin_sending(tasks)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wanted.wait()

    async def _begin_sending(self, tasks: asyncio.TaskGroup) -> float | None:
        """Begin to send what is due to targets that are free; return the seconds until the next look."""
        try:
            waiting = await self._database.read(first_of_each)
        except StoreUnavailableError:
            return _AGAIN_AFTER
        pauses = []
        for notification in waiting:
            if notification.target in self._sending:
                continue
            pause = (notification.next_try_at - self._now()).total_seconds()
            if 0 < pause <= _LONGEST_WAIT.total_seconds():  # one that lies further ahead was set by another clock
                pauses.append(pause)
                continue
            task = tasks.create_task(self._send(notification))
            self._sending[notification.target] = task
            task.add_done_callback(partial(self._sent, notification.target))
        return min(pauses, default=None)

    def _sent(self, target: str, _: asyncio.Task[None]) -> None:
        self._sending.pop(target, None)
        self._wanted.set()

    async def _send(self, notification: Notification) -> None:
        """Try once to send an event, and record what came of it."""
        settings = self.config.notify.get(notification.target)
        number, keys = notification.id, {"target": notification.target, "about": notification.event.get("event")}
        if settings is None or (settings.url is None and settings.command is None):
            _LOG.warning("[daemon] Notification dropped: its target left the config", **keys)
        else:
            try:
                await self._hand_over(settings, notification)
            except Exception as unexpected:  # noqa: BLE001 - whatever it is, it is tried again, and not for ever
                error = unexpected if isinstance(unexpected, NotSentError) else NotSentError(repr(unexpected))
                until = self._until(notification, error)
                if until is not None:
                    self._count("failed")
                    _LOG.warning("[daemon] Notification not sent; it is tried again", reason=str(error), **keys)
                    await self._database.write_patiently(lambda tx: put_off_notification(tx, number, until))
                    return
                self._count("given_up")
                _LOG.error("[daemon] Notification given up", reason=str(error), **keys)
            else:
                self._count("sent")
                _LOG.info("[daemon] Notification sent", **keys)
        removal = asyncio.ensure_future(self._database.write_patiently(lambda tx: remove_notification(tx, number)))
        await asyncio.shield(removal)  # a stop just now must not have it sent twice

    def _until(self, notification: Notification, error: NotSentError) -> datetime | None:
        """Return when something is tried again, None if it is given up."""
        tries = notification.tries + 1
        if self._now() - notification.created_at > _GIVEN_UP_AFTER:
            return None
        if not error.may_pass and tries >= _TRIES_IF_REFUSED:
            return None
        return self._now() + min(max(next_try(tries), error.wait or timedelta(0)), _LONGEST_WAIT)

    async def _hand_over(self, settings: Notify, notification: Notification) -> None:
        if settings.command is not None:
            body, _ = request_of("json", notification.event)
            await _run([program_of(settings.command, self.config), *settings.command[1:]], body)
        elif settings.url is not None:
            body, headers = request_of(settings.format, notification.event)
            await self._call(HttpCall("notification", settings.url, body, headers, _TO_HEADERS))

    async def _call(self, call: HttpCall) -> None:
        """Make a call of which only the status matters; raise NotSentError."""
        try:
            async with calling(self._session, call):
                return
        except CallError as error:
            raise NotSentError(str(error), may_pass=error.may_pass, wait=error.wait) from None

    # dead-man's switches

    async def _watch_for_ever(self) -> None:
        """Tell the switches every minute that all is well or not, and at once when that changes."""
        last: dict[str, float] = {}
        while True:
            self._news.clear()
            async with asyncio.TaskGroup() as pings:
                for name, settings in self.config.notify.items():
                    if settings.ping is not None:
                        pings.create_task(self._ping_safely(name, settings, settings.ping, last))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PING_EVERY):
                    await self._news.wait()

    async def _ping_safely(self, name: str, settings: Notify, url: str, last: dict[str, float]) -> None:
        try:
            await self._ping(name, settings, url, last)
        except Exception:  # noqa: BLE001 - a dead-man's switch must not stop the daemon
            _LOG.exception("[daemon] The dead-man's switch was not reached: unexpected error", target=name)

    async def _ping(self, name: str, settings: Notify, url: str, last: dict[str, float]) -> None:
        ill = await self._what_is_wrong(settings)
        now = time.monotonic()
        if self._well.get(name) is not (not ill):
            self._well[name] = not ill
            _LOG.info("[daemon] Dead-man's switch", target=name, well=not ill, ill=ill[:5])
        elif now - last.get(name, -_PING_EVERY) < _PING_EVERY:
            return
        last[name] = now
        place = str(URL(url) / "fail") if ill else url
        try:
            await self._call(HttpCall("ping", place, to_headers=_TO_HEADERS))
        except NotSentError as error:
            _LOG.warning("[daemon] The dead-man's switch was not reached", target=name, reason=str(error))

    async def _what_is_wrong(self, settings: Notify) -> list[str]:
        """Name the schedules that are not well among those that a switch is about."""
        try:
            await self._database.write(lambda tx: tx.execute("SELECT 1").fetchone())
            ailing = await self._database.read(ailing_schedules)
        except StoreUnavailableError as error:
            return [str(error)]
        return [address for agent, address in ailing if {"*", agent} & set(settings.agents)]


def _end_tree(pid: int) -> None:
    """Kill a command and all below it, those in sessions of their own included."""
    started = tree.start_of(pid)
    if started is not None:
        tree.kill(lambda: [tree.Process(pid, started), *tree.descendants(pid)])


async def _run(argv: list[str], text: bytes) -> None:
    """Run a command with a text on its standard input; raise NotSentError unless it ends well in time."""
    with tempfile.TemporaryFile() as said:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=said,
                env=base_environment(),
                start_new_session=True,
            )
        except OSError as error:
            raise NotSentError(f"cannot start {argv[0]!r}: {error.strerror}") from None
        try:
            async with asyncio.timeout(_COMMAND_TIME):
                await process.communicate(text)
        except TimeoutError:
            raise NotSentError(f"{argv[0]!r} did not end within {_COMMAND_TIME:.0f} s") from None
        finally:
            if process.returncode is None:
                await asyncio.to_thread(_end_tree, process.pid)
        words = " ".join(os.pread(said.fileno(), _COMPLAINT, 0).decode(errors="replace").split())
    if process.returncode != 0:
        raise NotSentError(f"{argv[0]!r} ended with status {process.returncode}" + (f": {words}" if words else ""))
