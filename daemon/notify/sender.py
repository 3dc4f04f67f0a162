"""Sends notifications: each target gets its events in order, and each event is retried until it is accepted."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import aiohttp
import structlog

from daemon.agents.process.spec import program_of
from daemon.config.live import LiveConfig
from daemon.config.schema import Notify
from daemon.config.secrets import read_secret
from daemon.errors import SecretError, StoreDamagedError, StoreUnavailableError
from daemon.http_client import HttpCall
from daemon.metrics import Metrics
from daemon.notify.answers import complete
from daemon.notify.apprise_call import send_with_apprise
from daemon.notify.formats import request_of
from daemon.notify.post import NotSentError, brief, post, run_command
from daemon.problems import described, standing_loop
from daemon.rules.notifications import next_try
from daemon.store.changes import Changes
from daemon.store.connection import Transaction
from daemon.store.home import Home
from daemon.store.notifications import Notification, first_of_each, put_off_notification, remove_notification
from daemon.store.run_notifications import NotificationEnd, end_notification, note_failed_attempt

_LOG = structlog.get_logger()
_DROPPED_AFTER = timedelta(hours=24)
_ATTEMPTS_IF_REFUSED = 5  # an event that a service refuses must not block later ones forever
_LONGEST_WAIT = timedelta(hours=1)
_LONGEST_PUT_OFF = 300.0  # seconds
_PART = "notifier"
_RETRY_AFTER = 5.0  # seconds, while the database cannot be read
_DAMAGED = NotificationEnd("dropped", "its row in the outbox is damaged")


@dataclass(frozen=True)
class _Handled:
    """A notification that is no longer to be sent."""

    content: str
    end: NotificationEnd


class Notifier:
    """Sends the notifications in the outbox."""

    def __init__(self, home: Home, live: LiveConfig, session: aiohttp.ClientSession, metrics: Metrics) -> None:
        self._home = home
        self._live = live
        self._session = session
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._handled: dict[int, _Handled] = {}
        """Notifications that were sent or dropped, but are still in the outbox."""
        self._put_off: dict[str, float] = {}
        """Targets that failed unexpectedly, with the monotonic time of the next attempt."""
        home.database.on_commit(self._committed)
        live.on_change(self._wake.set)

    def _committed(self, changes: Changes) -> None:
        if changes.labels("notification"):
            self._wake.set()

    async def serve(self) -> None:
        """Send until the task is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            await standing_loop(_PART, self._home.problems, partial(self._begin_sending, tasks), self._rest)

    async def _rest(self, pause: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()

    async def _begin_sending(self, tasks: asyncio.TaskGroup) -> float | None:
        """Begin to send due notifications to idle targets; return the seconds until the next, None if none waits."""
        self._wake.clear()
        self._home.problems.keep_only(_PART, self._live.config.notify)
        try:
            waiting, damaged = await self._home.database.read(first_of_each)
        except StoreUnavailableError:
            return _RETRY_AFTER
        pauses = []
        for notification in waiting:
            if notification.target in self._sending:
                continue
            pause = self._pause_before(notification)
            if pause > 0:
                pauses.append(pause)
                continue
            task = tasks.create_task(self._send_safely(notification))
            self._sending[notification.target] = task
            task.add_done_callback(partial(self._sent, notification.target))
        if damaged:
            await self._drop(damaged)
            return 0.0
        return min(pauses, default=None)

    def _pause_before(self, notification: Notification) -> float:
        """Return the seconds until a notification may be sent; not more than 0 if it may be sent now."""
        pause = (notification.next_try_at - self._home.now()).total_seconds()
        if pause > _LONGEST_WAIT.total_seconds():  # it was set before the clock was set back
            pause = 0.0
        return max(pause, self._put_off.get(notification.target, 0.0) - time.monotonic())

    async def _drop(self, damaged: list[tuple[int, str]]) -> None:
        """Remove notifications that cannot be read, since the later ones of their targets wait for them."""
        for number, target in damaged:
            _LOG.error("[daemon] Notification dropped: its row is damaged", target=target, id=number)
            end = partial(_end, number=number, content=None, end=_DAMAGED, now=self._home.now())
            await self._home.database.write_patiently(end)

    def _sent(self, target: str, _: asyncio.Task[None]) -> None:
        self._sending.pop(target, None)
        self._wake.set()

    async def _send_safely(self, notification: Notification) -> None:
        """Attempt once to send an event; an unexpected error postpones what its target gets, and nothing else."""
        target, problems = notification.target, self._home.problems
        try:
            await self._send(notification)
        except StoreDamagedError:
            raise
        except Exception as error:  # noqa: BLE001 - one target must affect neither the others nor the daemon
            pause = problems.next_pause(_PART, target, first=1.0, longest=_LONGEST_PUT_OFF)
            problems.report(_PART, described(error), subject=target, retry_in=pause)
            self._put_off[target] = time.monotonic() + pause
            _LOG.exception("[daemon] The result of a notification cannot be recorded; retrying", target=target)
        else:
            self._put_off.pop(target, None)

    async def _send(self, notification: Notification) -> None:
        """Attempt once to send an event, and record the result."""
        handled = self._handled.get(notification.id)
        if handled is None or handled.content != notification.content:
            end = await self._attempt(notification)
            if end is None:
                return
            handled = self._handled[notification.id] = _Handled(notification.content, end)
        else:  # its removal could not be recorded before
            self._home.problems.resolve(_PART, notification.target)
        await self._remove(notification, handled.end)

    async def _attempt(self, notification: Notification) -> NotificationEnd | None:
        """Attempt once to send an event, and return what became of it, None if it is retried.

        A target is a problem until it gets an event.
        """
        target, problems = notification.target, self._home.problems
        settings, keys = self._live.config.notify.get(target), _named(notification)
        if settings is None or not settings.receives_events:
            _LOG.warning("[daemon] Notification dropped: its target is no longer in the config", **keys)
            return NotificationEnd("dropped", "its target is no longer in the config")
        try:
            await self._deliver(settings, notification)
        except Exception as unexpected:  # noqa: BLE001 - every error is retried, but not forever
            return await self._failed(notification, _not_sent(unexpected, settings))
        problems.resolve(_PART, target)
        self._metrics.notified("sent")
        _LOG.info("[daemon] Notification sent", **keys)
        return NotificationEnd("notified")

    async def _failed(self, notification: Notification, error: NotSentError) -> NotificationEnd | None:
        """Put off an event that could not be sent; return what became of it if that was the last attempt."""
        until, now = self._retry_at(notification, error), self._home.now()
        reason, keys = str(error), _named(notification)
        pause = None if until is None else (until - now).total_seconds()
        self._home.problems.report(_PART, error, subject=notification.target, retry_in=pause)
        if until is None:
            self._metrics.notified("given_up")
            _LOG.error("[daemon] Notification dropped after its last attempt", reason=reason, **keys)
            return NotificationEnd("dropped" if error.may_pass else "refused", reason)
        self._metrics.notified("failed")
        _LOG.warning("[daemon] Notification not sent, will retry", reason=reason, **keys)

        def put_off(tx: Transaction) -> None:
            put_off_notification(tx, notification.id, until)
            note_failed_attempt(tx, notification.id, reason, now)

        await self._home.database.write_patiently(put_off)
        return None

    async def _remove(self, notification: Notification, end: NotificationEnd) -> None:
        removal = self._home.database.write_patiently(
            partial(_end, number=notification.id, content=notification.content, end=end, now=self._home.now())
        )
        await asyncio.shield(asyncio.ensure_future(removal))  # a stop at this point must not cause it to be sent twice
        self._handled.pop(notification.id, None)

    def _retry_at(self, notification: Notification, error: NotSentError) -> datetime | None:
        """Return when to retry an event, None if it is dropped."""
        attempts = notification.tries + 1
        if self._home.now() - notification.created_at > _DROPPED_AFTER:
            return None
        if not error.may_pass and attempts >= _ATTEMPTS_IF_REFUSED:
            return None
        return self._home.now() + min(max(next_try(attempts), error.wait or timedelta(0)), _LONGEST_WAIT)

    async def _deliver(self, settings: Notify, notification: Notification) -> None:
        event = await asyncio.to_thread(complete, notification.event, self._home.state_dir)
        apprise_url = settings.apprise_url
        if settings.command is not None:
            body, _ = request_of("json", event)
            await run_command([program_of(settings.command, self._live.config), *settings.command[1:]], body)
        elif apprise_url is not None:
            name = f"notify.{notification.target}.apprise"
            url = await asyncio.to_thread(read_secret, self._live.config, name, apprise_url)
            await send_with_apprise(url.strip(), event)
        elif settings.url is not None:
            body, headers = request_of(settings.format, event)
            await post(self._session, HttpCall("notification", settings.url, body, headers))


def _end(tx: Transaction, number: int, content: str | None, end: NotificationEnd, now: datetime) -> None:
    """Remove a notification that is no longer to be sent, and record what became of it."""
    remove_notification(tx, number, content)
    end_notification(tx, number, end, now)


def _named(notification: Notification) -> dict[str, object]:
    """Return what names a notification in the log."""
    return {"target": notification.target, "about": notification.event.get("event")}


def _not_sent(error: Exception, settings: Notify) -> NotSentError:
    """Return why an event was not sent, without the secrets of the target's URL."""
    if isinstance(error, NotSentError):
        return error
    if isinstance(error, SecretError):
        return NotSentError(str(error))
    return NotSentError(brief(repr(error), [settings.url] if settings.url else []))
