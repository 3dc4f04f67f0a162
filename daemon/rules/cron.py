"""Cron expressions with the meaning of Debian's cron (crontab(5), cron(8)), built on cronsim.

cronsim only steps through naive wall-clock time. This file maps that to instants in a zone and decides what happens
where the zone's offset changes, as cron(8) does: clock changes of less than three hours are smoothed over. A job whose
minute and hour fields are both fixed runs right after a skipped hour (cron spreads several such starts over minutes;
here they are one due time, the end of the gap) and once in a repeated hour. A job with a wildcard in either field
follows the wall clock.
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_LONGEST_EXPRESSION = 1000
_SMOOTHED = timedelta(hours=3)
_DAY = timedelta(days=1)
_GAPS_FROM, _GAPS_UNTIL = date(2000, 1, 1), date(2009, 1, 1)
"""The days in which gaps are measured: nine years, with three leap days."""
_SECOND = timedelta(seconds=1)
_INSTANT = timedelta(microseconds=1)
_NAME = "[A-Za-z]{3}"
_ITEM = rf"(?:\*|(?:[0-9]{{1,4}}|{_NAME})-(?:[0-9]{{1,4}}|{_NAME}))(?:/[0-9]+)?|[0-9]{{1,4}}|{_NAME}"
_FIELD = re.compile(rf"(?:{_ITEM})(?:,(?:{_ITEM}))*")
_STEPS = re.compile(rf"([0-9]{{1,4}}|{_NAME})-([0-9]{{1,4}}|{_NAME})/[0-9]+")
_DAYS, _MONTHS = "sunmontuewedthufrisat", "janfebmaraprmayjunjulaugsepoctnovdec"
_FIELDS = (
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day-of-month", "1-31"),
    ("month", "1-12 or jan-dec"),
    ("day-of-week", "0-7 or sun-sat"),
)


@dataclass(frozen=True)
class CronExpression:
    """A cron expression that Debian's cron would accept, as its five fields."""

    fields: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "CronExpression":
        """Parse five fields or a macro; raise ValueError that says what is wrong and what is allowed."""
        if len(text) > _LONGEST_EXPRESSION:
            raise ValueError(f"a cron expression has at most {_LONGEST_EXPRESSION} characters")
        if text.strip(" \t").startswith("@"):
            return cls._macro(text.strip(" \t"))
        fields = tuple(re.findall("[^ \t]+", text))  # Debian's cron knows no other white space
        if len(fields) != len(_FIELDS):
            raise ValueError(
                f"{len(fields)} fields; a cron expression has five: minute hour day-of-month month day-of-week, "
                f"or is one of {', '.join(MACROS)}"
            )
        for (name, allowed), field in zip(_FIELDS, fields, strict=True):
            _check_field(name, allowed, field)
        expression = cls(tuple(_without_vain_steps(field) for field in fields))
        expression._check_satisfiable()
        return expression

    @classmethod
    def _macro(cls, text: str) -> "CronExpression":
        if text == "@reboot":
            raise ValueError("@reboot is not a time; agentcron starts runs on a cron expression or an interval")
        if text not in MACROS:
            raise ValueError(f"unknown macro; the macros are {', '.join(MACROS)}")
        return cls(tuple(MACROS[text].split()))

    def _check_satisfiable(self) -> None:
        try:
            found = next(self.walls(datetime(2000, 1, 1)), None)  # noqa: DTZ001 - a wall clock has no zone
        except CronSimError:  # each field is valid alone, so the combination is not
            found = None
        if found is None:
            raise ValueError(
                "no date ever matches: such a day does not exist in such a month; "
                "for a schedule that only people trigger, write another one and set paused = true"
            )

    @property
    def wildcard(self) -> bool:
        """Whether the job follows the wall clock across an offset change (minute or hour starts with `*`)."""
        return self.fields[0].startswith("*") or self.fields[1].startswith("*")

    def walls(self, after: datetime) -> Iterator[datetime]:
        """Yield the matching wall-clock minutes strictly after a naive one, within cronsim's horizon of 50 years."""
        walker = copy.copy(_compiled(" ".join(self.fields)))
        walker.dt = after.replace(microsecond=0)
        return walker

    def next_after(self, instant: datetime, zone: ZoneInfo) -> datetime | None:
        """Return the first due time strictly after a UTC instant, None if there is none in the next 50 years."""
        fixed = zone.utcoffset(None)
        if fixed is not None:  # such as UTC: the offset never changes
            wall = next(self.walls((instant + fixed).replace(tzinfo=None)), None)
            return None if wall is None else (wall - fixed).replace(tzinfo=UTC)
        horizon = min(instant.year + 50, 9990)
        while instant.year <= horizon:
            end, offset = _segment(instant, zone)
            wall = next(self.walls((instant + offset).replace(tzinfo=None)), None)
            if wall is None:
                return None
            near = wall.replace(tzinfo=UTC)
            if near > end + 3 * _DAY and end - instant == _DAY:
                # nothing can match before the day of the next matching wall time, whatever the offset is then
                then = _offset(near - _DAY, zone)
                if then == _offset(near + _DAY, zone):
                    return near - then
                instant = near - 2 * _DAY
                continue
            for due in self._in_segment(instant, end, offset, zone):
                return due
            instant = end
        return None

    def _in_segment(self, after: datetime, end: datetime, offset: timedelta, zone: ZoneInfo) -> Iterator[datetime]:
        """Yield due times with after < due <= end, where the offset holds before `end` and may change at it."""
        for wall in self.walls((after + offset).replace(tzinfo=None)):
            due = (wall - offset).replace(tzinfo=UTC)
            if due >= end:
                break
            if self.wildcard or not _is_repeat(due, zone):
                yield due
        if self._fires_at_change(end, offset, zone):
            yield end

    def _fires_at_change(self, end: datetime, offset: timedelta, zone: ZoneInfo) -> bool:
        """Return whether a job is due at the instant of an offset change, possibly for the hour that it skips."""
        gap = _offset(end, zone) - offset
        after_change = (end + _offset(end, zone)).replace(tzinfo=None)
        first = after_change
        if timedelta(0) < gap < _SMOOTHED and not self.wildcard:
            first -= gap
        match = next(self.walls(first - _SECOND), None)
        if match is None or match > after_change:
            return False
        return self.wildcard or not _is_repeat(end, zone)

    def count(self, after: datetime, until: datetime, zone: ZoneInfo) -> int:
        """Count the due times in after < due <= until day by day, without enumerating those of ordinary days."""
        per_day = self._per_day()
        total, at, end = 0, after + _INSTANT, until + _INSTANT
        while at < end:
            day_end = min(_next_midnight(at, zone), end)
            whole_day = day_end - at == _DAY and _is_midnight(at, zone)
            if whole_day and _offset(at - _DAY, zone) == _offset(day_end + _DAY, zone):
                total += per_day if self.matches_date(at.astimezone(zone).date()) else 0
            else:
                total += self._enumerate(at, day_end, zone)
            at = day_end
        return total

    def gaps(self) -> tuple[timedelta, timedelta]:
        """Return the least and the most time between two due times in succession, as long as the offset is constant."""
        days, times = _gaps_of_days(self.fields[2:]), _times_of_day(self.fields[:2])
        within = [later - earlier for earlier, later in pairwise(times)]
        night = times[0] - times[-1]  # to the first one of the next day, without that day
        return min([*within, min(days) + night]), max([*within, max(days) + night])

    def _enumerate(self, start: datetime, end: datetime, zone: ZoneInfo) -> int:
        """Count the due times in start <= due < end one by one."""
        total, due = 0, self.next_after(start - _INSTANT, zone)
        while due is not None and due < end:
            total, due = total + 1, self.next_after(due, zone)
        return total

    def _per_day(self) -> int:
        walker = _compiled(" ".join(self.fields))
        return len(walker.minutes) * len(walker.hours)

    def matches_date(self, day: date) -> bool:
        """Return whether it is due on a day, whatever the zone."""
        walker = _compiled(" ".join(self.fields))
        return day.month in walker.months and walker.match_day(day)


@lru_cache(maxsize=1024)
def _gaps_of_days(fields: tuple[str, ...]) -> tuple[timedelta, timedelta]:
    """Return the shortest and the longest gap between days that match day of month, month and day of week."""
    if all(field == "*" for field in fields):
        return _DAY, _DAY
    expression = CronExpression(("0", "0", *fields))
    every_day = [_GAPS_FROM + number * _DAY for number in range((_GAPS_UNTIL - _GAPS_FROM).days)]
    days = [day for day in every_day if expression.matches_date(day)]
    gaps = [later - earlier for earlier, later in pairwise(days)] or [_GAPS_UNTIL - _GAPS_FROM]
    return min(gaps), max(gaps)


@lru_cache(maxsize=1024)
def _times_of_day(fields: tuple[str, ...]) -> list[timedelta]:
    """Return the times of day that match minute and hour, in order."""
    walker = _compiled(" ".join((*fields, "*", "*", "*")))
    return [timedelta(hours=hour, minutes=minute) for hour in sorted(walker.hours) for minute in sorted(walker.minutes)]


def _without_vain_steps(field: str) -> str:
    """Return a field with N instead of N-N/STEP, which cronsim takes for N/STEP: for cron, the range ends the steps."""
    return ",".join(
        found[1] if (found := _STEPS.fullmatch(item)) and _number(found[1]) == _number(found[2]) else item
        for item in field.split(",")
    )


def _number(text: str) -> int:
    if text.isdigit():
        return int(text)
    names, first = (_DAYS, 0) if text.lower() in _DAYS else (_MONTHS, 1)
    return names.index(text.lower()) // 3 + first


def _check_field(name: str, allowed: str, field: str) -> None:
    if not _FIELD.fullmatch(field):
        raise ValueError(
            f"{name} {field!r}: write *, numbers, names, ranges and steps such as */5, 1-5, 1-30/2 or 1,15; "
            f"allowed are {allowed}"
        )
    fields = ["*"] * len(_FIELDS)
    fields[[name for name, _ in _FIELDS].index(name)] = field
    try:
        _compiled(" ".join(fields))
    except CronSimError:
        raise ValueError(f"{name} {field!r}: allowed are {allowed}, a range from low to high, a step from 1") from None


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> CronSim:
    return CronSim(expression, datetime(2000, 1, 1))  # noqa: DTZ001 - a wall clock has no zone


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    if offset is None:
        raise ValueError(f"{zone} has no offset at {instant}")
    return offset


def _segment(start: datetime, zone: ZoneInfo) -> tuple[datetime, timedelta]:
    """Return the end of the period of constant offset that starts at an instant (at most a day), and the offset."""
    offset, end = _offset(start, zone), start + _DAY
    if _offset(end, zone) == offset:
        return end, offset
    low, high = int(start.timestamp()), int(end.timestamp()) + 1
    while high - low > 1:
        middle = (low + high) // 2
        if _offset(datetime.fromtimestamp(middle, UTC), zone) == offset:
            low = middle
        else:
            high = middle
    return datetime.fromtimestamp(high, UTC), offset


def _is_repeat(due: datetime, zone: ZoneInfo) -> bool:
    """Return whether an instant lies in the second pass of a repeated period that cron smooths over."""
    local = due.astimezone(zone)
    first = local.replace(fold=0).utcoffset()
    second = local.utcoffset()
    return local.fold == 1 and first is not None and second is not None and first - second <= _SMOOTHED


def _next_midnight(instant: datetime, zone: ZoneInfo) -> datetime:
    following = instant.astimezone(zone).date() + _DAY
    midnight = datetime.combine(following, time(), zone).astimezone(UTC)
    return midnight if midnight > instant else instant + _DAY


def _is_midnight(instant: datetime, zone: ZoneInfo) -> bool:
    return instant.astimezone(zone).time() == time()
