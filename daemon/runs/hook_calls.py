"""Handles hook calls, by which a remote agent reports how its run ended: each is checked, masked and recorded once."""

import asyncio
import contextlib
import json
import random
import weakref
from dataclasses import dataclass
from typing import Literal

import aiofiles

from daemon.agents.base import Outcome
from daemon.agents.factory import Agents
from daemon.agents.process.agent_report import LONGEST_MESSAGE
from daemon.agents.process.supervisor.files import open_anew
from daemon.agents.process.supervisor.mask import Secrets
from daemon.config.live import LiveConfig
from daemon.errors import InvalidError, NotFoundError
from daemon.model import RunStatus
from daemon.notify.outbox import Outbox
from daemon.runs.control import RunControl
from daemon.runs.folder import run_folder
from daemon.runs.hook_tokens import UNKNOWN, end_run, hash_of
from daemon.runs.settings import settings_of
from daemon.store.home import Home
from daemon.store.hooks import run_of_hook
from daemon.store.runs import get_run


@dataclass(frozen=True)
class _Report:
    """What an agent reported, as it is stored: masked."""

    document: str
    """All of it, as JSON."""
    output: str
    outcome: Outcome


class HookCalls:
    """Handles calls of hooks."""

    def __init__(self, home: Home, live: LiveConfig, agents: Agents, outbox: Outbox, control: RunControl) -> None:
        self._home = home
        self._live = live
        self._agents = agents
        self._outbox = outbox
        self._control = control
        self._locks: weakref.WeakValueDictionary[int, asyncio.Lock] = weakref.WeakValueDictionary()

    async def take(self, token: str, status: Literal["completed", "failed"], result: object, error: str | None) -> int:
        """End the run of a token and return its number.

        Raise NotFoundError for a token that is not valid, InvalidError for a result that cannot be stored.
        """
        run_id = await self.run_of(token)
        lock = self._locks.setdefault(run_id, asyncio.Lock())
        async with lock:  # a second call neither ends the run again nor replaces the first report
            await self.run_of(token)
            await self._end(run_id, token, status, result, error)
        return run_id

    async def run_of(self, token: str) -> int:
        """Return the active run that a token may end; raise NotFoundError for a token that is not valid."""
        digest, now = hash_of(token), self._home.now()
        run_id = await self._home.database.read(lambda connection: run_of_hook(connection, digest, now))
        if run_id is None:
            raise NotFoundError(UNKNOWN)
        return run_id

    async def _end(
        self, run_id: int, token: str, status: Literal["completed", "failed"], result: object, error: str | None
    ) -> None:
        """Store the report, then end the run, so that the output of an ended run is complete."""
        secrets = await self._secrets_of(run_id, token)
        report = await asyncio.to_thread(_masked, secrets, status, result, error)
        await self._store(run_id, report.document, report.output)
        chance = random.random()
        await self._home.database.write(
            lambda tx: end_run(
                tx,
                token,
                report.outcome,
                self._home.now(),
                instance=self._home.instance,
                chance=chance,
                outbox=self._outbox,
            )
        )
        self._control.report_hook_call(run_id)

    async def _secrets_of(self, run_id: int, token: str) -> Secrets:
        """Return the secrets that the run was given; for a run that is still being adopted, those of the config."""
        secrets = self._control.secrets_of(run_id)
        if secrets is not None:
            return secrets
        run, config = await self._home.database.read(lambda connection: get_run(connection, run_id)), self._live.config
        if run is None:
            raise NotFoundError(UNKNOWN)
        section = config.agents.get(run.agent)
        return await asyncio.to_thread(self._agents.secrets_of, settings_of(run), section, config, token)

    async def _store(self, run_id: int, report: str, output: str) -> None:
        """Store a report in the run's folder: all of it as the result file, its result as the output.

        If this fails, the outcome is recorded nevertheless.
        """
        folder = run_folder(self._home.state_dir, run_id)
        for name, text in (("result.json", report), ("output.log", output)):
            with contextlib.suppress(OSError):
                async with aiofiles.open(str(folder / name), "wb", opener=open_anew) as stream:
                    await stream.write(text.encode(errors="replace"))


def _masked(secrets: Secrets, status: Literal["completed", "failed"], result: object, error: str | None) -> _Report:
    """Return a report with secrets masked before JSON escapes them; raise InvalidError if it is nested too deeply."""
    try:
        shown = secrets.masked_value(result)
        output = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False, indent=2)
        brief = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
        whole = {"status": status, "result": shown, "error": secrets.masked_value(error)}
        document = json.dumps(whole, ensure_ascii=False)
    except RecursionError:
        raise InvalidError("the result is nested too deeply") from None
    message = None if result is None else secrets.brief(brief, LONGEST_MESSAGE)
    outcome = Outcome(RunStatus.COMPLETED, message=message)
    if status == "failed":
        reason = secrets.brief(error or "the agent reported a failure", LONGEST_MESSAGE)
        outcome = Outcome(RunStatus.FAILED, reason, message=message)
    return _Report(document, "" if result is None else output + "\n", outcome)
