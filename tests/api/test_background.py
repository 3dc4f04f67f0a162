"""Work that continues without its client: its future always gets an end, and a stop leaves nothing behind."""

import asyncio

import pytest

from daemon.api.background import Background


async def forever() -> None:
    await asyncio.Event().wait()


async def test_a_stop_cancels_work_that_has_not_begun_and_refuses_more() -> None:
    async with asyncio.TaskGroup() as tasks:
        background = Background(tasks)
        future = background.start(forever())
        await background.stop()
        with pytest.raises(asyncio.CancelledError):
            await future
        with pytest.raises(asyncio.CancelledError):
            await background.start(forever())


async def test_an_error_goes_to_the_one_who_waits_and_to_nobody_else() -> None:
    async def fail() -> None:
        raise LookupError("of its own")

    async with asyncio.TaskGroup() as tasks:
        background = Background(tasks)
        with pytest.raises(LookupError):
            await background.start(fail())
        background.start_unattended(fail())
        running = background.start(forever())
        await asyncio.sleep(0)
        assert not running.done()
        await background.stop()
    assert running.cancelled()
