"""When a schedule is due: cron expressions and epoch-anchored intervals behind one interface, and jitter."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

from daemon.model import DueTime
from daemon.rules.cron import CronExpression

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT = timedelta(microseconds=1)


class Rhythm(Protocol):
    """A recurring sequence of UTC instants without beginning or end."""

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first due instant strictly after a UTC instant."""

    def count(self, after: datetime, until: datetime) -> int:
        """Count the due instants in after < due <= until."""

    def gaps(self) -> tuple[timedelta, timedelta]:
        """Return the least and the most time between two due instants in succession, without offset changes."""


@dataclass(frozen=True)
class Interval:
    """Due at Unix epoch + offset + n x length, so that a restart never shifts the phase."""

    length: timedelta
    offset: timedelta = timedelta(0)

    def next_after(self, instant: datetime) -> datetime:
        """Return the first due instant strictly after a UTC instant."""
        return _EPOCH + self.offset + (self._index(instant) + 1) * self.length

    def count(self, after: datetime, until: datetime) -> int:
        """Count the due instants in after < due <= until."""
        return max(0, self._index(until) - self._index(after))

    def gaps(self) -> tuple[timedelta, timedelta]:
        """Return the length twice."""
        return self.length, self.length

    def _index(self, instant: datetime) -> int:
        return (instant - _EPOCH - self.offset) // self.length


@dataclass(frozen=True)
class Cron:
    """Due when Debian's cron would start the job in the given zone."""

    expression: CronExpression
    zone: ZoneInfo

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first due instant strictly after a UTC instant."""
        return self.expression.next_after(instant, self.zone)

    def count(self, after: datetime, until: datetime) -> int:
        """Count the due instants in after < due <= until."""
        return self.expression.count(after, until, self.zone)

    def gaps(self) -> tuple[timedelta, timedelta]:
        """Return the least and the most time between two due instants in succession."""
        return self.expression.gaps()


@dataclass(frozen=True)
class Cadence:
    """A rhythm between two inclusive bounds, with the maximum jitter of starts."""

    rhythm: Rhythm
    start_at: datetime | None = None
    end_at: datetime | None = None
    jitter: timedelta = timedelta(0)

    def next_after(self, instant: datetime) -> DueTime | None:
        """Return the first due time strictly after a UTC instant, None if no more follow."""
        if self.start_at is not None and instant < self.start_at:
            instant = self.start_at - _INSTANT
        due = self.rhythm.next_after(instant)
        if due is None or (self.end_at is not None and due > self.end_at):
            return None
        return DueTime(due)

    def count(self, after: datetime, until: datetime) -> int:
        """Count the due times in after < due <= until without enumerating them."""
        if self.start_at is not None:
            after = max(after, self.start_at - _INSTANT)
        if self.end_at is not None:
            until = min(until, self.end_at)
        return self.rhythm.count(after, until) if after < until else 0

    def last_until(self, after: datetime, until: datetime) -> DueTime | None:
        """Return the newest due time in after < due <= until, None if there is none; search back in growing steps."""
        if self.end_at is not None:
            until = min(until, self.end_at)
        first = self.next_after(after)
        if first is None or first > until:
            return None
        stretch = timedelta(minutes=1)
        while after < until:
            since = max(after, until - stretch)
            due, last = self.next_after(since), None
            while due is not None and due <= until:
                last, due = due, self.next_after(due)
            if last is not None or since == after:
                return last
            stretch *= 2
        return None

    def start_of(self, due: DueTime, key: str) -> datetime:
        """Return the instant at which a due time's run starts: the due time plus its jitter.

        The jitter depends only on `key` and the due time, so that a restart repeats it. It is at most half the gap to
        the next due time, so that starts keep the order of due times.
        """
        if not self.jitter:
            return due
        following = self.rhythm.next_after(due)
        most = self.jitter if following is None else min(self.jitter, (following - due) / 2)
        digest = hashlib.blake2b(f"{key}|{due.timestamp()}".encode(), digest_size=8).digest()
        return due + most * (int.from_bytes(digest) / 2**64)


def cron_cadence(
    expression: str, timezone: str, start_at: datetime | None, end_at: datetime | None, jitter: timedelta
) -> Cadence:
    """Build the cadence of a cron schedule; raise ValueError for a bad expression or zone."""
    return Cadence(Cron(_parsed(expression), check_zone(timezone)), start_at, end_at, jitter)


def interval_cadence(
    length: timedelta,
    offset: timedelta,
    start_at: datetime | None,
    end_at: datetime | None,
    jitter: timedelta,
) -> Cadence:
    """Build the cadence of an interval schedule."""
    return Cadence(Interval(length, offset), start_at, end_at, jitter)


@lru_cache(maxsize=4096)
def _parsed(expression: str) -> CronExpression:
    return CronExpression.parse(expression)


def check_cron(expression: str) -> str:
    """Return the expression if Debian's cron would accept it; raise ValueError with the reason if not."""
    _parsed(expression)
    return expression


@lru_cache(maxsize=1024)
def check_zone(name: str) -> ZoneInfo:
    """Return the IANA time zone with that name; raise ValueError for an unknown or path-like name."""
    try:
        zone = ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        zone = None
    # not every file of the zone database is an IANA name
    if zone is None or name.startswith(("right/", "posix/")) or name in {"posixrules", "localtime"}:
        raise ValueError('unknown time zone; write an IANA name such as "Europe/London" or "UTC"')
    return zone
