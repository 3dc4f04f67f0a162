"""Agents that are a process of this host: started once under a supervisor, watched, ended, and found again."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from daemon.agents.base import Journal, NeverStarted, Outcome, RunSettings, Work
from daemon.agents.process.cgroups import Cgroups
from daemon.agents.process.launcher import LaunchError, Nursery, SupervisorHandle, boot_id, end_leftovers
from daemon.agents.process.report import AgentReport, read_report
from daemon.agents.process.supervisor import output, status
from daemon.model import RunStatus

_LOG = structlog.get_logger()
_LAUNCH_AGAIN_AFTER = timedelta(seconds=2)
_NUDGE_AFTER = 1.0  # seconds beyond what a supervisor may take; waking one that nobody stopped is harmless
_LAST_RESORT_AFTER = 45.0  # seconds more, in which it may still struggle with a slow disk or an unkillable process
_REASONS = {
    "timeout": "timeout: the run took longer than its timeout",
    "idle_timeout": "idle timeout: no output for longer than idle_timeout",
}

Describe = Callable[[Work], dict[str, Any]]
"""Gives the spec that a supervisor starts a run by; blocks, and raises SecretError or UnfitError."""


class UnfitError(Exception):
    """An agent cannot take the input of a run, now or later; the text says why."""


class SupervisedAgent:
    """Runs a program exactly once, and knows how it ended even if the daemon was away meanwhile."""

    def __init__(self, nursery: Nursery, cgroups: Cgroups | None, describe: Describe | None) -> None:
        """Serve one run; `describe` may be None where a run of an earlier daemon is taken over."""
        self._nursery = nursery
        self._cgroups = cgroups
        self._describe = describe
        self._supervisor: SupervisorHandle | None = None
        self._status: int | None = None  # an open descriptor: what the agent does to the file's name is nothing to us
        self._stop: bool | None = None  # whether at once
        self._grace = 0.0
        self._last_resort: asyncio.TimerHandle | None = None

    async def run(self, work: Work, journal: Journal) -> Outcome | NeverStarted:
        """Start the program under a new supervisor, and wait for the end of its whole tree."""
        if self._describe is None:
            raise ValueError("a run that was taken over is resumed")
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
        self._status = status.open_left(str(work.run_dir))
        self._kill_supervisor_in(_longest(work.settings))  # should it hang before it can mind the time itself
        try:
            released = await supervisor.release(spec)
            if released:
                await journal.delivered()
            self._pass_on_stop()
            return await self._ended(work, released=released)
        finally:
            self._forget()

    async def resume(self, work: Work) -> Outcome | NeverStarted:
        """Adopt the run of an earlier daemon if its supervisor lives, else tell from its records how it ended."""
        if work.identity is None:
            return NeverStarted("the daemon ended before the run had a supervisor")
        self._supervisor = SupervisorHandle.adopt(work.identity)
        if self._supervisor is not None:
            self._status = status.open_of(work.identity.pid, str(work.run_dir))
            elsewhere = status.folder_elsewhere(work.identity.pid, str(work.run_dir)) if self._status is None else None
            if elsewhere is not None:  # this database is a copy of another daemon's, whose agent it is
                self._forget()
                return Outcome(RunStatus.INTERRUPTED, f"it is a run of another daemon, which goes on in {elsewhere}")
            if self._cgroups is not None:
                self._cgroups.limit_again(work.run_id, work.settings)
        try:
            self._grace = work.settings.kill_grace_seconds
            self._pass_on_stop()
            return await self._ended(work, released=work.delivered)
        finally:
            self._forget()

    def stop(self, *, at_once: bool) -> None:
        """Have the tree ended by its supervisor."""
        self._stop = at_once or bool(self._stop)
        self._pass_on_stop()

    def note_cancellation(self, told: str) -> None:
        """Leave word in the status file that the end is wanted, for the case that no database can be told."""
        if self._status is not None and self._supervisor is not None:
            with contextlib.suppress(OSError):
                writable = os.open(f"/proc/self/fd/{self._status}", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    status.write_record(writable, "cancel", {"error": told})
                finally:
                    os.close(writable)

    def _pass_on_stop(self) -> None:
        if self._stop is not None and self._supervisor is not None:
            self._supervisor.stop(at_once=self._stop)
            self._kill_supervisor_in(_LAST_RESORT_AFTER if self._stop else self._grace + _LAST_RESORT_AFTER)

    def _kill_supervisor_in(self, seconds: float) -> None:
        """Have a last resort against a supervisor that cannot end: kill it, and then what it leaves."""
        loop = asyncio.get_running_loop()
        if self._last_resort is not None:
            if self._last_resort.when() <= loop.time() + seconds:
                return
            self._last_resort.cancel()
        if self._supervisor is not None:
            self._last_resort = loop.call_later(seconds, self._supervisor.send, signal.SIGKILL)

    def _forget(self) -> None:
        if self._last_resort is not None:
            self._last_resort.cancel()
        if self._supervisor is not None:
            self._supervisor.close()
            self._supervisor = None
        if self._status is not None:
            os.close(self._status)
            self._status = None

    async def _gone(self, settings: RunSettings) -> None:
        """Wait for the end of the supervisor; one that overran the run's timeout was stopped by somebody."""
        supervisor = self._supervisor
        if supervisor is None:
            return
        try:
            async with asyncio.timeout(settings.timeout_seconds + settings.kill_grace_seconds + _NUDGE_AFTER):
                await supervisor.gone()
        except TimeoutError:
            supervisor.send(signal.SIGCONT)
            self._kill_supervisor_in(settings.kill_grace_seconds + _LAST_RESORT_AFTER)
            await supervisor.gone()

    async def _ended(self, work: Work, *, released: bool) -> Outcome | NeverStarted:
        """Wait until the supervisor is gone and only then decide, from what it left on disk.

        An agent can destroy these records; one that is known to have been let loose is never started again.
        """
        await self._gone(work.settings)
        if self._status is None:
            self._status = status.open_left(str(work.run_dir))
        ended, wanted, report = await asyncio.to_thread(_records, self._status, work)
        if ended is not None and ended["reason"] == "exec_impossible_now":
            return NeverStarted(ended["error"], _LAUNCH_AGAIN_AFTER)
        if ended is not None and ended["reason"] != "supervisor_failed":
            return _outcome(ended, wanted, report, work)
        identity = work.identity if self._supervisor is None else self._supervisor.identity
        same_boot = identity is not None and identity.boot_id == boot_id()
        begun = await asyncio.to_thread(status.was_begun, str(work.run_dir))
        if same_boot and not released and not begun:
            return NeverStarted("its supervisor ended before it was let loose", _LAUNCH_AGAIN_AFTER)
        return await self._interrupted(work, ended, same_boot=same_boot)

    async def _interrupted(self, work: Work, ended: dict[str, Any] | None, *, same_boot: bool) -> Outcome:
        if not same_boot:
            return Outcome(RunStatus.INTERRUPTED, "the host was restarted while the run was active")
        left = await end_leftovers(work.idempotency_key, self._cgroups.path(work.run_id) if self._cgroups else None)
        with contextlib.suppress(OSError):  # the last part of the output is lost with the disk, not the run
            await asyncio.to_thread(output.fold, str(work.run_dir))
        failure = f": {ended['error']}" if ended else ""
        return Outcome(
            RunStatus.INTERRUPTED,
            f"its supervisor ended before it{failure}; {left} process(es) that were left have been ended",
            exit_code=ended.get("exit_code") if ended else None,
            signal=ended.get("signal") if ended else None,
        )


def _longest(settings: RunSettings) -> float:
    """Return the seconds after which a supervisor should long have ended, whatever its command does."""
    return settings.timeout_seconds + 2 * settings.kill_grace_seconds + _NUDGE_AFTER + _LAST_RESORT_AFTER


def _records(descriptor: int | None, work: Work) -> tuple[dict[str, Any] | None, dict[str, Any] | None, AgentReport]:
    """Return what the supervisor recorded of the end, what a daemon did of its wish for it, and what the agent said."""
    if descriptor is None:
        return None, None, AgentReport()
    ended, wanted = (status.read_record(descriptor, slot) for slot in ("exit", "cancel"))
    return ended, wanted, read_report(work.run_dir, work.settings.result_format) if ended else AgentReport()


def _outcome(ended: dict[str, Any], wanted: dict[str, Any] | None, report: AgentReport, work: Work) -> Outcome:
    """Weigh what the supervisor recorded with what the agent said of itself."""
    complaint = report.complaint or ended.get("complaint")
    if complaint:
        _LOG.warning("[run] Report left aside", run_id=work.run_id, agent=work.agent, reason=complaint)
    for permission in report.permissions:
        _LOG.info("[run] The agent asked for a permission", run_id=work.run_id, agent=work.agent, **permission)
    status_, error, permanent = _status_of(ended, report)
    wish = wanted if status_ is RunStatus.CANCELLED else None
    if wish is not None:
        error = wish["error"]
    if ended.get("left_over"):
        error = f"{error or status_}; {ended['left_over']} process(es) could not be ended"
    return Outcome(
        status=status_,
        error=error,
        cancelled_by_us=wish is not None,
        exit_code=ended.get("exit_code"),
        signal=ended.get("signal"),
        message=report.message or (f"its report was left aside: {complaint}" if complaint else None),
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
    """Return status, reason, and whether another attempt could not end otherwise."""
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
    """Say why a command that ended by itself failed, None if it did not; its own report overrules its exit status."""
    if report.status is not None:
        return (report.message or "the agent reported a failure") if report.status is RunStatus.FAILED else None
    if ended["signal"] is not None:
        why = ": out of memory" if ended.get("oom_kills") and ended["signal"] == signal.SIGKILL else ""
        return f"ended by signal {ended['signal']}{why}"
    return f"exit status {ended['exit_code']}" if ended["exit_code"] != 0 else None
