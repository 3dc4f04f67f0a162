"""What a command reports about its run: in the file `$AGENTCRON_RESULT`, and in what it prints in a known format.

The supervisor has read and masked both; this checks them, since an agent can write anything.
"""

import errno
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from daemon.agents.process.supervisor import result_file
from daemon.agents.process.supervisor.files import open_regular
from daemon.agents.process.supervisor.listener import ANSWER, REPORT
from daemon.agents.process.supervisor.mask import Secrets
from daemon.agents.process.supervisor.untrusted_json import UntrustedJsonError, parse
from daemon.model import FailureKind, RunStatus
from daemon.rules.reported import amount_of, count_of, usage_of
from daemon.rules.reset_times import LONGEST_WAIT
from daemon.rules.sessions import is_session

LONGEST_MESSAGE = 4000
"""Characters of an agent's message that are stored with the run."""
_LONGEST_NAME = 200
_MOST_PERMISSIONS = 100
_MOST_MODELS = 20
END_OF_OUTPUT = "stdout.tail"
"""The file in which supervisors of earlier versions kept what was read as a report."""
CLIENT = "client"
"""The `status_by` of a result file whose status is that of the client of the agent's session, not the agent's own."""
_DENIED = ("reject", "cancelled")
"""How the answers to permission requests begin that allow nothing (Agent Client Protocol)."""
_LATEST = 253_402_300_799.0  # seconds since the epoch: the last that a datetime can hold


@dataclass(frozen=True)
class ReportedFailure:
    """What an agent printed about its failure."""

    words: str
    http_status: int | None
    """What its provider answered."""
    name: str
    """The name of the error, such as `rate_limit_error`; it may be empty."""


@dataclass(frozen=True)
class AgentReport:
    """What an agent reported about its run; None where it reported nothing."""

    status: RunStatus | None = None
    message: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    retry_after: timedelta | None = None
    quiet: bool = False
    """Whether nobody is to be notified if the run completed."""
    permissions: tuple[dict[str, str], ...] = ()
    """The permissions that the agent requested, each with the answer it got."""
    complaint: str | None = None
    """Why the report, or a part of it, was ignored."""
    is_bad: bool = False
    """Whether the report does not tell how the work ended although it should."""
    lacks_result: bool = False
    """Whether what the agent printed stops before a result, as it does where something cut it off."""
    is_by_agent: bool = False
    """Whether the agent itself wrote the status into its result file."""
    kind: FailureKind | None = None
    """What kind of failure it is, as far as the result file says that it is one."""
    failure: ReportedFailure | None = None
    session: str | None = None
    """Identifies the agent's conversation, so that it can be continued."""
    session_refused: str | None = None
    """Why the session that the run was to continue is not continued."""
    usage_at_least: bool = False
    """Whether the usage is only what was known when the agent was cut off."""
    models: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """The usage by model."""
    denials: tuple[str, ...] = ()
    """What the agent was not allowed to do."""
    retrying: str | None = None
    """What the agent waited for at last, such as `waiting after 429 rate_limit, try 7 of 10`."""
    limit_ends_at: datetime | None = None
    """When the limit that it hit is reset, as its provider says."""

    @property
    def is_used(self) -> bool:
        """Whether anything in the report counts, if only its usage."""
        found = (self.status, self.message, self.retry_after)
        return any(one is not None for one in found) or bool(self.usage or self.permissions or self.quiet)


def read_report(run_dir: Path, result_format: str, secrets: Secrets) -> AgentReport:
    """Return the report of an ended run: what it printed in `result_format`, overruled by its result file if any.

    The supervisor masked both. `secrets`, if known, are masked here again, in the text as it is stored.
    """
    printed = AgentReport() if result_format == "none" else _from_output(run_dir, result_format, secrets)
    path = run_dir / result_file.NAME
    if not path.is_symlink() and not path.exists():
        return printed
    own = _from_file(path, secrets)
    return replace(
        printed,
        status=own.status or printed.status,
        message=own.message or printed.message,
        usage={**printed.usage, **own.usage},
        retry_after=own.retry_after,
        quiet=own.quiet,
        permissions=own.permissions,
        complaint=own.complaint,
        is_bad=own.is_bad,
        lacks_result=False,
        is_by_agent=own.is_by_agent,
        kind=own.kind,
        session=own.session or printed.session,
        session_refused=own.session_refused,
        usage_at_least=own.usage_at_least or (printed.usage_at_least and not own.usage),
        failure=None if own.status is not None else printed.failure,
        denials=own.denials or printed.denials,
    )


def _from_output(run_dir: Path, result_format: str, secrets: Secrets) -> AgentReport:
    """Return what the supervisor learnt from what the agent printed."""
    known = _known(run_dir, result_format, secrets)
    if not isinstance(known, dict):
        return _bad("the report of its supervisor is missing or damaged")
    if isinstance(known.get("fault"), str):
        return _printed(known, run_dir, secrets, complaint=f"its output could not be read: {known['fault'][:200]}")
    if known.get("ended") is True or isinstance(known.get("failure"), dict):
        return _printed(known, run_dir, secrets)
    missing = f"no JSON result at the end of the standard output (result_format = {result_format})"
    return replace(_printed(known, run_dir, secrets, complaint=missing), is_bad=True, lacks_result=True)


def _known(run_dir: Path, result_format: str, secrets: Secrets) -> object:
    """Return what the supervisor wrote of the output, None if that cannot be read."""
    try:
        return parse(_read_regular(run_dir / REPORT))
    except FileNotFoundError:
        return _known_of_earlier_version(run_dir, result_format, secrets)
    except (OSError, ValueError, UntrustedJsonError):
        return None


def _known_of_earlier_version(run_dir: Path, result_format: str, secrets: Secrets) -> object:
    """Return what is known of a run whose supervisor only kept the end of the output, as before an upgrade."""
    from daemon.agents.process.formats.reader import Reader  # noqa: PLC0415 - hardly ever needed in the daemon

    try:
        reader = Reader(result_format)
        reader.feed(_read_regular(run_dir / END_OF_OUTPUT))
    except (OSError, ValueError, LookupError):
        return None
    reader.finish()
    return {**reader.report.summary(), "answer": reader.report.bounded_answer(secrets.masked)}


def _printed(known: dict[str, Any], run_dir: Path, secrets: Secrets, complaint: str = "") -> AgentReport:
    usage, refused = _usage(known.get("usage"))
    failure = _failure(known.get("failure"), secrets)
    models = known.get("models")
    denials = known.get("denials")
    return AgentReport(
        status=RunStatus.FAILED if failure is not None else None,
        message=_answer(run_dir, secrets)
        or _text(known.get("answer"), secrets)
        or (failure.words if failure else None)
        or None,
        usage=usage,
        complaint="; ".join(filter(None, [complaint, *refused])) or None,
        failure=failure,
        session=_session(known.get("session"), secrets),
        usage_at_least=known.get("at_least") is True,
        models={
            name[:_LONGEST_NAME]: _usage(used)[0]
            for name, used in (list(models.items())[:_MOST_MODELS] if isinstance(models, dict) else ())
        },
        denials=tuple(
            text
            for one in (denials[:_MOST_PERMISSIONS] if isinstance(denials, list) else ())
            if (text := _text(one, secrets))
        ),
        retrying=_text(known.get("retrying"), secrets),
        limit_ends_at=_instant(known.get("limit_ends_at")),
    )


def _failure(found: object, secrets: Secrets) -> ReportedFailure | None:
    if not isinstance(found, dict):
        return None
    words, name = (_text(found.get(key), secrets) or "" for key in ("words", "name"))
    return ReportedFailure(words, count_of(found.get("status"), 599), name)


def _answer(run_dir: Path, secrets: Secrets) -> str | None:
    """Return the beginning of what the agent answered, None if it answered nothing."""
    try:
        descriptor = open_regular(str(run_dir / ANSWER))
    except OSError:
        return None
    try:
        data = os.pread(descriptor, 4 * LONGEST_MESSAGE, 0)  # bytes of a character in UTF-8, at most
    finally:
        os.close(descriptor)
    return _text(data.decode(errors="ignore"), secrets)


def _instant(value: object) -> datetime | None:
    seconds = amount_of(value, _LATEST)
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


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
    kind = _kind(content.get("kind"))
    if status is None and kind is not None:  # only failures have one
        status = "failed"
    complaints = []
    if status not in {None, "completed", "failed"}:
        complaints.append('the result file has a status other than "completed" and "failed"')
    usage, refused = _usage(content.get("usage"))
    if content.get("kind") is not None and (kind is None or status == "completed"):
        refused.append(f"kind is not one of {', '.join(FailureKind)}" if kind is None else "kind is only of a failure")
    wait = _wait(content.get("retry_after"))
    if wait is None and content.get("retry_after") is not None:
        refused.append("retry_after is not a number of seconds")
    quiet = content.get("quiet")
    if not isinstance(quiet, bool | None):
        refused.append("quiet is neither true nor false")
    permissions = tuple(_permissions(content.get("permissions"), secrets))
    return AgentReport(
        status=RunStatus(status) if status in {"completed", "failed"} else None,
        is_by_agent=content.get("status_by") != CLIENT,
        denials=tuple(one["asked"] for one in permissions if one["answer"].startswith(_DENIED)),
        message=_text(content.get("message"), secrets) or _text(_words_of(content.get("result"), secrets), secrets),
        usage=usage,
        usage_at_least=content.get("usage_at_least") is True,
        retry_after=wait,
        quiet=quiet is True,
        kind=kind if status == "failed" else None,
        session=_session(content.get("session"), secrets),
        session_refused=_text(content.get("session_refused"), secrets),
        permissions=permissions,
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


def _kind(value: object) -> FailureKind | None:
    return FailureKind(value) if isinstance(value, str) and value in set(FailureKind) else None


def _session(value: object, secrets: Secrets) -> str | None:
    """Return the id of a session; None for one that could not be given back to the agent, if only masked."""
    return value if isinstance(value, str) and is_session(value) and secrets.masked(value) == value else None


def _permissions(value: object, secrets: Secrets) -> Iterator[dict[str, str]]:
    """Yield the permission requests that the client of an acp agent recorded."""
    for entry in value[:_MOST_PERMISSIONS] if isinstance(value, list) else []:
        found = entry if isinstance(entry, dict) else {}
        asked, answer = (_text(found.get(key), secrets) for key in ("asked", "answer"))
        if asked and answer:
            yield {"asked": asked, "answer": answer}


def _wait(value: object) -> timedelta | None:
    seconds = amount_of(value, sys.float_info.max)
    return None if seconds is None else timedelta(seconds=min(seconds, LONGEST_WAIT.total_seconds()))


def _text(value: object, secrets: Secrets, most: int = LONGEST_MESSAGE) -> str | None:
    return secrets.brief(value, most) if isinstance(value, str) and value else None
