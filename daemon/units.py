"""Parse and format durations, sizes and instants as people write them; read the wall clock."""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_DURATION = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")
_ISO_DURATION = re.compile(r"P(?:([0-9]+)W)?(?:([0-9]+)D)?(?:T(?=[0-9])(?:([0-9]+)H)?(?:([0-9]+)M)?(?:([0-9]+)S)?)?")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kKMGTP]i?B|B)")
_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_FIRST_YEAR, _LAST_YEAR = 1970, 9000
_LONGEST = timedelta(days=36500)
_LARGEST = 8191 * 1024**5  # bytes; fits into 63 bits
_SECONDS_PER = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def parse_duration(text: str) -> timedelta:
    """Parse a duration such as `90s`, `1h30m` or ISO 8601 `PT15M`; raise ValueError for anything else."""
    match = _DURATION.fullmatch(text) or _ISO_DURATION.fullmatch(text)
    parts: tuple[str | None, ...] = match.groups() if match else ()
    if not any(parts):
        raise ValueError('not a duration; write it like "90s", "15m", "2h", "1d", "1h30m" or "PT15M"')
    if any(part and len(part) > 12 for part in parts):  # noqa: PLR2004 - far beyond the longest
        raise ValueError("longer than 36500 days")
    units = (604800, 86400, 3600, 60, 1)[-len(parts) :]
    seconds = sum(int(part) * unit for part, unit in zip(parts, units, strict=True) if part)
    if seconds > _LONGEST.total_seconds():
        raise ValueError("longer than 36500 days")
    return timedelta(seconds=seconds)


def format_duration(length: timedelta) -> str:
    """Format a duration as in the config, in whole seconds: `1h30m`."""
    rest = int(length.total_seconds())
    words = []
    for unit, seconds in _SECONDS_PER.items():
        count, rest = divmod(rest, seconds)
        if count:
            words.append(f"{count}{unit}")
    return "".join(words) or "0s"


def parse_size(text: str) -> int:
    """Parse a size such as `500MB` (powers of 1000) or `20GiB` (powers of 1024) to bytes; raise ValueError if bad."""
    match = _SIZE.fullmatch(text)
    if match is None or len(match[1]) > 18:  # noqa: PLR2004 - no disk holds 10**18 petabytes
        raise ValueError('not a size; write it like "500MB" or "20GiB"')
    number, unit = match.groups()
    base = 1024 if "i" in unit else 1000
    power = " KMGTP".index(unit[0].upper()) if unit != "B" else 0
    size = int(float(number) * base**power)
    if size > _LARGEST:
        raise ValueError("larger than 8191 PiB")
    return size


def format_size(count: int) -> str:
    """Format a number of bytes for people, in powers of 1024: `1.5 GiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":  # noqa: PLR2004 - the base of the units above
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def parse_instant(text: str) -> datetime:
    """Parse an RFC 3339 date-time with an offset to a UTC instant; raise ValueError for anything else."""
    if not _INSTANT.fullmatch(text):
        raise ValueError("not an RFC 3339 time with an offset; write it like 2026-01-31T09:00:00Z")
    if text[11:13] == "24":  # which Python 3.14 accepts as the next midnight
        raise ValueError("no such time of day")
    try:
        instant = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("no such date or time of day") from None
    return check_year(instant)


def check_year(instant: datetime) -> datetime:
    """Return the instant if date arithmetic on it cannot overflow; raise ValueError otherwise."""
    if not _FIRST_YEAR <= instant.year <= _LAST_YEAR:
        raise ValueError(f"outside the allowed years, {_FIRST_YEAR} to {_LAST_YEAR}")
    return instant


def utc_now() -> datetime:
    """Return the wall clock; rules and stores get the time as an argument."""
    return datetime.now(UTC)


def format_instant(instant: datetime) -> str:
    """Format an instant as in the state on disk and all JSON: UTC, milliseconds, `Z`."""
    return _formatted(instant if instant.tzinfo is UTC else instant.astimezone(UTC))


@lru_cache(maxsize=256)  # one decision writes the same few instants into many columns
def _formatted(instant: datetime) -> str:
    return instant.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
