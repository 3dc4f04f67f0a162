"""How a run ended: what its supervisor recorded, combined with what the agent reported."""

import signal
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from daemon.agents.base import Outcome, RunSettings, Work
from daemon.agents.process.agent_report import AgentReport, read_report
from daemon.agents.process.records import ExitRecord, read_cancellation, read_exit
from daemon.agents.process.supervisor.mask import Secrets
from daemon.model import FailureKind, RunStatus
from daemon.rules.failure_kinds import Signs, is_spent, kind_of
from daemon.rules.reset_times import LONGEST_WAIT, reset_in
from daemon.rules.sessions import refusal_in
from daemon.text import escape, plural

_LOG = structlog.get_logger()
_NEVER_MENDS = {FailureKind.AUTH, FailureKind.CONFIG, FailureKind.DENIED}
"""Kinds of failures that another attempt under the same settings repeats."""
_LONGEST_REASON = 1000  # characters
_DENIALS_NAMED = 5


@dataclass(frozen=True)
class _Failure:
    """Why a run failed."""

    reason: str
    kind: FailureKind = FailureKind.FAILED
    limit_ends_at: datetime | None = None
    is_permanent: bool = False


def read_end(
    descriptor: int | None, key: bytes | None, work: Work, secrets: Secrets
) -> tuple[ExitRecord | None, str | None, AgentReport]:
    """Return the exit record, the reason of a cancellation that a daemon noted, and what the agent reported.

    Raise DamagedRecordError if the exit record cannot be used.
    """
    if descriptor is None:
        return None, None, AgentReport()
    ended = read_exit(descriptor, key)
    report = read_report(work.run_dir, work.settings.result_format, secrets) if ended else AgentReport()
    return ended, read_cancellation(descriptor, key), report


def outcome_of(ended: ExitRecord, cancelled: str | None, report: AgentReport, work: Work) -> Outcome:
    """Combine what the supervisor recorded with what the agent reported."""
    if report.lacks_result and (ended.reason, ended.exit_code) != ("exited", 0):  # or it did not even start
        report = replace(report, complaint=None, is_bad=False)  # whatever ended it says why there is none
    complaint = report.complaint or ended.complaint
    what = "part of its report" if report.is_used else "its report"
    failure = None if ended.reason == "cancelled" else _failure(ended, report, work.settings)
    status = (
        RunStatus.CANCELLED if ended.reason == "cancelled" else RunStatus.FAILED if failure else RunStatus.COMPLETED
    )
    refused = _refusal(failure, ended, report, work)
    _log(report, complaint, refused, work)
    cancelled = cancelled if status is RunStatus.CANCELLED else None
    error = failure.reason if failure else cancelled or ("cancelled" if status is RunStatus.CANCELLED else None)
    if ended.left_over:
        error = f"{error or status}; {ended.left_over} process(es) could not be killed"
    return Outcome(
        status=status,
        error=error,
        cancelled_by_us=cancelled is not None,
        exit_code=ended.exit_code,
        signal=ended.signal,
        message=report.message or (f"{what} was ignored: {complaint}" if complaint else None),
        permanent=failure is not None and failure.is_permanent,
        retry_after=report.retry_after,
        kind=failure.kind if failure else None,
        limit_ends_at=failure.limit_ends_at if failure else None,
        session=report.session,
        session_refused=refused,
        quiet=report.quiet,
        usage=report.usage,
        usage_at_least=report.usage_at_least,
        usage_by_model=report.models,
        denials=report.denials,
        output_bytes=ended.output_bytes,
        output_dropped=ended.output_dropped,
        memory_peak=ended.memory_peak,
        cpu_seconds=ended.cpu_seconds,
        ended_at=datetime.fromtimestamp(ended.at, UTC) if ended.at is not None else None,
    )


def _log(report: AgentReport, complaint: str | None, refused: str | None, work: Work) -> None:
    """Log what a person should know of a report although the run may have completed."""
    if complaint:
        event = "[run] Part of agent's report ignored" if report.is_used else "[run] Agent's report ignored"
        _LOG.warning(event, run_id=work.run_id, agent=work.agent, reason=complaint)
    for permission in report.permissions:
        _LOG.info("[run] Agent requested permission", run_id=work.run_id, agent=work.agent, **permission)
    if refused is not None:
        _LOG.warning("[run] Agent did not continue its session", run_id=work.run_id, agent=work.agent, reason=refused)
    if report.denials:
        denied = _denied(report.denials)
        _LOG.warning("[run] Agent was denied permissions", run_id=work.run_id, agent=work.agent, what=denied)


def _refusal(failure: _Failure | None, ended: ExitRecord, report: AgentReport, work: Work) -> str | None:
    """Return why an agent did not continue the session it was given, None if it did or was given none."""
    if report.session_refused is not None or failure is None or work.session is None:
        return report.session_refused
    if ended.reason != "exited" or report.denials or any(report.usage.values()):
        return None  # it has worked, so these words are of something else
    words = refusal_in(work.settings.result_format, failure.reason, ended.last_line)
    return None if words is None else _one_line(words)


def _failure(ended: ExitRecord, report: AgentReport, settings: RunSettings) -> _Failure | None:
    """Return why a run failed that was not cancelled, None if it did not."""
    failure = _own_failure(ended, report, settings)
    if failure is None and ended.error:  # the work is done, but not what was expected of it
        return _Failure(_one_line(ended.error))
    return failure


def _own_failure(ended: ExitRecord, report: AgentReport, settings: RunSettings) -> _Failure | None:
    """Return why a command failed by itself, None if it did not."""
    match ended.reason:
        case "exec_failed":
            return _Failure(ended.error or "it could not be started", FailureKind.CONFIG, is_permanent=True)
        case "timeout" | "idle_timeout" as limit:
            waiting = f" ({escape(report.retrying)})" if report.retrying else ""
            reason = settings.overdue if limit == "timeout" else settings.silent
            return _Failure(reason + waiting, FailureKind.TIMEOUT)
    if report.failure is not None:
        return _told(report.failure.words, ended, report, settings)
    if report.status is not None:
        return _stated(ended, report, settings)
    return _unstated(ended, report, settings)


def _stated(ended: ExitRecord, report: AgentReport, settings: RunSettings) -> _Failure | None:
    """Return why a run failed whose result file states how it ended, None if it did not."""
    if report.status is RunStatus.FAILED:
        words = report.message or "the agent reported a failure"
        if report.kind is not None:
            return _Failure(words, report.kind, is_permanent=report.kind in _NEVER_MENDS)
        if report.is_by_agent:
            return _Failure(words)
        return _told(words, ended, report, settings)
    return None if report.is_by_agent else _denial(report, settings)


def _unstated(ended: ExitRecord, report: AgentReport, settings: RunSettings) -> _Failure | None:
    """Return why a command failed that did not say how it ended, None if it did not.

    A report that cannot be used is a failure, too, unless the host kept the supervisor from saving it.
    """
    if ended.signal is not None:
        why = ": out of memory" if ended.oom_kills and ended.signal == signal.SIGKILL else ""
        return _Failure(f"ended by signal {ended.signal}{why}", FailureKind.CRASHED)
    is_bad = report.is_bad and ended.complaint is None and settings.on_bad_report == "fail"
    bad = f"its report cannot be used: {report.complaint}" if is_bad else ""
    if ended.exit_code == 0:
        return _denial(report, settings) or (_Failure(bad) if bad else None)  # opencode ends where it was denied
    last = f"exit status {ended.exit_code}" + (f": {_one_line(ended.last_line)}" if ended.last_line else "")
    reason = "; ".join(filter(None, [last, bad]))
    if ended.oom_kills:
        return _Failure(reason, FailureKind.CRASHED)
    if settings.result_format == "none":  # the words of any other command mean anything
        return _Failure(reason)
    return replace(_told(ended.last_line or "", ended, report, settings), reason=reason)


def _told(words: str, ended: ExitRecord, report: AgentReport, settings: RunSettings) -> _Failure:
    """Return a failure in an agent's own words."""
    printed = report.failure
    signs = Signs(
        words,
        settings.result_format,
        ended.exit_code,
        printed.http_status if printed else None,
        printed.name if printed else "",
    )
    kind = kind_of(signs)
    reason = _one_line(words) or f"the agent reported a failure{f': {signs.name}' if signs.name else ''}"
    ends_at = _limit_end(words, ended, report) if kind is FailureKind.QUOTA else None
    is_permanent = kind in _NEVER_MENDS or (kind is FailureKind.QUOTA and ends_at is None and is_spent(words))
    return _Failure(reason, kind, ends_at, is_permanent)


def _limit_end(words: str, ended: ExitRecord, report: AgentReport) -> datetime | None:
    """Return when the limit that an agent hit is reset: within a week of its end, or unknown."""
    if ended.at is None:
        return None
    end = datetime.fromtimestamp(ended.at, UTC)
    if report.limit_ends_at is not None and report.limit_ends_at > end:
        return min(report.limit_ends_at, end + LONGEST_WAIT)
    return reset_in(words, end)


def _denial(report: AgentReport, settings: RunSettings) -> _Failure | None:
    """Return the failure of an agent that was not allowed to do what it wanted, None if that is no failure."""
    if not report.denials or settings.on_denied == "ignore":
        return None
    return _Failure(_denied(report.denials), FailureKind.DENIED, is_permanent=True)


def _denied(denials: tuple[str, ...]) -> str:
    named = ", ".join(_one_line(one) for one in denials[:_DENIALS_NAMED])
    more = f" and {len(denials) - _DENIALS_NAMED} more" if len(denials) > _DENIALS_NAMED else ""
    return f"{plural(len(denials), 'permission')} denied: {named}{more}"


def _one_line(text: str) -> str:
    """Return a text of an agent as a reason shows it: on one line, escaped, bounded."""
    return escape(" ".join(text.split()))[:_LONGEST_REASON]
