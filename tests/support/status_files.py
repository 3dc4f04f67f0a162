"""Status files as a hostile agent may leave them: damaged, senseless, or forged."""

import json
import zlib
from collections.abc import Iterator
from typing import Any

from daemon.agents.process.supervisor import status

EXIT = {"version": 1, "reason": "exited", "exit_code": 0, "signal": None, "at": 1.0, "error": None}
"""What a supervisor of the first version records of a command that succeeded."""
_EXIT_AT = 2048


def line(body: bytes) -> bytes:
    """Return a record as a supervisor writes it, without authentication."""
    return b"%08x %s\n" % (zlib.crc32(body), body)


def status_file(exit_record: bytes, exec_record: bytes = b"") -> bytes:
    """Return a whole status file."""
    return (exec_record.ljust(_EXIT_AT, b"\0") + exit_record).ljust(status.SIZE, b"\0")


def _with(**values: Any) -> bytes:  # noqa: ANN401 - of any type
    return line(json.dumps({**EXIT, **values}).encode())


def senseless_records() -> Iterator[tuple[str, bytes]]:
    """Yield exit records with a correct checksum that no supervisor writes, each with a name for it."""
    bodies = {
        "empty": b"",
        "not JSON": b"{",
        "not UTF-8": b'{"version": 1, "reason": "\xff\xfe"}',
        "null": b"null",
        "number": b"7",
        "text": b'"exited"',
        "list": b"[]",
        "nested": b"[" * 1500,
        "no version": b'{"reason": "exited"}',
        "NaN": json.dumps({**EXIT, "at": float("nan")}).encode(),
        "infinite": json.dumps({**EXIT, "at": float("inf")}).encode(),
    }
    yield from ((name, line(body)) for name, body in bodies.items())
    kinds: dict[str, dict[str, Any]] = {
        "version of the future": {"version": 99},
        "version 0": {"version": 0},
        "version as text": {"version": "1"},
        "version as bool": {"version": True},
        "no reason": {"reason": None},
        "unknown reason": {"reason": "whatever"},
        "reason as list": {"reason": ["exited"]},
        "reason as object": {"reason": {}},
        "no exit status": {"exit_code": None},
        "exit status and signal": {"exit_code": 0, "signal": 9},
        "exit status as text": {"exit_code": "0"},
        "exit status as bool": {"exit_code": False},
        "exit status as float": {"exit_code": 0.0},
        "exit status as list": {"exit_code": [0]},
        "huge exit status": {"exit_code": 10**1500},
        "negative exit status": {"exit_code": -1},
        "signal as text": {"exit_code": None, "signal": "KILL"},
        "huge signal": {"exit_code": None, "signal": 2**70},
        "time as text": {"at": "now"},
        "time as bool": {"at": True},
        "huge time": {"at": 1e300},
        "huge whole time": {"at": 10**1500},
        "negative time": {"at": -1.0},
        "error as list": {"reason": "exec_failed", "error": []},
        "error as number": {"reason": "exec_impossible_now", "error": 7},
        "output as text": {"output_bytes": "many"},
        "huge output": {"output_bytes": 2**63},
        "negative output": {"output_bytes": -1},
        "output as bool": {"output_dropped": True},
        "memory as float": {"memory_peak": 1.5},
        "huge memory": {"memory_peak": 2**64},
        "CPU time as text": {"cpu_seconds": "1"},
        "negative CPU time": {"cpu_seconds": -0.1},
        "huge CPU time": {"cpu_seconds": 1e308},
        "left over as list": {"left_over": [1]},
        "left over as object": {"left_over": {}},
        "oom kills as text": {"oom_kills": "1"},
        "complaint as object": {"complaint": {"a": 1}},
    }
    for name, values in kinds.items():
        yield name, _with(**values)


def damaged_records() -> Iterator[tuple[str, bytes]]:
    """Yield exit records with a wrong checksum or without an end, each with a name for it."""
    good = _with()
    yield "no end", good.rstrip(b"\n")
    yield "cut off", good[:40]
    yield "wrong checksum", b"00000000" + good[8:]
    yield "no checksum", good[9:]
    yield "noise", bytes(range(1, 256)) * 8
    yield "too long", line(b'{"reason": "%s"}' % (b"x" * 4000))


def forged_records() -> Iterator[tuple[str, bytes]]:
    """Yield exit records that a supervisor of the first version could have written, each with a name for it."""
    kinds: dict[str, dict[str, Any]] = {
        "success": {},
        "failure": {"exit_code": 7},
        "cancellation": {"reason": "cancelled", "exit_code": None, "signal": 15},
        "timeout": {"reason": "timeout", "exit_code": None, "signal": 15},
        "start that failed": {"reason": "exec_failed", "exit_code": None, "error": "no such program"},
        "start that is impossible now": {"reason": "exec_impossible_now", "exit_code": None, "error": "try again"},
        "failure of the supervisor": {"reason": "supervisor_failed", "error": "Error: x"},
        "processes left": {"left_over": 3},
    }
    for name, values in kinds.items():
        yield name, _with(**values)
        yield f"{name}, new version", _with(**{"version": status.VERSION, **values})
        yield f"{name}, with a code", _with(**{"version": status.VERSION, **values}) + b"0" * 64 + b"\n"
