"""When a limit of an agent's account is reset, in the words in which programs tell that."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

from daemon.rules.cadence import check_zone

LONGEST_WAIT = timedelta(days=7)
"""No limit lasts longer; a later time is a mistake, and looked at again then."""
_JUST_PASSED = timedelta(minutes=10)
"""A time of day that is so little in the past is today's: the program ended some time after it told it."""
_LONGEST = 4000  # characters that are searched
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}

_EVENT = r"(?:resets?|retry|try again|available again|again|wait)"
_UNIT = r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)"
_PART = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(ms|[dhms])")
_DURATION = re.compile(
    rf"{_EVENT} (?:after|in|for)?:? ?((?:\d[\d.]{{0,18}} ?{_UNIT}(?![a-z])[ ,]{{0,2}}){{1,4}})", re.IGNORECASE
)
_COMPACT = re.compile(rf"{_EVENT} (?:after|in|for)?:? ?((?:\d{{1,6}}(?:\.\d{{1,9}})?[dhms]){{2,4}})", re.IGNORECASE)
_EPOCH = re.compile(r"\|(\d{10})(?!\d)")
_ISO = re.compile(
    rf"{_EVENT}[^0-9]{{0,20}}(\d{{4}}-\d\d-\d\d[t ]\d\d:\d\d(?::\d\d)?)(?:\.\d{{1,9}})? ?(z|utc|[+-]\d\d:?\d\d)?",
    re.IGNORECASE,
)
_CLOCK = re.compile(
    rf"{_EVENT} (?:at |on )?"
    rf"(?:(?P<month>{'|'.join(_MONTHS)})[a-z]{{0,6}} (?P<day>\d{{1,2}})(?:st|nd|rd|th)?"
    r"(?:,? (?P<year>\d{4}))?,? (?:at )?)?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?(?: ?(?P<half>am|pm))?(?![\d:])"
    r"(?: ?\((?P<zone>[^)\s]{1,60})\)| (?P<utc>utc|gmt))?",
    re.IGNORECASE,
)


def reset_in(words: str, now: datetime, zone: tzinfo | None = None) -> datetime | None:
    """Return when a limit is reset according to an agent's words (UTC), None if they do not tell.

    It is never before `now`, and at most 7 days later. A time of day is of `zone` where the words name none; None is
    the zone of this host.
    """
    text = " ".join(words[:_LONGEST].split())
    for find in (_epoch, _iso, _duration, _clock):
        for found in find(text, now, zone):
            return max(now, min(found, now + LONGEST_WAIT)).astimezone(UTC)
    return None


def _epoch(text: str, now: datetime, _: tzinfo | None) -> Iterator[datetime]:
    for match in _EPOCH.finditer(text):
        yield from _not_past(datetime.fromtimestamp(int(match[1]), UTC), now)


def _iso(text: str, now: datetime, zone: tzinfo | None) -> Iterator[datetime]:
    for match in _ISO.finditer(text):
        try:
            naive = datetime.fromisoformat(match[1].upper().replace(" ", "T"))
            offset = (match[2] or "").upper().replace("UTC", "Z")
            aware = datetime.fromisoformat(f"{naive.isoformat()}{offset}") if offset else _local(naive, zone)
        except (ValueError, OverflowError):
            continue
        yield from _not_past(aware, now)


def _duration(text: str, now: datetime, _: tzinfo | None) -> Iterator[datetime]:
    for match in (*_COMPACT.finditer(text), *_DURATION.finditer(text)):
        parts = _PART.findall(match[1].lower().replace("milli", "m"))
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        if seconds > 0:
            yield now + timedelta(seconds=min(seconds, LONGEST_WAIT.total_seconds()))


def _clock(text: str, now: datetime, zone: tzinfo | None) -> Iterator[datetime]:
    for match in _CLOCK.finditer(text):
        if match["half"] is None and match["minute"] is None:
            continue  # a bare number is something else
        try:
            named = _zone_named(match["zone"] or match["utc"], zone)
            yield from _next(match, now, named)
        except (ValueError, OverflowError):  # no such hour, day or zone
            continue


def _next(match: re.Match[str], now: datetime, zone: tzinfo | None) -> Iterator[datetime]:
    """Yield the instant of a time of day: of the date that is said, else the next one."""
    today = now.astimezone(zone).replace(tzinfo=None)
    time = today.replace(hour=_hour(match), minute=int(match["minute"] or 0), second=0, microsecond=0)
    if match["month"] is None:
        found = _local(time, zone)
        yield found if found >= now - _JUST_PASSED else _local(time + timedelta(days=1), zone)
        return
    month, day = _MONTHS.index(match["month"].lower()) + 1, int(match["day"])
    years = (int(match["year"]),) if match["year"] else (today.year, today.year + 1)
    for year in years:
        found = _local(time.replace(year=year, month=month, day=day), zone)
        if match["year"] or found <= now + LONGEST_WAIT:
            yield from _not_past(found, now)


def _hour(match: re.Match[str]) -> int:
    """Return the hour of 24; raise ValueError if a clock has no such hour."""
    hour, half = int(match["hour"]), (match["half"] or "").lower()
    if not half:
        return hour
    if not 1 <= hour <= 12:  # noqa: PLR2004 - as on a clock
        raise ValueError("no hour of twelve")
    return hour % 12 + (12 if half == "pm" else 0)


def _zone_named(name: str | None, otherwise: tzinfo | None) -> tzinfo | None:
    """Return the zone of a name; raise ValueError if there is none."""
    if name is None:
        return otherwise
    return UTC if name.upper() in {"UTC", "GMT"} else check_zone(name)


def _local(time: datetime, zone: tzinfo | None) -> datetime:
    return time.astimezone(UTC) if zone is None else time.replace(tzinfo=zone).astimezone(UTC)


def _not_past(found: datetime, now: datetime) -> Iterator[datetime]:
    if found >= now - _JUST_PASSED:
        yield found
