"""Agents that are processes of this host: start one under a supervisor, watch it, end it, or adopt it.

How a run is adopted. A run does not depend on the daemon: its supervisor starts the command, enforces its limits, ends
its process tree, and records both the start and the end in the run's status file. So a new daemon needs no answer from
the old one. It reads from the database which supervisor the old daemon committed (boot id, pid, start time) and opens
exactly that process. If it still lives, the daemon waits for it as for its own; if not, or once it has ended, the
daemon decides from what is on disk, and only then, because a living supervisor may still write. An exit record:
the run ended as recorded. A start record without an exit record, or a start that the old daemon confirmed: the command
ran, nobody knows how it ended, and the run is interrupted. Neither, in the same boot: the command never started, so
the run starts again. After a reboot memory proves nothing, so a run without an exit record is interrupted.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from daemon.agents.base import Journal, NeverStarted, Outcome, RunSettings, Work
from daemon.agents.process.cgroup_delegation import Cgroups
from daemon.agents.process.launcher import LaunchError, Nursery, SupervisorHandle, boot_id, end_leftovers
from daemon.agents.process.result_formats import AgentReport, read_report
from daemon.agents.process.supervisor import output, status
from daemon.model import RunStatus

_LOG = structlog.get_logger()
_LAUNCH_AGAIN_AFTER = timedelta(seconds=2)
_WAKE_AFTER = 1.0  # seconds beyond a supervisor's limits; SIGCONT does no harm to one that nobody stopped
_LAST_RESORT_AFTER = 45.0  # more seconds, which a slow disk or an unkillable process may take
_REASONS = {
    "timeout": "timeout: the run took longer than its timeout",
    "idle_timeout": "idle timeout: no output for longer than idle_timeout",
}

Describe = Callable[[Work], dict[str, Any]]
"""Returns the spec that a supervisor starts a run from; blocks; raises SecretError or UnfitError."""


class UnfitError(Exception):
    """An agent can never take the input of this run; the text says why."""


class SupervisedAgent:
    """Runs a program exactly once, and learns how it ended even if no daemon was running then."""

    def __init__(self, nursery: Nursery, cgroups: Cgroups | None, describe: Describe | None) -> None:
        """Serve one run; `describe` may be None for a run that is adopted."""
        self._nursery = nursery
        self._cgroups = cgroups
        self._describe = describe
        self._supervisor: SupervisorHandle | None = None
        self._status: int | None = None  # an open descriptor, so that the agent may rename or remove the file
        self._stop: bool | None = None  # True: at once; False: with grace
        self._grace = 0.0
        self._last_resort: asyncio.TimerHandle | None = None

    async def run(self, work: Work, journal: Journal) -> Outcome | NeverStarted:
        """Start the program under a new supervisor, and wait for its whole process tree to end."""
        if self._describe is None:
            raise ValueError("an adopted run can only be resumed")
        self._grace = work.settings.kill_grace_seconds
        try:
            spec = await asyncio.to_thread(self._describe, work)
            spec["cgroup"] = self._cgroups.spec(work.run_id, work.settings) if self._cgroups else None
            supervisor = await self._nursery.supervisor()
        except UnfitError as error:
            return Outcome(RunStatus.FAILED, str(error), permanent=True)
        except LaunchError as error:
            return NeverStarted(str(error), _LAUNCH_AGAIN_AFTER)
        try:
            await journal.identified(supervisor.identity)
        except BaseException:
            supervisor.dismiss()
            raise
        self._supervisor = supervisor
        self._status = status.open_by_path(str(work.run_dir))
        self._kill_supervisor_in(_longest(work.settings))  # in case it hangs before it can enforce the timeout itself
        try:
            released = await supervisor.release(spec)
            if released:
                await journal.delivered()
            self._forward_stop()
            return await self._ended(work, released=released)
        finally:
            self._close()

    async def resume(self, work: Work) -> Outcome | NeverStarted:
        """Wait for a run of an earlier daemon if its supervisor lives, else read from its records how it ended."""
        if work.identity is None:
            return NeverStarted("the daemon ended before it started a supervisor for the run")
        self._supervisor = SupervisorHandle.adopt(work.identity)
        if self._supervisor is not None:
            self._status = status.open_held_by(work.identity.pid, str(work.run_dir))
            elsewhere = status.folder_elsewhere(work.identity.pid, str(work.run_dir)) if self._status is None else None
            if elsewhere is not None:  # this database is a copy, and the agent belongs to the original's daemon
                self._close()
                return Outcome(
                    RunStatus.INTERRUPTED, f"this run belongs to another daemon and continues in {elsewhere}"
                )
            if self._cgroups is not None:
                self._cgroups.restore_limits(work.run_id, work.settings)
        try:
            self._grace = work.settings.kill_grace_seconds
            self._forward_stop()
            return await self._ended(work, released=work.delivered)
        finally:
            self._close()

    def stop(self, *, at_once: bool) -> None:
        """Have the supervisor end the process tree."""
        self._stop = at_once or bool(self._stop)
        self._forward_stop()

    def note_cancellation(self, reason: str) -> None:
        """Record the cancellation in the status file, in case the database cannot be written."""
        if self._status is not None and self._supervisor is not None:
            with contextlib.suppress(OSError):
                writable = os.open(f"/proc/self/fd/{self._status}", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    status.write_record(writable, "cancel", {"error": reason})
                finally:
                    os.close(writable)

    def _forward_stop(self) -> None:
        if self._stop is not None and self._supervisor is not None:
            self._supervisor.stop(at_once=self._stop)
            self._kill_supervisor_in(_LAST_RESORT_AFTER if self._stop else self._grace + _LAST_RESORT_AFTER)

    def _kill_supervisor_in(self, seconds: float) -> None:
        """Kill a supervisor that still hangs after so many seconds; `_interrupted` then kills what it leaves."""
        loop = asyncio.get_running_loop()
        if self._last_resort is not None:
            if self._last_resort.when() <= loop.time() + seconds:
                return
            self._last_resort.cancel()
        if self._supervisor is not None:
            self._last_resort = loop.call_later(seconds, self._supervisor.send, signal.SIGKILL)

    def _close(self) -> None:
        if self._last_resort is not None:
            self._last_resort.cancel()
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None
        if self._status is not None:
            os.close(self._status)
            self._status = None

    async def _wait_for_supervisor(self, settings: RunSettings) -> None:
        """Wait for the supervisor to end; if it overruns the run's timeout, somebody stopped it (SIGSTOP): wake it."""
        supervisor = self._supervisor
        if supervisor is None:
            return
        try:
            async with asyncio.timeout(settings.timeout_seconds + settings.kill_grace_seconds + _WAKE_AFTER):
                await supervisor.wait()
        except TimeoutError:
            supervisor.send(signal.SIGCONT)
            self._kill_supervisor_in(settings.kill_grace_seconds + _LAST_RESORT_AFTER)
            await supervisor.wait()

    async def _ended(self, work: Work, *, released: bool) -> Outcome | NeverStarted:
        """Wait for the supervisor to end, and only then decide from what it recorded on disk.

        An agent can destroy these records, so a run whose command was `released` is never started again.
        """
        await self._wait_for_supervisor(work.settings)
        if self._status is None:
            self._status = status.open_by_path(str(work.run_dir))
        ended, cancelled, report = await asyncio.to_thread(_records, self._status, work)
        if ended is not None and ended["reason"] == "exec_impossible_now":
            return NeverStarted(ended["error"], _LAUNCH_AGAIN_AFTER)
        if ended is not None and ended["reason"] != "supervisor_failed":
            return _outcome(ended, cancelled, report, work)
        identity = work.identity if self._supervisor is None else self._supervisor.identity
        same_boot = identity is not None and identity.boot_id == boot_id()
        may_have_started = await asyncio.to_thread(status.may_have_started, str(work.run_dir))
        if same_boot and not released and not may_have_started:
            return NeverStarted("its supervisor ended before the command started", _LAUNCH_AGAIN_AFTER)
        return await self._interrupted(work, ended, same_boot=same_boot)

    async def _interrupted(self, work: Work, ended: dict[str, Any] | None, *, same_boot: bool) -> Outcome:
        if not same_boot:
            return Outcome(RunStatus.INTERRUPTED, "the host was restarted while the run was active")
        left = await end_leftovers(work.idempotency_key, self._cgroups.path(work.run_id) if self._cgroups else None)
        with contextlib.suppress(OSError):  # the disk may fail: that costs the last part of the output, not the run
            await asyncio.to_thread(output.fold, str(work.run_dir))
        failure = f": {ended['error']}" if ended else ""
        return Outcome(
            RunStatus.INTERRUPTED,
            f"its supervisor was killed or failed{failure}; {left} process(es) that it left were killed",
            exit_code=ended.get("exit_code") if ended else None,
            signal=ended.get("signal") if ended else None,
        )


def _longest(settings: RunSettings) -> float:
    """Return the seconds after which a supervisor must have ended, whatever its command does."""
    return settings.timeout_seconds + 2 * settings.kill_grace_seconds + _WAKE_AFTER + _LAST_RESORT_AFTER


def _records(descriptor: int | None, work: Work) -> tuple[dict[str, Any] | None, dict[str, Any] | None, AgentReport]:
    """Return the exit record, the cancellation that a daemon noted, and what the agent reported."""
    if descriptor is None:
        return None, None, AgentReport()
    ended, cancelled = (status.read_record(descriptor, slot) for slot in ("exit", "cancel"))
    return ended, cancelled, read_report(work.run_dir, work.settings.result_format) if ended else AgentReport()


def _outcome(ended: dict[str, Any], cancelled: dict[str, Any] | None, report: AgentReport, work: Work) -> Outcome:
    """Combine what the supervisor recorded with what the agent reported."""
    complaint = report.complaint or ended.get("complaint")
    if complaint:
        _LOG.warning("[run] Agent's report ignored", run_id=work.run_id, agent=work.agent, reason=complaint)
    for permission in report.permissions:
        _LOG.info("[run] Agent requested permission", run_id=work.run_id, agent=work.agent, **permission)
    status_, error, permanent = _status_of(ended, report)
    cancelled = cancelled if status_ is RunStatus.CANCELLED else None
    if cancelled is not None:
        error = cancelled["error"]
    if ended.get("left_over"):
        error = f"{error or status_}; {ended['left_over']} process(es) could not be killed"
    return Outcome(
        status=status_,
        error=error,
        cancelled_by_us=cancelled is not None,
        exit_code=ended.get("exit_code"),
        signal=ended.get("signal"),
        message=report.message or (f"its report was ignored: {complaint}" if complaint else None),
        permanent=permanent,
        retry_after=report.retry_after,
        usage=report.usage,
        output_bytes=ended.get("output_bytes"),
        output_dropped=ended.get("output_dropped"),
        memory_peak=ended.get("memory_peak"),
        cpu_seconds=ended.get("cpu_seconds"),
        ended_at=datetime.fromtimestamp(ended["at"], UTC),
    )


def _status_of(ended: dict[str, Any], report: AgentReport) -> tuple[RunStatus, str | None, bool]:
    """Return status, reason, and whether another attempt is certain to fail in the same way."""
    match ended["reason"]:
        case "cancelled":
            return RunStatus.CANCELLED, "cancelled", False
        case "exec_failed":
            return RunStatus.FAILED, str(ended["error"]), True
        case "timeout" | "idle_timeout" as limit:
            return RunStatus.FAILED, _REASONS[limit], False
    failure = _failure(ended, report)
    return (RunStatus.FAILED if failure else RunStatus.COMPLETED), failure, False


def _failure(ended: dict[str, Any], report: AgentReport) -> str | None:
    """Return why a command that ended by itself failed, None if it did not; its report overrides its exit status."""
    if report.status is not None:
        return (report.message or "the agent reported a failure") if report.status is RunStatus.FAILED else None
    if ended["signal"] is not None:
        why = ": out of memory" if ended.get("oom_kills") and ended["signal"] == signal.SIGKILL else ""
        return f"ended by signal {ended['signal']}{why}"
    return f"exit status {ended['exit_code']}" if ended["exit_code"] != 0 else None
