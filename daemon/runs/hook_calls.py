"""Handles hook calls, by which a remote agent reports how its run ended: each is checked, masked and recorded once."""

import asyncio
import contextlib
import json
import random
import weakref
from collections.abc import Callable
from typing import Literal

import aiofiles

from daemon.agents.base import Outcome
from daemon.agents.process.result_formats import in_brief
from daemon.agents.process.supervisor.files import open_anew
from daemon.errors import InvalidError, NotFoundError
from daemon.model import RunStatus
from daemon.notify.outbox import Outbox
from daemon.runs.control import RunControl
from daemon.runs.folder import run_folder
from daemon.runs.hook_tokens import UNKNOWN, end_run, hash_of
from daemon.store.home import Home
from daemon.store.hooks import run_of_hook


class HookCalls:
    """Handles calls of hooks."""

    def __init__(self, home: Home, outbox: Outbox, control: RunControl) -> None:
        self._home = home
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
        mask = self._control.mask_of(run_id)
        try:
            shown = _masked(result, mask)
            output = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False, indent=2)
            brief = shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
            error = None if error is None else mask(error)
            report = json.dumps({"status": status, "result": shown, "error": error})
        except RecursionError:
            raise InvalidError("the result is nested too deeply") from None
        message = None if result is None else in_brief(brief)
        outcome = Outcome(RunStatus.COMPLETED, message=message)
        if status == "failed":
            outcome = Outcome(RunStatus.FAILED, in_brief(error or "the agent reported a failure"), message=message)
        await self._store(run_id, report, "" if result is None else output + "\n")
        chance = random.random()
        await self._home.database.write(
            lambda tx: end_run(
                tx,
                token,
                outcome,
                self._home.now(),
                instance=self._home.instance,
                chance=chance,
                outbox=self._outbox,
            )
        )
        self._control.report_hook_call(run_id)

    async def _store(self, run_id: int, report: str, output: str) -> None:
        """Store a report in the run's folder: all of it as the result file, its result as the output.

        If this fails, the outcome is recorded nevertheless.
        """
        folder = run_folder(self._home.state_dir, run_id)
        for name, text in (("result.json", report), ("output.log", output)):
            with contextlib.suppress(OSError):
                async with aiofiles.open(str(folder / name), "wb", opener=open_anew) as stream:
                    await stream.write(text.encode(errors="replace"))


def _masked(value: object, mask: Callable[[str], str]) -> object:
    """Return a JSON value with secrets masked in its strings, before JSON escapes them."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return [_masked(one, mask) for one in value]
    if isinstance(value, dict):
        return {mask(key): _masked(one, mask) for key, one in value.items()}
    return value
