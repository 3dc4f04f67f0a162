"""Sends notifications: each target gets its events in order, and each event is retried until it is accepted."""

import asyncio
import contextlib
from datetime import datetime, timedelta
from functools import partial

import aiohttp
import structlog

from daemon.agents.process.spec import program_of
from daemon.config.live import LiveConfig
from daemon.config.schema import Notify
from daemon.errors import StoreUnavailableError
from daemon.http_client import HttpCall
from daemon.metrics import Metrics
from daemon.notify.formats import request_of
from daemon.notify.post import NotSentError, post, run_command
from daemon.rules.notifications import next_try
from daemon.store.changes import Changes
from daemon.store.home import Home
from daemon.store.notifications import Notification, first_of_each, put_off_notification, remove_notification

_LOG = structlog.get_logger()
_DROPPED_AFTER = timedelta(hours=24)
_ATTEMPTS_IF_REFUSED = 5  # an event that a service refuses must not block later ones forever
_LONGEST_WAIT = timedelta(hours=1)
_RETRY_AFTER = 5.0  # seconds, while the database cannot be read


class Notifier:
    """Sends the notifications in the outbox."""

    def __init__(self, home: Home, live: LiveConfig, session: aiohttp.ClientSession, metrics: Metrics) -> None:
        self._home = home
        self._live = live
        self._session = session
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}
        home.database.on_commit(self._committed)
        live.on_change(self._wake.set)

    def _committed(self, changes: Changes) -> None:
        if changes.labels("notification"):
            self._wake.set()

    async def serve(self) -> None:
        """Send until the task is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._wake.clear()
                pause = await self._begin_sending(tasks)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()

    async def _begin_sending(self, tasks: asyncio.TaskGroup) -> float | None:
        """Begin to send due notifications to idle targets; return the seconds until the next, None if none waits."""
        try:
            waiting = await self._home.database.read(first_of_each)
        except StoreUnavailableError:
            return _RETRY_AFTER
        pauses = []
        for notification in waiting:
            if notification.target in self._sending:
                continue
            pause = (notification.next_try_at - self._home.now()).total_seconds()
            if 0 < pause <= _LONGEST_WAIT.total_seconds():  # a longer pause was set before the clock was set back
                pauses.append(pause)
                continue
            task = tasks.create_task(self._send(notification))
            self._sending[notification.target] = task
            task.add_done_callback(partial(self._sent, notification.target))
        return min(pauses, default=None)

    def _sent(self, target: str, _: asyncio.Task[None]) -> None:
        self._sending.pop(target, None)
        self._wake.set()

    async def _send(self, notification: Notification) -> None:
        """Attempt once to send an event, and record the result."""
        settings = self._live.config.notify.get(notification.target)
        number, keys = notification.id, {"target": notification.target, "about": notification.event.get("event")}
        if settings is None or (settings.url is None and settings.command is None):
            _LOG.warning("[daemon] Notification dropped: its target is no longer in the config", **keys)
        else:
            try:
                await self._deliver(settings, notification)
            except Exception as unexpected:  # noqa: BLE001 - every error is retried, but not forever
                error = unexpected if isinstance(unexpected, NotSentError) else NotSentError(repr(unexpected))
                until = self._retry_at(notification, error)
                if until is not None:
                    self._metrics.notified("failed")
                    _LOG.warning("[daemon] Notification not sent, will retry", reason=str(error), **keys)
                    await self._home.database.write_patiently(lambda tx: put_off_notification(tx, number, until))
                    return
                self._metrics.notified("given_up")
                _LOG.error("[daemon] Notification dropped after its last attempt", reason=str(error), **keys)
            else:
                self._metrics.notified("sent")
                _LOG.info("[daemon] Notification sent", **keys)
        removal = self._home.database.write_patiently(lambda tx: remove_notification(tx, number))
        await asyncio.shield(asyncio.ensure_future(removal))  # a stop at this point must not cause it to be sent twice

    def _retry_at(self, notification: Notification, error: NotSentError) -> datetime | None:
        """Return when to retry an event, None if it is dropped."""
        attempts = notification.tries + 1
        if self._home.now() - notification.created_at > _DROPPED_AFTER:
            return None
        if not error.may_pass and attempts >= _ATTEMPTS_IF_REFUSED:
            return None
        return self._home.now() + min(max(next_try(attempts), error.wait or timedelta(0)), _LONGEST_WAIT)

    async def _deliver(self, settings: Notify, notification: Notification) -> None:
        if settings.command is not None:
            body, _ = request_of("json", notification.event)
            await run_command([program_of(settings.command, self._live.config), *settings.command[1:]], body)
        elif settings.url is not None:
            body, headers = request_of(settings.format, notification.event)
            await post(self._session, HttpCall("notification", settings.url, body, headers))
