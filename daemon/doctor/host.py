"""Check the host: free disk space, a synchronised clock, current timezone data."""

import ctypes
import importlib.metadata
import os
import zoneinfo
from collections.abc import Iterator
from pathlib import Path

from daemon.config.paths import state_dir
from daemon.config.schema import Config
from daemon.doctor.findings import Finding, error, note, ok, warning
from daemon.store.ballast import LEAST_FREE
from daemon.units import format_size

_LOW_SPACE = 64 * 1024**2  # bytes
_LOW_SHARE = 0.05
_STATUS_AT = 40  # bytes into struct timex, on 64-bit Linux (adjtimex(2))
_TIMEX_SIZE = 208
_STA_UNSYNC = 0x40
_OLD_ZONES = 2  # years by which timezone data of the host lags behind


def check_host(config: Config) -> Iterator[Finding]:
    """Check disk, clock and timezones."""
    yield from _check_disk(config)
    yield _check_clock()
    yield _check_zones()


def _check_disk(config: Config) -> Iterator[Finding]:
    folder = state_dir(config)
    while not os.path.exists(folder) and folder != folder.parent:  # noqa: PTH110 - that of Path raises
        folder = folder.parent
    disk = os.statvfs(folder)
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    space = f"{format_size(free)} of {format_size(size)} free on the disk of {folder}"
    if free < LEAST_FREE:
        yield error("disk", space, "free some space: no run starts on a full disk")
    elif free < max(_LOW_SPACE, size * _LOW_SHARE):
        yield warning("disk", space, "free some space, or make [retention] and [cleanup] keep less")
    else:
        yield ok("disk", space)
    if disk.f_files and disk.f_favail < disk.f_files * _LOW_SHARE:
        what = f"{disk.f_favail} of {disk.f_files} inodes free on the disk of {folder}"
        yield warning("disk", what, "delete small files; each run needs about ten")
    quotas = [one.quota or config.cleanup.quota or 0 for one in config.environments.values() if one.mode == "git"]
    if sum(quotas) > size:
        what = f"the quotas of all environments add up to {format_size(sum(quotas))}, more than the disk holds"
        yield warning("disk", what, "lower them, so that they apply before the disk is full")


def _check_clock() -> Finding:
    state = ctypes.create_string_buffer(_TIMEX_SIZE)  # modes = 0: read only
    if ctypes.CDLL(None, use_errno=True).adjtimex(state) < 0:
        return note("clock", f"cannot be read: {os.strerror(ctypes.get_errno())}")
    status = int.from_bytes(state.raw[_STATUS_AT : _STATUS_AT + 4], "little")
    if status & _STA_UNSYNC:
        return warning("clock", "is not synchronised", "timedatectl set-ntp true, or install chrony")
    return ok("clock", "is synchronised")


def _check_zones() -> Finding:
    packaged = importlib.metadata.version("tzdata")
    found = _host_zones()
    if found is None:
        return ok("zones", f"version {packaged}, from the Python package tzdata")
    folder, version = found
    used = f"{f'version {version}' if version else 'unknown version'}, from {folder}"
    if version and _release(packaged)[0] - _release(version)[0] >= _OLD_ZONES:
        what = f"{used}; the Python package tzdata has {packaged}, but is used only without data of the host"
        return warning("zones", what, "update the tzdata package of the host")
    return ok("zones", used)


def _host_zones() -> tuple[str, str] | None:
    """Return the directory from which timezones are read, and the version of its data; None if the host has none."""
    folder = next((place for place in zoneinfo.TZPATH if (Path(place) / "Europe/London").exists()), None)
    if folder is None:
        return None
    for name, mark in (("tzdata.zi", "# version "), ("+VERSION", "")):
        file = Path(folder) / name
        if file.is_file():
            return folder, file.read_text(errors="replace").partition("\n")[0].removeprefix(mark).strip()
    return folder, ""


def _release(version: str) -> tuple[int, int]:
    """Return year and number of a release: `2025b` of the database is `2025.2` of the package."""
    year, _, number = version.partition(".")
    if number:
        return int(year), int(number.partition(".")[0])
    letter = version[4:5]
    return (int(version[:4]), ord(letter) - ord("a") + 1) if version[:4].isdigit() and letter else (0, 0)
