"""The status file of a run: what its supervisor did, readable whatever happens to the supervisor.

One preallocated file of 4 KiB, so that it can be written on a full disk. It has three records: `exec`, written before
the command is executed; `exit`, written after its whole process tree has ended; `cancel`, written by a daemon that
wants the run to end. Each is one line, `CRC32 JSON`, and carries a version. Only `exit` is synced to disk: after a
power loss a run without it is interrupted, whether or not it had started.

The agent can write to this file, too. So a second line authenticates the first (keyed BLAKE2, RFC 7693) with a key
that the daemon sends to the supervisor with the spec, and that no other start shares. Until the supervisor writes
`exec`, that place holds `prepared`, which the daemon wrote: only this proves that the command was not started, a
missing record does not. Without a key (a run that began under an earlier version) the first line is all there is.
"""

import contextlib
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

from .files import open_in, open_regular

try:
    from _blake2 import blake2b  # hashlib's own; hashlib itself would load OpenSSL into the process of each run
except ImportError:  # a Python that takes all hashes from OpenSSL
    from hashlib import blake2b

NAME = "status"
VERSION = 2
SIZE = 4096
_SLOTS = {"exec": 0, "prepared": 0, "cancel": 1024, "exit": 2048}
_SLOT_SIZE = {"exec": 1024, "prepared": 1024, "cancel": 1024, "exit": 2048}
_KEY_SIZE = 32  # bytes
_LONGEST_ERROR = 700  # bytes; as JSON they may take six times as much


class DamagedRecordError(Exception):
    """There is a record that the run's supervisor did not write like this; the text says what is wrong with it."""


def preallocate(run_dir: str, run_key: bytes | None = None) -> None:
    """Create the file with all its blocks, and record that no supervisor has started the command yet.

    Raise OSError if the disk cannot hold it (ENOSPC), or if something else is in its place.
    """
    descriptor = open_regular(os.path.join(run_dir, NAME), os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(descriptor, 0)  # an earlier supervisor of a run that never started may have left a record
        os.posix_fallocate(descriptor, 0, SIZE)
        if run_key is not None:
            write_record(descriptor, "prepared", {"prepared": True}, run_key)
    finally:
        os.close(descriptor)


def start_key(run_key: bytes, boot_id: str, pid: int, started: int) -> bytes:
    """Return the key of the records of one supervisor, given by its identity."""
    return blake2b(f"{boot_id} {pid} {started}".encode(), key=run_key, digest_size=_KEY_SIZE).digest()


def write_record(descriptor: int, slot: str, record: dict[str, Any], key: bytes | None) -> None:
    """Write a record into its slot, authenticated if there is a key; return only once `exit` is on disk.

    Its `error` is shortened until it fits. Raise ValueError if the rest is too long.
    """
    error, longest = record.get("error"), _LONGEST_ERROR
    while True:
        if isinstance(error, str):
            short = error.encode(errors="replace")[:longest].decode(errors="ignore")
            record = {**record, "error": short}
        text = _lines(slot, record, key)
        if len(text) <= _SLOT_SIZE[slot]:
            break
        if not record.get("error"):
            raise ValueError("record too long")
        longest //= 2
    os.pwrite(descriptor, text.ljust(_SLOT_SIZE[slot], b"\0"), _SLOTS[slot])
    if slot == "exit":
        os.fsync(descriptor)


def _lines(slot: str, record: dict[str, Any], key: bytes | None) -> bytes:
    body = json.dumps({"version": VERSION, **record}, ensure_ascii=False).encode(errors="replace")
    line = b"%08x %s\n" % (zlib.crc32(body), body)
    return line if key is None else line + _code(slot, line, key) + b"\n"


def _code(slot: str, line: bytes, key: bytes) -> bytes:
    return blake2b(line, key=key, digest_size=_KEY_SIZE, person=slot.encode()).hexdigest().encode()


def read_record(descriptor: int, slot: str, key: bytes | None) -> dict[str, Any] | None:
    """Return a record, None if none was written.

    Raise DamagedRecordError if it is incomplete or, with a key, if nobody who has that key wrote it.
    """
    try:
        data = os.pread(descriptor, _SLOT_SIZE[slot], _SLOTS[slot])
    except OSError as error:
        raise DamagedRecordError(f"the {slot} record cannot be read: {error.strerror}") from None
    line, end, rest = data.rstrip(b"\0").partition(b"\n")
    if not line and not end:
        return None
    if key is not None and not _are_equal(rest.partition(b"\n")[0], _code(slot, line + end, key)):
        raise DamagedRecordError(f"the run's supervisor did not write the {slot} record that is there")
    checksum, _, body = line.partition(b" ")
    if not end or checksum != b"%08x" % zlib.crc32(body):
        raise DamagedRecordError(f"the {slot} record is incomplete")
    return _parsed(slot, body)


def _are_equal(one: bytes, other: bytes) -> bool:
    """Compare in a time that does not depend on where they differ."""
    from hmac import compare_digest  # noqa: PLC0415 - only daemons read records, and have loaded this

    return compare_digest(one, other)


def _parsed(slot: str, body: bytes) -> dict[str, Any]:
    try:
        record = _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise DamagedRecordError(f"the {slot} record is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise DamagedRecordError(f"the {slot} record is not a JSON object")
    version = record.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise DamagedRecordError(f"the {slot} record has no version that this agentcron knows")
    return record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def may_have_started(run_dir: str, run_key: bytes | None = None) -> bool:
    """Return whether the command may have been started: nothing proves that it was not.

    With the key of the run, `prepared` proves that; without one, the lack of an `exec` record does.
    """
    try:
        descriptor = open_in(run_dir, NAME)
    except OSError:
        return True
    try:
        record = read_record(descriptor, "exec" if run_key is None else "prepared", run_key)
    except DamagedRecordError:
        return True
    finally:
        os.close(descriptor)
    if run_key is not None:
        return record is None
    return record is not None and "prepared" not in record


def belongs_to_another_run(run_dir: str, idempotency_key: str) -> bool:
    """Return whether the command that started here belongs to a run with another idempotency key."""
    try:
        descriptor = open_in(run_dir, NAME)
    except OSError:
        return False
    try:
        record = read_record(descriptor, "exec", None)
    except DamagedRecordError:
        return False
    finally:
        os.close(descriptor)
    return record is not None and record.get("key", idempotency_key) != idempotency_key  # the first records had no key


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
