"""How a run ended: what its supervisor recorded, combined with what the agent reported."""

import signal
from datetime import UTC, datetime

import structlog

from daemon.agents.base import Outcome, RunSettings, Work
from daemon.agents.process.records import ExitRecord, read_cancellation, read_exit
from daemon.agents.process.result_formats import AgentReport, read_report
from daemon.agents.process.supervisor.mask import Secrets
from daemon.model import RunStatus

_LOG = structlog.get_logger()


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
    complaint = report.complaint or ended.complaint
    what = "part of its report" if report.is_used else "its report"
    if complaint:
        event = "[run] Part of agent's report ignored" if report.is_used else "[run] Agent's report ignored"
        _LOG.warning(event, run_id=work.run_id, agent=work.agent, reason=complaint)
    for permission in report.permissions:
        _LOG.info("[run] Agent requested permission", run_id=work.run_id, agent=work.agent, **permission)
    status, error, permanent = _status_of(ended, report, work.settings)
    cancelled = cancelled if status is RunStatus.CANCELLED else None
    if cancelled is not None:
        error = cancelled
    if ended.left_over:
        error = f"{error or status}; {ended.left_over} process(es) could not be killed"
    return Outcome(
        status=status,
        error=error,
        cancelled_by_us=cancelled is not None,
        exit_code=ended.exit_code,
        signal=ended.signal,
        message=report.message or (f"{what} was ignored: {complaint}" if complaint else None),
        permanent=permanent,
        retry_after=report.retry_after,
        usage=report.usage,
        output_bytes=ended.output_bytes,
        output_dropped=ended.output_dropped,
        memory_peak=ended.memory_peak,
        cpu_seconds=ended.cpu_seconds,
        ended_at=datetime.fromtimestamp(ended.at, UTC) if ended.at is not None else None,
    )


def _status_of(ended: ExitRecord, report: AgentReport, settings: RunSettings) -> tuple[RunStatus, str | None, bool]:
    """Return status, reason, and whether another attempt is certain to fail in the same way."""
    match ended.reason:
        case "cancelled":
            return RunStatus.CANCELLED, "cancelled", False
        case "exec_failed":
            return RunStatus.FAILED, ended.error, True
        case "timeout":
            return RunStatus.FAILED, settings.overdue, False
        case "idle_timeout":
            return RunStatus.FAILED, settings.silent, False
    failure = _failure(ended, report, settings)
    return (RunStatus.FAILED if failure else RunStatus.COMPLETED), failure, False


def _failure(ended: ExitRecord, report: AgentReport, settings: RunSettings) -> str | None:
    """Return why a command that ended by itself failed, None if it did not; its report overrides its exit status.

    A report that cannot be used is a failure, too, unless the host kept the supervisor from saving it.
    """
    if report.status is not None:
        return (report.message or "the agent reported a failure") if report.status is RunStatus.FAILED else None
    if ended.signal is not None:
        why = ": out of memory" if ended.oom_kills and ended.signal == signal.SIGKILL else ""
        return f"ended by signal {ended.signal}{why}"
    is_bad = report.is_bad and ended.complaint is None and settings.on_bad_report == "fail"
    reasons = [
        f"exit status {ended.exit_code}" if ended.exit_code != 0 else "",
        f"its report cannot be used: {report.complaint}" if is_bad else "",
    ]
    return "; ".join(filter(None, reasons)) or None
