"""Cached answers about schedules, each valid until the next commit or the first due time in it."""

import sqlite3
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from daemon.api.json_body import to_json
from daemon.config.schema import Config
from daemon.units import format_instant

_MOST = 16_000_000  # bytes that are kept
_LARGEST = 1_000_000  # bytes of one answer that is


@dataclass(frozen=True)
class Answer:
    """A body of JSON."""

    body: bytes
    version: int
    """Of the one schedule that it shows, 0 for a list."""
    until: str | None
    """The first due time in it, as UTC text: from then on the answer is outdated."""


class ResponseCache:
    """The answers given under one config since the last commit; used only in the reader's thread."""

    def __init__(self) -> None:
        self._answers: dict[Hashable, Answer] = {}
        self._size = 0
        self._state: int | None = None
        self._config: Config | None = None

    def answer(
        self,
        connection: sqlite3.Connection,
        config: Config,
        key: Hashable,
        now: datetime,
        view: Callable[[], Mapping[str, Any]],
    ) -> Answer:
        """Return the answer for a key, a new one after any commit (PRAGMA data_version) and any reload."""
        state = connection.execute("PRAGMA data_version").fetchone()[0]
        if state != self._state or config is not self._config:
            self._answers, self._size, self._state, self._config = {}, 0, state, config
        known = self._answers.get(key)
        if known is not None and (known.until is None or known.until > format_instant(now)):
            return known
        fresh = _written(view())
        self._keep(key, fresh, known)
        return fresh

    def _keep(self, key: Hashable, fresh: Answer, known: Answer | None) -> None:
        if len(fresh.body) > _LARGEST:
            return
        if self._size > _MOST:
            self._answers, self._size, known = {}, 0, None
        self._size += len(fresh.body) - (len(known.body) if known else 0)
        self._answers[key] = fresh


def _written(body: Mapping[str, Any]) -> Answer:
    schedules = body.get("run_schedules", [body])
    times = [at for one in schedules for at in [*(one["next_action_times"] or ()), *one["skipped_action_times"]]]
    return Answer(to_json(body).encode(), body.get("version", 0), min(times, default=None))
