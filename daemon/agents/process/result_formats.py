"""What a command reports about its outcome: the file `$AGENTCRON_RESULT`, or the JSON that a CLI prints."""

import errno
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from daemon.agents.process.supervisor import result_file
from daemon.agents.process.supervisor.files import open_regular
from daemon.agents.process.supervisor.mask import Secrets
from daemon.agents.process.supervisor.output import STANDARD_OUTPUT
from daemon.agents.process.supervisor.untrusted_json import UntrustedJsonError, parse
from daemon.model import RunStatus
from daemon.rules.reported import amount_of, count_of, usage_of

STANDARD_OUTPUT_KEPT = 1024 * 1024
_LONGEST_WAIT = timedelta(days=7)
LONGEST_MESSAGE = 4000
"""Characters of an agent's message that are stored with the run."""
_MOST_PERMISSIONS = 100
_MOST_ERRORS = 10
_MARKS_BACKWARDS = re.compile(r'"\\*|[{}]')
_CLAUDE_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


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
    is_bad: bool = False
    """Whether the report does not tell how the work ended although it should."""

    @property
    def is_used(self) -> bool:
        """Whether anything in the report counts, if only its usage."""
        found = (self.status, self.message, self.retry_after)
        return any(one is not None for one in found) or bool(self.usage or self.permissions)


def read_report(run_dir: Path, result_format: Literal["none", "claude"], secrets: Secrets) -> AgentReport:
    """Return the report of an ended run: the result file if there is one, else what `result_format` finds.

    The supervisor masked both. `secrets`, if known, are masked here again, in the text as it is stored.
    """
    path = run_dir / result_file.NAME
    if path.is_symlink() or path.exists():
        return _from_file(path, secrets)
    if result_format == "claude":
        return _from_claude(run_dir / STANDARD_OUTPUT, secrets)
    return AgentReport()


def _from_file(path: Path, secrets: Secrets) -> AgentReport:
    try:
        data = _read_regular(path)
        content = parse(data, allow_nan=True) if data.strip() else {}
    except OSError as error:
        why = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be read: {error.strerror}"
        return _bad(f"the result file {why}")
    except ValueError:
        return _bad("the result file is larger than 1 MiB")
    except UntrustedJsonError as error:
        return _bad(f"the result file {error}")
    if not isinstance(content, dict):
        return _bad("the result file is not a JSON object")
    return _from_object(content, secrets)


def _bad(complaint: str) -> AgentReport:
    return AgentReport(complaint=complaint, is_bad=True)


def _read_regular(path: Path) -> bytes:
    """Return a file's content; raise OSError if it is not a regular file, ValueError if it is too large."""
    descriptor = open_regular(str(path))
    try:
        data = os.pread(descriptor, result_file.LARGEST + 1, 0)
    finally:
        os.close(descriptor)
    if len(data) > result_file.LARGEST:
        raise ValueError("it is too large")
    return data


def _from_object(content: dict[str, Any], secrets: Secrets) -> AgentReport:
    status = content.get("status")
    status = status if isinstance(status, str | None) else "of another type"
    complaints = []
    if status not in {None, "completed", "failed"}:
        complaints.append('the result file has a status other than "completed" and "failed"')
    usage, refused = _usage(content.get("usage"))
    wait = _wait(content.get("retry_after"))
    if wait is None and content.get("retry_after") is not None:
        refused.append("retry_after is not a number of seconds")
    return AgentReport(
        status=RunStatus(status) if status in {"completed", "failed"} else None,
        message=_text(content.get("message"), secrets) or _text(_words_of(content.get("result"), secrets), secrets),
        usage=usage,
        retry_after=wait,
        permissions=tuple(_permissions(content.get("permissions"), secrets)),
        complaint="; ".join([*complaints, *refused]) or None,
        is_bad=bool(complaints),
    )


def _words_of(result: object, secrets: Secrets) -> str:
    """Return the result in a report as text, masked before JSON escapes it; empty if there is none."""
    if isinstance(result, str):
        return result
    return "" if result is None else json.dumps(secrets.masked_value(result), ensure_ascii=False)


def _usage(reported: object) -> tuple[dict[str, int | float], list[str]]:
    """Return the usage in a report, and a complaint about each value that is not used."""
    if reported is None:
        return {}, []
    return usage_of(reported) if isinstance(reported, dict) else ({}, ["usage is not a JSON object"])


def _permissions(value: object, secrets: Secrets) -> Iterator[dict[str, str]]:
    """Yield the permission requests that the client of an acp agent recorded."""
    for entry in value[:_MOST_PERMISSIONS] if isinstance(value, list) else []:
        found = entry if isinstance(entry, dict) else {}
        asked, answer = (_text(found.get(key), secrets) for key in ("asked", "answer"))
        if asked and answer:
            yield {"asked": asked, "answer": answer}


def _wait(value: object) -> timedelta | None:
    seconds = amount_of(value, sys.float_info.max)
    return None if seconds is None else timedelta(seconds=min(seconds, _LONGEST_WAIT.total_seconds()))


def _text(value: object, secrets: Secrets) -> str | None:
    return secrets.brief(value, LONGEST_MESSAGE) if isinstance(value, str) and value else None


def _from_claude(path: Path, secrets: Secrets) -> AgentReport:
    """Read `claude -p --output-format json` and `stream-json`: the last object of type `result`."""
    for content in _objects_with_result(path):
        if content.get("type") != "result":
            continue
        reported = content.get("usage")
        reported = reported if isinstance(reported, dict) else {}
        usage, refused = usage_of(
            {
                "input_tokens": _sum(reported.get(name) for name in _CLAUDE_INPUT),
                "output_tokens": reported.get("output_tokens"),
                "cost_usd": content.get("total_cost_usd"),
            }
        )
        return AgentReport(
            status=RunStatus.FAILED if content.get("is_error") is True else None,
            message=_text(content.get("result"), secrets) or _text(_errors_of(content), secrets),
            usage=usage,
            complaint="; ".join(refused) or None,
        )
    return _bad("no JSON result at the end of the standard output (result_format = claude)")


def _errors_of(content: dict[str, Any]) -> str:
    """Return the kind of a result without text and the errors that it lists."""
    errors = content.get("errors")
    texts = [content.get("subtype"), *(errors[:_MOST_ERRORS] if isinstance(errors, list) else ())]
    return ": ".join(text for text in texts if isinstance(text, str) and text)


def _sum(values: Iterable[object]) -> object:
    """Return the sum of the values that are there, None without any; the first one that is not a count, if any."""
    found = [value for value in values if value is not None]
    counts = [count for count in map(count_of, found) if count is not None]
    if len(counts) < len(found):
        return next(value for value in found if count_of(value) is None)
    return sum(counts) if counts else None


def _objects_with_result(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects with a `result`, last first: one per line of the standard output, an array, or all."""
    try:
        text = _read_regular(path).decode(errors="replace")
    except (OSError, ValueError):
        return
    for line in (text, *reversed(text.split("\n"))):  # JSON may contain other line separators, such as U+2028
        if '"result"' not in line:
            continue
        content = _parsed(line) if re.match(r"\s*(?:\[\s*)?\{", line) else None
        if content is None:
            content = _last_of_array(line)
        for item in reversed(content) if isinstance(content, list) else (content,):
            if isinstance(item, dict):
                yield item


def _parsed(text: str) -> object:
    try:
        return parse(text.encode(), allow_nan=True)
    except UntrustedJsonError:
        return None


def _last_of_array(text: str) -> object:
    """Return the last object of an array whose beginning was not kept, or that is too large; None if there is none."""
    whole = text.rstrip()
    last = whole[:-1].rstrip()
    if not (whole.endswith("]") and last.endswith("}")):
        return None
    depth, in_string = 0, False
    for mark in _MARKS_BACKWARDS.finditer(last[::-1]):
        if mark[0].startswith('"'):  # after an odd number of backslashes, it is a part of a string
            in_string ^= len(mark[0]) % 2 == 1
        elif not in_string:
            depth += 1 if mark[0] == "}" else -1
            if depth == 0:
                return _parsed(last[-mark.end() :])
    return None
