"""A copy of the last config that was in force, for whoever has to start a daemon whose config file is broken."""

import contextlib
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote

import structlog

from daemon.config.loading import LARGEST_FILE, digest_of, load_config, read_text
from daemon.config.schema import Config
from daemon.errors import ConfigError
from daemon.model import LAST_CONFIG
from daemon.path_owners import command_as
from daemon.store.private_file import read_private, replace_file
from daemon.text import escape
from daemon.units import format_instant, parse_instant

_LOG = structlog.get_logger()
_BEGINNING, _SINCE = "# agentcron: a copy of ", ", in force since "
_LONGEST_HEADER = 32 * 1024  # bytes: a path, escaped


@dataclass(frozen=True)
class LastConfig:
    """The copy of a config that was in force, which this version accepts."""

    path: Path
    since: str
    """Since when it was in force."""
    config: Config
    is_current: bool
    """Whether its file still says the same."""

    def how_to_start(self, file: Path) -> str:
        """Return the sentence that says how to start by it again; what was in its config file until then is kept."""
        source, target = quote(str(self.path)), quote(str(file))
        # root does not copy by itself what an agent may have replaced by a link to a file of root
        by_whom, copy = "", f"cp {source} {target}"
        if not os.access(file, os.W_OK):
            by_whom, copy = "as root, ", f"{command_as(os.geteuid())} cat {source} >{target}"
        return (
            f"the last config that worked, in force since {self.since}, is kept in {self.path}; to start by it, "
            f"{by_whom}run: cp -p {target} {target}.broken && {copy}"
        )


def keep_config(config: Config, state_dir: Path, now: datetime) -> None:
    """Keep a copy of the file of a config that is in force; if that fails, it is logged and the earlier copy stays.

    The file may have changed since it was read; then nothing is kept.
    """
    path = state_dir / LAST_CONFIG
    try:
        text = read_text(config.file)
        if digest_of(text) != config.digest:
            return
        text = _without_header(text)
        header = f"{_BEGINNING}{escape(str(config.file))}{_SINCE}"
        if not _is_kept(path, header, text):
            replace_file(path, f"{header}{format_instant(now)}\n{text}".encode())
    except ConfigError as error:
        _LOG.warning("[config] No copy of the config in force was kept", reason=str(error))
    except OSError as error:
        _LOG.warning("[config] No copy of the config in force was kept", file=str(path), reason=error.strerror)


def find_last_config(file: Path, state_dir: Path) -> LastConfig | None:
    """Return the copy of a config file; None without one that would work."""
    path, text = state_dir / LAST_CONFIG, ""
    with contextlib.suppress(ConfigError):
        text = read_text(file)
    try:
        header, _, kept = _read(path).partition("\n")
        beginning, _, since = header.rpartition(_SINCE)
        if beginning != f"{_BEGINNING}{escape(str(file))}":
            return None
        since = format_instant(parse_instant(since))
        return LastConfig(path, since, load_config(path), is_current=kept == _without_header(text))
    except (OSError, ValueError, ConfigError):
        return None


def _is_kept(path: Path, header: str, text: str) -> bool:
    try:
        beginning, _, kept = _read(path).partition("\n")
    except (OSError, ValueError):  # there is none, or something else was put in its place
        return False
    return beginning.startswith(header) and kept == text


def _read(path: Path) -> str:
    """Return the text of a copy; raise OSError or ValueError."""
    return read_private(path, LARGEST_FILE + _LONGEST_HEADER).decode()


def _without_header(text: str) -> str:
    """Return a config without the line that a copy begins with, which stays when somebody starts by the copy."""
    return text.partition("\n")[2] if text.startswith(_BEGINNING) else text
