"""The nursery under concurrent launches, killed again and again, and a supervisor that was stopped."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from daemon.agents.process import launcher
from daemon.agents.process.launcher import LaunchError, Nursery, SupervisorHandle
from daemon.agents.process.supervisor import status, tree
from daemon.agents.process.supervisor.channel import LENGTH
from tests.support.supervisors import spec_in


async def test_launches_continue_while_the_nursery_is_killed() -> None:
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
            supervisor.close()
        await nursery.close()
    assert len({supervisor.identity for supervisor in found}) == len(found) > 100


async def test_a_supervisor_that_was_stopped_before_it_was_released_is_woken(tmp_path: Path) -> None:
    nursery = Nursery()
    try:
        supervisor = await nursery.supervisor()
        supervisor.send(signal.SIGSTOP)
        status.preallocate(str(tmp_path))
        assert await asyncio.wait_for(supervisor.release(spec_in(tmp_path)), 10)
        await supervisor.wait()
        supervisor.close()
    finally:
        await nursery.close()
    with (tmp_path / status.NAME).open() as left:
        assert (status.read_record(left.fileno(), "exit", None) or {})["exit_code"] == 0


SLOW_KILL = """
from process.supervisor import tree
tree.kill = lambda find: open({gate!r}).read() and [tree.Process(1, 2)]
"""


async def test_a_nursery_that_is_killing_orphans_is_not_taken_for_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    code = launcher._CODE.replace(
        "from process.supervisor.nursery", SLOW_KILL.format(gate=str(gate)) + "from process.supervisor.nursery"
    )
    monkeypatch.setattr(launcher, "_CODE", code)
    nursery = Nursery()
    try:
        (await nursery.supervisor()).close()
        first = nursery._generation
        killing = asyncio.create_task(nursery.kill_orphans())
        with await asyncio.to_thread(gate.open, "w") as end:  # it is at work as soon as it reads this
            with monkeypatch.context() as impatient:
                impatient.setattr(launcher, "_HELLO_TIMEOUT", 0.05)
                launch = asyncio.create_task(nursery.supervisor())
                await asyncio.wait([launch], timeout=1)
            end.write("go")
        assert await killing == [tree.Process(1, 2)]
        (await launch).close()
        assert nursery._generation is first
    finally:
        await nursery.close()


async def test_a_process_that_got_the_pid_of_a_supervisor_that_has_ended_is_not_taken_for_it() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    with ours:
        theirs.sendall(LENGTH.pack(os.getpid()))
        theirs.close()
        with pytest.raises(ProcessLookupError):
            await Nursery()._receive_hello(ours)
