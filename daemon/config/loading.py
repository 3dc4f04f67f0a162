"""Find the config file, read it whatever it turns out to be, and report every mistake at once."""

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from daemon.config.crosschecks import cross_check
from daemon.config.error_messages import Problems
from daemon.config.overrides import read_overrides
from daemon.config.schema import Config
from daemon.errors import ConfigError

SYSTEM_FILE = Path("/etc/agentcron/config.toml")
_LARGEST_FILE = 64 * 1024**2
_MOST_KEY_PARTS = 64
_TOO_DEEP = "values are nested too deeply; allowed are a few hundred levels"
_HUGE = re.compile(r"[0-9_]{4000}")
_PLACE = re.compile(r"(.*) \(at line ([0-9]+), column ([0-9]+)\)", re.DOTALL)


def find_config(option: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the config file to use, in the documented order; raise ConfigError if there is none."""
    if option is not None or environment.get("AGENTCRON_CONFIG"):
        named = option if option is not None else Path(environment["AGENTCRON_CONFIG"])
        try:
            return named.absolute()
        except FileNotFoundError:
            raise ConfigError([f"{named}: the current directory is gone; name the file by its full path"]) from None
    places = standard_files(environment)
    for place in places:
        try:
            place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            closed = f"{place} is closed to you; ask an administrator to let you read it, or name another with --config"
            raise ConfigError([closed]) from None
        return place.absolute()
    raise ConfigError(
        [
            (
                f"no config file: neither {' nor '.join(map(str, places))} exists; "
                "write one with `agentcron init`, or name one with --config FILE"
            )
        ]
    )


def standard_files(environment: Mapping[str, str] = os.environ) -> tuple[Path, Path]:
    """Return where a config file is looked for if none is named: a person's own, and the host's."""
    home = Path(environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config")
    return home / "agentcron/config.toml", SYSTEM_FILE


def load_config(file: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read and validate a config file with its overrides; raise ConfigError naming all mistakes."""
    text = read_text(file)
    raw = parse(file, text)
    overrides, problems = read_overrides(environment)
    for (section, key), value in overrides.items():
        table = raw.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = value
    config, mistakes = None, None
    findings = list(cross_check(raw))
    try:
        config = validate(file, raw)
    except ValidationError as error:
        mistakes = error
    except RecursionError:
        problems.append(f"{file}:{_deepest_line(text)}: {_TOO_DEEP}")
    if mistakes or findings:
        problems += Problems(file, text, raw, overrides).tell(mistakes, findings)
    if problems or config is None:
        raise ConfigError(problems)
    return config


def validate(file: Path, document: dict[str, Any]) -> Config:
    """Return the config that a document read from a file says; raise pydantic's ValidationError."""
    config = Config.model_validate(document)
    config._file = file.absolute()  # noqa: SLF001 - set once, by the one function that makes a Config
    return config


def read_text(file: Path) -> str:
    """Return what a config file holds, whatever it turns out to be; raise ConfigError if that is no text."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError([f"{file}: cannot be read: {reason}"]) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ConfigError([f"{file}: is {kind}; the config is a TOML file"])
        with open(descriptor, "rb", closefd=False) as stream:
            data = stream.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError([f"{file}: cannot be read: {error.strerror}"]) from None
    finally:
        os.close(descriptor)
    if len(data) > _LARGEST_FILE:
        raise ConfigError([f"{file}: is larger than {_LARGEST_FILE // 1024**2} MiB"])
    return _decode(file, data)


def _decode(file: Path, data: bytes) -> str:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError([f"{file}:1: begins with a byte order mark; save it as UTF-8 without one"])
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{file}:{line}: byte 0x{data[error.start]:02x} is not valid UTF-8"]) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError([f"{file}:{line}: holds a NUL character, which TOML does not allow"])
    return text


def parse(file: Path, text: str) -> dict[str, Any]:
    """Return what a file holds as TOML; raise ConfigError where it is none, or is meant to take up time and memory."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.partition("=")[0].count(".") > _MOST_KEY_PARTS:  # tomllib takes seconds over such keys
            raise ConfigError([f"{file}:{number}: a key has more than {_MOST_KEY_PARTS} parts"], number)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, place = _split_place(str(error), text)
        at = int(place.partition(":")[0])
        raise ConfigError([f"{file}:{place}: not valid TOML: {message}"], at) from None
    except RecursionError:
        raise ConfigError([f"{file}:{_deepest_line(text)}: {_TOO_DEEP}"]) from None
    except ValueError:  # int() refuses thousands of digits
        number = next((n for n, line in enumerate(text.splitlines(), 1) if _HUGE.search(line)), 1)
        raise ConfigError([f"{file}:{number}: an integer has too many digits; allowed are 64 bits"]) from None


def _split_place(message: str, text: str) -> tuple[str, str]:
    """Split tomllib's message into what is wrong and `line:column`."""
    match = _PLACE.fullmatch(message)
    if match is None:  # "(at end of document)"
        return message, str(text.count("\n") + 1)
    return match[1], f"{match[2]}:{match[3]}"


def _deepest_line(text: str) -> int:
    """Return the line with the most brackets, which is the one that nests too deeply."""
    counts = [line.count("[") + line.count("{") for line in text.splitlines()]
    return counts.index(max(counts)) + 1
