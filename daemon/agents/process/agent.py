"""Agents that are processes of this host: start one under a supervisor, watch it, end it, or adopt it.

How a run is adopted. A run does not depend on the daemon: its supervisor starts the command, enforces its limits, ends
its process tree, and records both the start and the end in the run's status file. So a new daemon needs no answer from
the old one. It reads from the database which supervisor the old daemon committed (boot id, pid, start time) and opens
exactly that process. If it still lives, the daemon waits for it as for its own; if not, or once it has ended, the
daemon ends what is left of the run and then decides from what is on disk, and only then, because a living supervisor
may still write. An exit record: the run ended as recorded. A start that the old daemon confirmed, or no proof that
there was none: nobody knows how the command ended, and the run is interrupted. Proof that there was none, in the same
boot: the run starts again. After a reboot memory proves nothing, so a run without an exit record is interrupted.

The agent may have written to these records, or killed its supervisor. So what is left is ended whatever they say, and
they count only if the supervisor authenticated them (`supervisor/status.py`): others make the run interrupted. What is
left contradicts only the records of earlier versions, which are not authenticated: any process can bear a run's mark.
"""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import structlog

from daemon.agents.base import Identity, Journal, NeverStarted, Outcome, RunSettings, Work
from daemon.agents.process.cgroup_delegation import Cgroups
from daemon.agents.process.launcher import LaunchError, Nursery, SupervisorHandle, boot_id
from daemon.agents.process.leftovers import NOTHING, Leftovers, end_leftovers, has_cgroup
from daemon.agents.process.outcome import outcome_of, read_end
from daemon.agents.process.records import ExitRecord, read_cancellation
from daemon.agents.process.supervisor import output, status
from daemon.agents.process.supervisor.mask import Secrets
from daemon.errors import StoreDamagedError
from daemon.model import RunStatus

_LOG = structlog.get_logger()
_WAKE_AFTER = 1.0  # seconds beyond a supervisor's limits; SIGCONT does no harm to one that nobody stopped
_LAST_RESORT_AFTER = 45.0  # more seconds, which a slow disk or an unkillable process may take

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
        self.secrets: Secrets | None = None  # of an adopted run, only its supervisor knows them
        self._supervisor: SupervisorHandle | None = None
        self._key: bytes | None = None  # of the records of the supervisor
        self._status: int | None = None  # an open descriptor, so that the agent may rename or remove the file
        self._closing = threading.Lock()
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
            self.secrets = Secrets(spec["hidden"])
            spec["cgroup"] = self._cgroups.spec(work.run_id, work.settings) if self._cgroups else None
            supervisor = await self._nursery.supervisor()
        except UnfitError as error:
            return Outcome(RunStatus.FAILED, str(error), permanent=True)
        except LaunchError as error:
            return NeverStarted(str(error), is_failure=True)
        try:
            await journal.identified(supervisor.identity)
        except BaseException:
            supervisor.close()
            raise
        if self._stop is not None:
            supervisor.close()
            return NeverStarted("it was stopped before its command started")
        self._supervisor, self._key = supervisor, _key(work, supervisor.identity)
        spec["record_key"] = self._key.hex() if self._key is not None else None
        self._status = status.open_by_path(str(work.run_dir))
        self._kill_supervisor_in(_longest(work.settings))  # in case it hangs before it can enforce the timeout itself
        return await self._ending_the_run_on_errors(work, self._released(work, journal, supervisor, spec))

    async def resume(self, work: Work) -> Outcome | NeverStarted:
        """Wait for a run of an earlier daemon if its supervisor lives, else read from its records how it ended."""
        if work.identity is None:
            return NeverStarted("the daemon ended before it started a supervisor for the run")
        self._supervisor = SupervisorHandle.adopt(work.identity)
        self._key = _key(work, work.identity)
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
        self._grace = work.settings.kill_grace_seconds
        return await self._ending_the_run_on_errors(work, self._ended(work, work.identity, released=work.delivered))

    async def _released(
        self, work: Work, journal: Journal, supervisor: SupervisorHandle, spec: dict[str, Any]
    ) -> Outcome | NeverStarted:
        """Let a supervisor start the command, and wait for its end."""
        released = await supervisor.release(spec)
        if released:
            await journal.delivered()
        return await self._ended(work, supervisor.identity, released=released)

    async def _ending_the_run_on_errors(
        self, work: Work, ended: Awaitable[Outcome | NeverStarted]
    ) -> Outcome | NeverStarted:
        """Let no process outlive an unexpected error; only with a damaged database the next daemon adopts the run."""
        try:
            return await ended
        except StoreDamagedError:
            raise
        except Exception:
            if self._supervisor is not None:
                self.stop(at_once=True)
                await self._supervisor.wait()
                await end_leftovers(work, self._supervisor.identity, self._nursery, self._cgroups)
            raise
        finally:
            self._close()

    def stop(self, *, at_once: bool) -> None:
        """Have the supervisor end the process tree."""
        self._stop = at_once or bool(self._stop)
        self._forward_stop()

    def note_cancellation(self, reason: str) -> None:
        """Record the first cancellation in the status file, in case the database cannot be written or is restored."""
        with contextlib.suppress(OSError), self._held_status() as held:
            if held is None or read_cancellation(held, self._key) is not None:
                return
            writable = os.open(f"/proc/self/fd/{held}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                status.write_record(writable, "cancel", {"error": reason}, self._key)
            finally:
                os.close(writable)

    @contextlib.contextmanager
    def _held_status(self) -> Iterator[int | None]:
        """Give another thread the status file, which the event loop may close meanwhile; None after the run's end."""
        with self._closing:
            held = None if self._status is None or self._supervisor is None else os.dup(self._status)
        try:
            yield held
        finally:
            if held is not None:
                os.close(held)

    def _forward_stop(self) -> None:
        if self._stop is not None and self._supervisor is not None:
            self._supervisor.stop(at_once=self._stop)
            self._kill_supervisor_in(_LAST_RESORT_AFTER if self._stop else self._grace + _LAST_RESORT_AFTER)

    def _kill_supervisor_in(self, seconds: float) -> None:
        """Kill a supervisor that still hangs after so many seconds; what it leaves is then ended."""
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
        with self._closing:
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

    async def _ended(self, work: Work, identity: Identity, *, released: bool) -> Outcome | NeverStarted:
        """Wait for the supervisor to end, and only then end what it left and decide from what it recorded on disk.

        An agent can destroy these records, so a run whose command was `released` is never started again.
        """
        self._forward_stop()
        await self._wait_for_supervisor(work.settings)
        same_boot = identity.boot_id == boot_id()
        left = await self._end_leftovers(work, identity) if same_boot else NOTHING
        if self._status is None:
            self._status = status.open_by_path(str(work.run_dir))
        try:
            ended, cancelled, report = await asyncio.to_thread(
                read_end, self._status, self._key, work, self.secrets or Secrets(())
            )
        except status.DamagedRecordError as error:
            return await self._interrupted(work, None, f"its records are damaged or forged ({error})", left)
        if ended is not None and self._key is None and left.known and not ended.left_over:
            return await self._interrupted(work, None, "its records say that no process was left, but some were", left)
        if ended is not None and ended.reason == "exec_impossible_now":
            return NeverStarted(ended.error or "the host lacks a resource at the moment", is_failure=True)
        if ended is not None and ended.reason != "supervisor_failed":
            return outcome_of(ended, cancelled, report, work)
        if not same_boot:
            return Outcome(RunStatus.INTERRUPTED, "the host was restarted while the run was active")
        return await self._unknown(work, ended, left, released=released)

    async def _unknown(
        self, work: Work, ended: ExitRecord | None, left: Leftovers, *, released: bool
    ) -> Outcome | NeverStarted:
        """Decide about a run without a record of how its command ended."""
        may_have_started = await asyncio.to_thread(status.may_have_started, str(work.run_dir), work.record_key)
        if released or may_have_started or left.known:
            return await self._interrupted(work, ended, "its supervisor was killed or failed", left)
        is_own = work.identity is None  # else the daemon ended, and its supervisor with it
        return NeverStarted("its supervisor ended before the command started", is_failure=is_own)

    async def _end_leftovers(self, work: Work, identity: Identity) -> Leftovers:
        """Kill what the supervisor left, unless it reported that it left nothing."""
        has_ended_it = self._supervisor is not None and self._supervisor.has_ended_its_tree()
        if has_ended_it and not has_cgroup(work.run_id, self._cgroups):
            return NOTHING
        left = await end_leftovers(work, identity, self._nursery, self._cgroups)
        if left.total:
            _LOG.warning(
                "[run] Killed processes that a supervisor left",
                run_id=work.run_id,
                agent=work.agent,
                processes=left.total,
            )
        return left

    async def _interrupted(self, work: Work, ended: ExitRecord | None, why: str, left: Leftovers) -> Outcome:
        with contextlib.suppress(OSError):  # the disk may fail: that costs the last part of the output, not the run
            await asyncio.to_thread(output.fold, str(work.run_dir))
        failure = f": {ended.error}" if ended else ""
        return Outcome(
            RunStatus.INTERRUPTED,
            f"{why}{failure}; {left.total} process(es) that it left were killed",
            exit_code=ended.exit_code if ended else None,
            signal=ended.signal if ended else None,
        )


def _key(work: Work, supervisor: Identity) -> bytes | None:
    """Return the key of the records of one supervisor, None if they are not authenticated."""
    if work.record_key is None:
        return None
    return status.start_key(work.record_key, supervisor.boot_id, supervisor.pid, supervisor.started)


def _longest(settings: RunSettings) -> float:
    """Return the seconds after which a supervisor must have ended, whatever its command does."""
    return settings.timeout_seconds + 2 * settings.kill_grace_seconds + _WAKE_AFTER + _LAST_RESORT_AFTER
