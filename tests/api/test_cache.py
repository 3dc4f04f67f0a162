"""Cached answers: returned only as long as a new one would be equal."""

import contextlib
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

from daemon.api.cache import ResponseCache
from daemon.config.schema import Config
from daemon.units import parse_instant

NOW = parse_instant("2026-11-21T12:00:00.000Z")
FIRST = "2026-11-21T12:00:01.000Z"


def test_an_answer_is_recomputed_after_a_commit_a_reload_and_its_first_due_time(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    writer, reader = (sqlite3.connect(path, isolation_level=None) for _ in range(2))
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE t (n)")
    made: list[str] = []

    def ask(key: str, seconds: float = 0, config: Config = Config()) -> int:  # noqa: B008 - it is frozen
        def view() -> dict[str, Any]:
            made.append(key)
            return {"version": 7, "next_action_times": [FIRST], "skipped_action_times": []}

        answer = cache.answer(reader, config, key, NOW + timedelta(seconds=seconds), view)
        assert answer.version == 7
        return len(made)

    cache = ResponseCache()
    assert [ask("a"), ask("a"), ask("b"), ask("a")] == [1, 1, 2, 2]
    writer.execute("INSERT INTO t VALUES (1)")
    assert [ask("a"), ask("a")] == [3, 3]
    assert [ask("a", 0.999), ask("a", 1)] == [3, 4]
    other = Config()
    assert [ask("b", config=other), ask("b", config=other)] == [5, 5]
    writer.close()
    reader.close()


def test_huge_answers_are_not_kept(tmp_path: Path) -> None:
    cache, made = ResponseCache(), []

    def view() -> dict[str, Any]:
        made.append(1)
        return {"description": "x" * 2_000_000, "next_action_times": [], "skipped_action_times": []}

    with contextlib.closing(sqlite3.connect(tmp_path / "x.db")) as reader:
        for _ in range(2):
            cache.answer(reader, Config(), "huge", NOW, view)
    assert len(made) == 2
