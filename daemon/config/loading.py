"""Find the config file, read it, and report all its errors at once."""

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from daemon.config.crosschecks import cross_check
from daemon.config.error_messages import ErrorMessages
from daemon.config.overrides import read_overrides
from daemon.config.schema import Config
from daemon.errors import ConfigError

SYSTEM_FILE = Path("/etc/agentcron/config.toml")
LARGEST_FILE = 4 * 1024**2
"""Bytes of a config: tens of thousands of schedules. A mistake in it takes some hundred MiB to report."""
_MOST_KEY_PARTS = 64
_TOO_DEEP = "values are nested too deeply; at most a few hundred levels are allowed"
_HUGE = re.compile(r"[0-9_]{4000}")
_POSITION = re.compile(r"(.*) \(at line ([0-9]+), column ([0-9]+)\)", re.DOTALL)


def find_config(option: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the config file to use, in the documented order; raise ConfigError if there is none."""
    if option is not None or environment.get("AGENTCRON_CONFIG"):
        named = option if option is not None else Path(environment["AGENTCRON_CONFIG"])
        try:
            return named.absolute()
        except FileNotFoundError:
            raise ConfigError([f"{named}: the current directory no longer exists; give the full path"]) from None
    candidates = default_files(environment)
    for candidate in candidates:
        try:
            candidate.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            problem = f"no permission to read {candidate}; ask an administrator, or name another file with --config"
            raise ConfigError([problem]) from None
        return candidate.absolute()
    raise ConfigError(
        [
            (
                f"no config file: neither {' nor '.join(map(str, candidates))} exists; "
                "create one with `agentcron init`, or name one with --config FILE"
            )
        ]
    )


def default_files(environment: Mapping[str, str] = os.environ) -> tuple[Path, Path]:
    """Return the config files to use if none is named: that of the user, then that of the host."""
    home = Path(environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config")
    return home / "agentcron/config.toml", SYSTEM_FILE


def load_config(file: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Read and validate a config file with its overrides; raise ConfigError that lists all errors."""
    text = read_text(file)
    raw = parse(file, text)
    overrides, problems = read_overrides(environment)
    for (section, key), value in overrides.items():
        table = raw.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = value
    config, errors = None, None
    findings = list(cross_check(raw))
    try:
        config = validate(file, raw)
    except ValidationError as error:
        errors = error
    except RecursionError:
        problems.append(f"{file}:{_deepest_line(text)}: {_TOO_DEEP}")
    if errors or findings:
        problems += ErrorMessages(file, text, raw, overrides).describe(errors, findings)
    if problems or config is None:
        raise ConfigError(problems)
    config._digest = digest_of(text)  # noqa: SLF001 - as in `validate`
    return config


def digest_of(text: str) -> bytes:
    """Return what identifies the text of a config file, to find out later whether it has changed."""
    return hashlib.sha256(text.encode()).digest()


def validate(file: Path, document: dict[str, Any]) -> Config:
    """Return the config in a document that was read from a file; raise pydantic's ValidationError."""
    config = Config.model_validate(document)
    config._file = file.absolute()  # noqa: SLF001 - set once, by the one function that makes a Config
    return config


def read_text(file: Path) -> str:
    """Return the text of a config file; raise ConfigError if it is not a readable text file."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError([f"cannot read {file}: {reason}"]) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ConfigError([f"{file}: is {kind}; the config must be a TOML file"])
        with open(descriptor, "rb", closefd=False) as stream:
            data = stream.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError([f"cannot read {file}: {error.strerror}"]) from None
    finally:
        os.close(descriptor)
    if len(data) > LARGEST_FILE:
        fix = "put long inputs into files that the agents read, or some of the agents into the config of another daemon"
        raise ConfigError([f"{file}: is larger than {LARGEST_FILE // 1024**2} MiB; {fix}"])
    return _decode(file, data)


def _decode(file: Path, data: bytes) -> str:
    if data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError([f"{file}:1: begins with a byte order mark; save the file as UTF-8 without one"])
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{file}:{line}: byte 0x{data[error.start]:02x} is not valid UTF-8"]) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise ConfigError([f"{file}:{line}: contains a NUL character, which TOML does not allow"])
    return text


def parse(file: Path, text: str) -> dict[str, Any]:
    """Parse the text of a file as TOML; raise ConfigError if it is invalid or would take too much time or memory."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.partition("=")[0].count(".") > _MOST_KEY_PARTS:  # tomllib takes seconds over such keys
            raise ConfigError([f"{file}:{number}: a key has more than {_MOST_KEY_PARTS} parts"], number)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, position = _split_position(str(error), text)
        line_number = int(position.partition(":")[0])
        raise ConfigError([f"{file}:{position}: not valid TOML: {message}"], line_number) from None
    except RecursionError:
        raise ConfigError([f"{file}:{_deepest_line(text)}: {_TOO_DEEP}"]) from None
    except ValueError:  # int() refuses thousands of digits
        number = next((n for n, line in enumerate(text.split("\n"), 1) if _HUGE.search(line)), 1)
        raise ConfigError([f"{file}:{number}: an integer has too many digits; at most 64 bits are allowed"]) from None


def _split_position(message: str, text: str) -> tuple[str, str]:
    """Split tomllib's message into the problem and `line:column`."""
    match = _POSITION.fullmatch(message)
    if match is None:  # "(at end of document)"
        return message, str(text.count("\n") + 1)
    return match[1], f"{match[2]}:{match[3]}"


def _deepest_line(text: str) -> int:
    """Return the line with the most brackets, which is the one that nests too deeply."""
    counts = [line.count("[") + line.count("{") for line in text.split("\n")]
    return counts.index(max(counts)) + 1
