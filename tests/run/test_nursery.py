"""The nursery under concurrent launches, killed again and again."""

import asyncio
import os
import signal

from daemon.agents.launcher import LaunchError, Nursery, SupervisorHandle


async def test_launches_go_on_while_the_nursery_is_killed() -> None:
    nursery = Nursery()
    found: list[SupervisorHandle] = []
    try:
        for _ in range(10):
            launches = [asyncio.create_task(nursery.supervisor()) for _ in range(12)]
            await asyncio.wait(launches, return_when=asyncio.FIRST_COMPLETED)
            if nursery._generation is not None:
                os.kill(nursery._generation.process.pid, signal.SIGKILL)
            results = await asyncio.gather(*launches, return_exceptions=True)
            assert {type(result) for result in results} <= {SupervisorHandle, LaunchError}
            found += [result for result in results if isinstance(result, SupervisorHandle)]
    finally:
        for supervisor in found:
            supervisor.dismiss()
        await nursery.close()
    assert len({supervisor.identity for supervisor in found}) == len(found) > 100
