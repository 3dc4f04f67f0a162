"""The status file of a run: what its supervisor did, readable whatever happens to the supervisor.

One preallocated file of 4 KiB, so that it can be written on a full disk. It has three records: `exec`, written before
the command is executed; `exit`, written after its whole process tree has ended; `cancel`, written by a daemon that
wants the run to end. Each is one line, `CRC32 JSON`, and carries a version. Only `exit` is synced to disk: after a
power loss a run without it is interrupted, whether or not it had started.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

from .files import open_in

NAME = "status"
VERSION = 1
SIZE = 4096
_SLOTS = {"exec": 0, "cancel": 1024, "exit": 2048}
_SLOT_SIZE = {"exec": 1024, "cancel": 1024, "exit": 2048}
_LONGEST_ERROR = 700  # bytes; JSON may double them


def preallocate(run_dir: str) -> None:
    """Create the file with all its blocks; raise OSError (ENOSPC) if the disk cannot hold them."""
    descriptor = os.open(os.path.join(run_dir, NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, 0)  # an earlier supervisor of a run that never started may have left a record
        os.posix_fallocate(descriptor, 0, SIZE)
    finally:
        os.close(descriptor)


def write_record(descriptor: int, slot: str, record: dict[str, Any]) -> None:
    """Write a record into its slot; return only once `exit` is on disk; raise ValueError if it is too long."""
    if isinstance(record.get("error"), str):
        record = {**record, "error": record["error"].encode(errors="replace")[:_LONGEST_ERROR].decode(errors="ignore")}
    body = json.dumps({"version": VERSION, **record}, ensure_ascii=False)
    line = f"{zlib.crc32(body.encode()):08x} {body}\n".encode()
    if len(line) > _SLOT_SIZE[slot]:
        raise ValueError("record too long")
    os.pwrite(descriptor, line.ljust(_SLOT_SIZE[slot], b"\0"), _SLOTS[slot])
    if slot == "exit":
        os.fsync(descriptor)


def may_have_started(run_dir: str) -> bool:
    """Return whether the command may have started: there is an `exec` record, or the file is missing or replaced."""
    try:
        return _exec_record(run_dir) is not None
    except OSError:
        return True


def belongs_to_another_run(run_dir: str, key: str) -> bool:
    """Return whether the command that started here belongs to a run with another idempotency key."""
    try:
        record = _exec_record(run_dir)
    except OSError:
        return False
    return record is not None and record.get("key", key) != key  # records of earlier versions have no key


def _exec_record(run_dir: str) -> dict[str, Any] | None:
    """Return the `exec` record; raise OSError if the file is missing or replaced."""
    descriptor = open_in(run_dir, NAME)
    try:
        return read_record(descriptor, "exec")
    finally:
        os.close(descriptor)


def open_files_of(process: int) -> Iterator[tuple[str, str]]:
    """Yield the /proc path of each descriptor of a process and the current path of its file."""
    folder = f"/proc/{process}/fd"
    with contextlib.suppress(OSError):
        for number in os.listdir(folder):
            place = f"{folder}/{number}"
            yield place, os.readlink(place).removesuffix(" (deleted)")


def open_held_by(supervisor: int, run_dir: str) -> int | None:
    """Open the file that a living supervisor holds open, even if its agent removed it; None if it holds none."""
    with contextlib.suppress(OSError):
        for place, target in open_files_of(supervisor):
            if target == os.path.join(run_dir, NAME):
                return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    return None


def folder_elsewhere(supervisor: int, run_dir: str) -> str | None:
    """Return the run folder that a living supervisor works in, if it is not this one; None if unknown.

    It is unknown until the supervisor has its spec.
    """
    ours, found = os.path.realpath(run_dir), None
    for _, target in open_files_of(supervisor):
        folder, name = os.path.split(target)
        if name == NAME and os.path.basename(os.path.dirname(folder)) == "runs":
            if folder == ours:
                return None
            found = folder
    return found


def open_by_path(run_dir: str) -> int | None:
    """Open the file in a run's folder; None if it is missing or replaced."""
    try:
        return open_in(run_dir, NAME)
    except OSError:
        return None


def read_record(descriptor: int, slot: str) -> dict[str, Any] | None:
    """Return a record, None if it was never written completely."""
    line, end, _ = os.pread(descriptor, _SLOT_SIZE[slot], _SLOTS[slot]).partition(b"\n")
    checksum, _, body = line.partition(b" ")
    if not end or checksum != b"%08x" % zlib.crc32(body):
        return None
    record: dict[str, Any] = json.loads(body)
    return record
