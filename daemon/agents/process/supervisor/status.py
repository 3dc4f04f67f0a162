"""The status file of a run: what its supervisor did, readable whatever happened to it.

One preallocated file of 4 KiB, so that it can be written on a full disk: a record before the command is executed, one
after its whole process tree has ended, and one of the daemon's wish to end it. Each is one line, `CRC32 JSON`, and
carries a version. Only that of the end is waited for until it is on the disk: after a power loss a run without it is
interrupted, whether or not it had begun.
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
        os.ftruncate(descriptor, 0)  # what an earlier supervisor of a run that never began may have left
        os.posix_fallocate(descriptor, 0, SIZE)
    finally:
        os.close(descriptor)


def write_record(descriptor: int, slot: str, record: dict[str, Any]) -> None:
    """Write a record into its slot; of how the run ended, return once it is on the disk."""
    if isinstance(record.get("error"), str):
        record = {**record, "error": record["error"].encode(errors="replace")[:_LONGEST_ERROR].decode(errors="ignore")}
    body = json.dumps({"version": VERSION, **record}, ensure_ascii=False)
    line = f"{zlib.crc32(body.encode()):08x} {body}\n".encode()
    if len(line) > _SLOT_SIZE[slot]:
        raise ValueError("record too long")
    os.pwrite(descriptor, line.ljust(_SLOT_SIZE[slot], b"\0"), _SLOTS[slot])
    if slot == "exit":
        os.fsync(descriptor)


def was_begun(run_dir: str) -> bool:
    """Tell whether the command may have been let loose: there is a record of it, or the file is not ours any more."""
    try:
        return _begun(run_dir) is not None
    except OSError:
        return True


def is_of_another(run_dir: str, key: str) -> bool:
    """Tell whether the command that was let loose here was that of another run than the one with this key."""
    try:
        begun = _begun(run_dir)
    except OSError:
        return False
    return begun is not None and begun.get("key", key) != key  # those of earlier versions have none


def _begun(run_dir: str) -> dict[str, Any] | None:
    """Return the record of the command's beginning; raise OSError where the file is gone or not ours any more."""
    descriptor = open_in(run_dir, NAME)
    try:
        return read_record(descriptor, "exec")
    finally:
        os.close(descriptor)


def held_by(process: int) -> Iterator[tuple[str, str]]:
    """Yield the place of each descriptor of a process in /proc, and what it leads to, wherever that went meanwhile."""
    folder = f"/proc/{process}/fd"
    with contextlib.suppress(OSError):
        for number in os.listdir(folder):
            place = f"{folder}/{number}"
            yield place, os.readlink(place).removesuffix(" (deleted)")


def open_of(supervisor: int, run_dir: str) -> int | None:
    """Open the file that a living supervisor holds, which its agent may have removed since; None if it holds none."""
    with contextlib.suppress(OSError):
        for place, target in held_by(supervisor):
            if target == os.path.join(run_dir, NAME):
                return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    return None


def folder_elsewhere(supervisor: int, run_dir: str) -> str | None:
    """Return the folder of the run that a living supervisor holds, if that is another than this one; None if unknown.

    It holds none before it was let loose.
    """
    ours, found = os.path.realpath(run_dir), None
    for _, target in held_by(supervisor):
        folder, name = os.path.split(target)
        if name == NAME and os.path.basename(os.path.dirname(folder)) == "runs":
            if folder == ours:
                return None
            found = folder
    return found


def open_left(run_dir: str) -> int | None:
    """Open the file that a supervisor left; None if it is gone or not ours any more."""
    try:
        return open_in(run_dir, NAME)
    except OSError:
        return None


def read_record(descriptor: int, slot: str) -> dict[str, Any] | None:
    """Return a record, None if it was never completely written."""
    line, end, _ = os.pread(descriptor, _SLOT_SIZE[slot], _SLOTS[slot]).partition(b"\n")
    checksum, _, body = line.partition(b" ")
    if not end or checksum != b"%08x" % zlib.crc32(body):
        return None
    record: dict[str, Any] = json.loads(body)
    return record
