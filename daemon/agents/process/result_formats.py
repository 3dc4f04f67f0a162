"""What a command reports about its outcome: the file `$AGENTCRON_RESULT`, or the JSON that a CLI prints."""

import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from daemon.agents.process.supervisor.files import open_regular
from daemon.agents.process.supervisor.output import STANDARD_OUTPUT
from daemon.model import RunStatus

_LARGEST_FILE = 1024 * 1024
STANDARD_OUTPUT_KEPT = 1024 * 1024
_LONGEST_WAIT = timedelta(days=7)
_LONGEST_MESSAGE = 4000
_MOST_PERMISSIONS = 100


@dataclass(frozen=True)
class AgentReport:
    """What an agent reported about its run; None where it reported nothing."""

    status: RunStatus | None = None
    message: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    retry_after: timedelta | None = None
    permissions: tuple[dict[str, str], ...] = ()
    """The permissions that the agent requested, each with the answer it got."""
    complaint: str | None = None
    """Why the report, or a part of it, was ignored."""


def read_report(run_dir: Path, result_format: Literal["none", "claude"]) -> AgentReport:
    """Return the report of an ended run: the result file if there is one, else what `result_format` finds."""
    path = run_dir / "result.json"
    if path.is_symlink() or path.exists():
        return _from_file(path)
    if result_format == "claude":
        return _from_claude(run_dir / STANDARD_OUTPUT)
    return AgentReport()


def _from_file(path: Path) -> AgentReport:
    try:
        data = _read_regular(path)
        content = json.loads(data) if data.strip() else {}
    except OSError as error:
        return AgentReport(complaint=f"the result file cannot be read: {error.strerror}")
    except (ValueError, RecursionError) as error:
        return AgentReport(complaint=f"the result file is not JSON of at most 1 MiB: {error}")
    if not isinstance(content, dict):
        return AgentReport(complaint="the result file is not a JSON object")
    return _from_object(content)


def _read_regular(path: Path) -> bytes:
    """Return a file's content; raise OSError if it is not a regular file, ValueError if it is too large."""
    descriptor = open_regular(str(path))
    try:
        data = os.pread(descriptor, _LARGEST_FILE + 1, 0)
    finally:
        os.close(descriptor)
    if len(data) > _LARGEST_FILE:
        raise ValueError("it is too large")
    return data


def _from_object(content: dict[str, Any]) -> AgentReport:
    status = content.get("status")
    complaint = None
    if status not in {None, "completed", "failed"}:
        complaint = 'the result file has a status other than "completed" and "failed"'
    usage = content.get("usage")
    return AgentReport(
        status=RunStatus(status) if status in {"completed", "failed"} else None,
        message=_text(content.get("message")),
        usage=usage if isinstance(usage, dict) else {},
        retry_after=_wait(content.get("retry_after")),
        permissions=tuple(_permissions(content.get("permissions"))),
        complaint=complaint,
    )


def _permissions(value: object) -> Iterator[dict[str, str]]:
    """Yield the permission requests that the client of an acp agent recorded."""
    for entry in value[:_MOST_PERMISSIONS] if isinstance(value, list) else []:
        asked, answer = (_text(entry.get(key)) for key in ("asked", "answer")) if isinstance(entry, dict) else ("", "")
        if asked and answer:
            yield {"asked": asked, "answer": answer}


def _wait(value: object) -> timedelta | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        return None
    return timedelta(seconds=min(value, _LONGEST_WAIT.total_seconds()))


def _text(value: object) -> str | None:
    return in_brief(value) if isinstance(value, str) and value else None


def in_brief(text: str) -> str:
    """Return text that can be stored: bounded, and without the lone surrogates that JSON can contain."""
    return text[:_LONGEST_MESSAGE].encode(errors="replace").decode()


def _from_claude(path: Path) -> AgentReport:
    """Read `claude -p --output-format json` and `stream-json`: the last object of type `result`."""
    for content in _objects_with_result(path):
        if content.get("type") != "result":
            continue
        usage = content.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        counted = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        tokens = [usage[name] for name in counted if isinstance(usage.get(name), int)]
        return AgentReport(
            status=RunStatus.FAILED if content.get("is_error") is True else None,
            message=_text(content.get("result")) or _text(content.get("subtype")),
            usage={
                "input_tokens": sum(tokens) if tokens else None,
                "output_tokens": usage.get("output_tokens"),
                "cost_usd": content.get("total_cost_usd"),
            },
        )
    return AgentReport(complaint="no JSON result at the end of the standard output (result_format = claude)")


def _objects_with_result(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects with a `result`, last first: one per line of the standard output, an array, or all."""
    try:
        text = _read_regular(path).decode(errors="replace")
    except (OSError, ValueError):
        return
    for line in (text, *reversed(text.splitlines())):
        if '"result"' not in line or not re.match(r"\s*(?:\[\s*)?\{", line):
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        for item in reversed(content) if isinstance(content, list) else (content,):
            if isinstance(item, dict):
                yield item
