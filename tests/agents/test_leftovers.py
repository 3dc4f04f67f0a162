"""What is found after the supervisor of an adopted run has ended, and what it says about the run."""

import asyncio
from pathlib import Path

import pytest

from daemon.agents.base import Outcome, RunSettings, Work
from daemon.agents.process.agent import SupervisedAgent
from daemon.agents.process.launcher import Nursery
from daemon.agents.process.supervisor import status
from daemon.model import RunStatus
from tests.support.supervisors import spec_in

KEY = b"k" * 32


@pytest.mark.parametrize(
    ("record_key", "ends"),
    [(KEY, RunStatus.COMPLETED), (None, RunStatus.INTERRUPTED)],
    ids=["authenticated", "of an earlier version"],
)
async def test_a_process_that_bears_the_mark_of_an_ended_run_is_killed_and_contradicts_no_authenticated_record(
    tmp_path: Path, record_key: bytes | None, ends: RunStatus
) -> None:
    folder, mark = tmp_path / "runs" / "1", str(tmp_path)
    folder.mkdir(parents=True)
    status.preallocate(str(folder), record_key)
    nursery = Nursery()
    try:
        supervisor = await nursery.supervisor()
        of = supervisor.identity
        key = status.start_key(record_key, of.boot_id, of.pid, of.started).hex() if record_key is not None else None
        env = {"AGENTCRON_IDEMPOTENCY_KEY": mark}
        assert await supervisor.release({**spec_in(folder), "env": env, "record_key": key})
        await supervisor.wait()
        supervisor.close()
        stranger = await asyncio.create_subprocess_exec("/bin/sleep", "300", env=env)
        work = Work(
            *(1, "run", "a", "a/s", "", 1, "manual", mark, "user", "", {}, {}, ""),
            *(folder, tmp_path, RunSettings()),
            record_key=record_key,
            identity=of,
            delivered=True,
        )
        outcome = await SupervisedAgent(nursery, None, None).resume(work)
        assert await asyncio.wait_for(stranger.wait(), 20) == -9
    finally:
        await nursery.close()
    assert isinstance(outcome, Outcome)
    assert outcome.status is ends, outcome.error
