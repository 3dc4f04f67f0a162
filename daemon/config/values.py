"""Types of config values beyond TOML's own, each with an error message that says what is allowed."""

import os
import re
import warnings
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from daemon.model import NAME
from daemon.rules.cadence import check_cron, check_zone
from daemon.units import check_year, parse_duration, parse_instant, parse_size

APPRISE = "apprise:"
"""Begins the URL of a target that the library apprise sends to; the rest is a URL of apprise."""
_LEAST_MEMORY = 8 * 1024**2
_CRUD = " .,:;<>\"\\'"  # what git strips from both ends of a name and an address
_LONGEST_SOCKET_NAME = 64  # bytes, so that it fits, with a prefix, into the 107 of unix(7)


def _duration(value: object) -> timedelta:
    if not isinstance(value, str):
        raise ValueError('a duration is a string such as "90s", "15m", "2h", "1d", "1h30m" or "PT15M"')  # noqa: TRY004
    return parse_duration(value)


def _positive_duration(value: object) -> timedelta:
    length = _duration(value)
    if length < timedelta(seconds=1):
        raise ValueError('should be at least "1s"')
    return length


def _size(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError('a size is a string such as "500MB" or "20GiB"')  # noqa: TRY004 - pydantic wants ValueError
    return parse_size(value)


def _limit_size(value: object) -> int:
    size = _size(value)
    if size < _LEAST_MEMORY:
        raise ValueError('should be at least "8MiB", or the command could not start')
    return size


def _quota(value: object) -> float:
    match = re.fullmatch(r"([0-9]{1,6})%", value) if isinstance(value, str) else None
    if match is None or int(match[1]) == 0:
        raise ValueError('not a share of one CPU; write it like "50%", or "200%" for two CPUs')
    return int(match[1]) / 100


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a path is a non-empty string")
    return Path(value)


def _instant(value: object) -> datetime:
    if isinstance(value, str):
        return parse_instant(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        try:
            return check_year(value.astimezone(UTC))
        except OverflowError:
            raise ValueError("not a valid date and time") from None
    raise ValueError("a time needs a date, a time of day and an offset, such as 2026-01-31T09:00:00Z")


def _zone(value: str) -> str:
    check_zone(value)
    return value


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError("a name has 1 to 64 characters of a-z, 0-9 and -, and begins and ends with a letter or digit")
    return value


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+\S*", value):
        raise ValueError('not a URL; write it like "https://host.example/path"')
    try:
        _ = urlsplit(value).port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from None
    return value


def _target_url(value: str) -> str:
    if not value.startswith(APPRISE):
        return _url(value)
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://\S+", value.removeprefix(APPRISE), re.IGNORECASE):
        raise ValueError(
            'not a URL of apprise; write it like "apprise:mailto://localhost?from=a@b.example&to=c@d.example"'
        )
    return value


def _listen(value: str) -> str:
    match = re.fullmatch(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\]):([0-9]{1,5})", value)
    if match is None or not 0 < int(match[1]) < 2**16:
        raise ValueError('not an address to listen on; write HOST:PORT, such as "127.0.0.1:8321" or "[::1]:8321"')
    return value


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError("not a name of an environment variable; use letters, digits and _, and no digit first")
    if value.startswith("AGENTCRON_"):
        raise ValueError("variables that begin with AGENTCRON_ are reserved; agentcron sets them")
    return value


def _header(value: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,255}", value):
        raise ValueError("not a name of an HTTP header; use letters, digits and -")
    return value


def _credential(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,255}", value):
        raise ValueError(f"{value!r} is not a name of a credential; use letters, digits, '_', '.' and '-'")
    return value


def _author(value: str) -> str:
    if not value.strip(_CRUD) or any(character in "<>" or not character.isprintable() for character in value):
        raise ValueError("git needs a letter or a digit in it, on one line, without < and >")
    return value


def _artifact(value: str) -> str:
    parts = value.split("/")
    if not value or "\0" in value or any(part in {"", ".", ".."} for part in parts):
        raise ValueError('write a path below $AGENTCRON_ARTIFACTS, such as "review.md" or "reports/*.html"')
    if "**" in parts:
        raise ValueError("** is not understood; name the folders, or write * for each")
    return value


def _pattern(value: str) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what a later Python may read differently
            matches_nothing = re.search(value, "") is not None
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression as Python's re takes it: {error}") from None
    if matches_nothing:
        raise ValueError("matches an empty line, so that every run would fail")
    return value


def _command(value: object) -> object:
    """Raise ValueError unless a value is an array of arguments; schemas would name the types that were tried."""
    items = value if isinstance(value, list) else [None]
    if not all(isinstance(item, str) or _is_group(item) for item in items):
        raise ValueError('should be an array of strings, or of arrays of them such as ["--resume", "{session}"]')
    return value


def _is_group(item: object) -> bool:
    return isinstance(item, list) and bool(item) and all(isinstance(word, str) for word in item)


def _socket(value: Path) -> Path:
    if len(os.fsencode(value.name)) > _LONGEST_SOCKET_NAME:
        raise ValueError(f"the file name is too long for a socket; at most {_LONGEST_SOCKET_NAME} bytes are allowed")
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
PositiveDuration = Annotated[timedelta, BeforeValidator(_positive_duration)]
Size = Annotated[int, BeforeValidator(_size)]
LimitSize = Annotated[int, BeforeValidator(_limit_size)]
Quota = Annotated[float, BeforeValidator(_quota)]
ConfigPath = Annotated[Path, BeforeValidator(_path)]
SocketPath = Annotated[ConfigPath, AfterValidator(_socket)]
Instant = Annotated[datetime, BeforeValidator(_instant)]
Zone = Annotated[str, AfterValidator(_zone)]
CronText = Annotated[str, AfterValidator(check_cron)]
Name = Annotated[str, AfterValidator(_name)]
Url = Annotated[str, AfterValidator(_url)]
TargetUrl = Annotated[str, AfterValidator(_target_url)]
ListenAddress = Annotated[str, AfterValidator(_listen)]
Variable = Annotated[str, AfterValidator(_variable)]
HeaderName = Annotated[str, AfterValidator(_header)]
CredentialName = Annotated[str, AfterValidator(_credential)]
Author = Annotated[str, AfterValidator(_author)]
Argv = Annotated[list[str], Field(min_length=1)]
ArtifactPattern = Annotated[str, Field(max_length=1000), AfterValidator(_artifact)]
OutputPattern = Annotated[str, Field(max_length=1000), AfterValidator(_pattern)]
SESSION = re.compile(r"(?<!\$)\{session\}")
"""What stands for the session to continue in arguments of a command; `${session}` is a variable of a shell."""
MAX_COST = re.compile(r"(?<!\$)\{max_cost_usd\}")
"""What stands for the cap on the cost of a run there."""
Command = Annotated[list[str | list[str]], BeforeValidator(_command), Field(min_length=1)]
"""A program and its arguments; those in an array of their own are left out together."""


@dataclass(frozen=True)
class Secret:
    """The source of a secret value; repr() never shows a plain one."""

    source: Literal["credential", "file", "inherit", "plain"]
    value: str = field(default="", repr=False)

    @property
    def is_hidden(self) -> bool:
        """Whether the value is masked in what agents say."""
        return self.source in {"credential", "file"}


def _secret(value: object) -> Secret:
    match value:
        case str():
            return Secret("plain", value)
        case {"credential": str() as name, **rest} if not rest:
            return Secret("credential", _credential(name))
        case {"file": str() as path, **rest} if path and "\0" not in path and not rest:
            return Secret("file", path)
        case {"inherit": True, **rest} if not rest:
            return Secret("inherit")
    raise ValueError('a value is a string, { credential = "NAME" }, { file = "PATH" } or { inherit = true }')


def _hidden_secret(value: object) -> Secret:
    if isinstance(value, dict):
        secret = _secret(value)
        if secret.is_hidden:
            return secret
    raise ValueError(
        'a value is { credential = "NAME" } or { file = "PATH" }; a URL without secrets is url = "apprise:..."'
    )


HiddenSecret = Annotated[Secret, BeforeValidator(_hidden_secret)]
SecretValue = Annotated[Secret, BeforeValidator(_secret)]
