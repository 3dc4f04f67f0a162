"""The helper process as the daemon calls it: jobs, failures, and replies that cannot be used."""

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import NoneType
from typing import get_args

import pytest

from daemon.agents.process.supervisor import tree
from daemon.runs.folder import RunPreparationError
from daemon.runs.workspace import WorkspacePreparation
from daemon.workspaces import jobs
from daemon.workspaces.client import WorkspaceHelper, WorkspaceHelperError, workspace_helper
from daemon.workspaces.git import GitError, run_program
from daemon.workspaces.helper import _HANDLERS
from daemon.workspaces.pipe import MessageError, decode, decode_job, encode_job, encode_result
from tests.support.git_site import AUTHOR, GitSite, commit
from tests.support.waiting import wait_until

SOURCE = jobs.Source("site", "/origin", ref=None, fetch_every=0.5, require_fetch=True, fetch_timeout=60.0)
JOBS: list[jobs.Job] = [
    jobs.PrepareWorkspace(SOURCE, AUTHOR, run_id=1, umask=0o22, timeout=60.0, fetches=True),
    jobs.FetchMirror(SOURCE, timeout=60.0),
    jobs.MaintainMirrors(SOURCE, timeout=60.0),
    jobs.CleanWorkspace("site", run_id=2**63 - 1, base=None, salvage_max=0, saves=False),
    jobs.ExamineWorkspace("site", 1, "ab" * 20),
    jobs.FindSavedWork(1),
    jobs.ListWorkspaces(),
    jobs.QuarantineWorkspace("site", "caf\udce9"),
    jobs.MoveWorkspace("site", "schedule-1", 2),
    jobs.MeasureWorkspaces("site", {1: "1", 2: "2"}),
    jobs.MeasureSavedWork((1, 2)),
    jobs.MeasureRunFolders(()),
    jobs.DeleteLeftovers(),
    jobs.RemoveOrphans(expired="2026-11-21T02:00:00.000Z", dry_run=True),
]
SAVED = jobs.SavedWork("artifacts/saved-work", 1, 2, 3, ("x.log",), 4, 5, tips=("ab" * 20,), restore=("git init",))
PREPARED = {"path": "/a", "base": "ab"}
RESULTS = [
    jobs.FetchedMirror(0.5),
    jobs.PreparedWorkspace(Path("/state/tasks/1"), "ab" * 20),
    jobs.CleanedWorkspace(gone=False, reason="it is busy", in_trash=True, saved=SAVED),
    jobs.CleanedWorkspace(gone=True),
    jobs.WorkspaceNames({"site": ("1", "caf\udce9"), "other": None}),
    jobs.WorkspaceContents(1, 2, (".", "inner"), jobs.UnsavedCounts(1, 2, 3, 4, ("inner: it is odd",))),
    jobs.FoundWork(None),
    jobs.DiskUsage({1: 4096, 2: 0}),
    jobs.RemovedFolders(folders=1, bytes=2),
]


def test_every_job_has_a_handler_and_arrives_as_it_was_sent() -> None:
    assert set(_HANDLERS) == set(get_args(jobs.Job)) == {type(job) for job in JOBS}
    assert [decode_job(encode_job(job)) for job in JOBS] == JOBS


@pytest.mark.parametrize("result", RESULTS)
def test_every_result_arrives_as_it_was_sent(result: object) -> None:
    assert decode(type(result), json.loads(encode_result(result))["result"]) == result


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"folders": 1}, "missing or unknown fields: 'bytes'"),
        ({"folders": 1, "bytes": 2, "byts": 2}, "missing or unknown fields: 'byts'"),
        ({"folders": -1, "bytes": 2}, "RemovedFolders.folders is not a valid int: -1"),
        ({"folders": 1, "bytes": 2**63}, "RemovedFolders.bytes is not a valid int"),
        ({"folders": True, "bytes": 2}, "RemovedFolders.folders is not a valid int: True"),
        ({"folders": 1.0, "bytes": 2}, "RemovedFolders.folders is not a valid int: 1.0"),
        ({"folders": "1", "bytes": 2}, "RemovedFolders.folders is not a valid int: '1'"),
        ([1, 2], "RemovedFolders is not a dict"),
        (None, "RemovedFolders is not a dict: None"),
    ],
)
def test_a_result_with_a_wrong_field_is_an_error_that_names_it(data: object, reason: str) -> None:
    with pytest.raises(MessageError) as caught:
        decode(jobs.RemovedFolders, data)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (jobs.DiskUsage, {"by_run": {"-1": 1}}, "key of DiskUsage.by_run"),
        (jobs.DiskUsage, {"by_run": {"9" * 30: 1}}, "key of DiskUsage.by_run"),
        (jobs.DiskUsage, {"by_run": {"1": None}}, "DiskUsage.by_run['1'] is not a valid int"),
        (jobs.WorkspaceNames, {"by_environment": {"site": [1]}}, "['site'][0] is not a valid str: 1"),
        (jobs.WorkspaceNames, {"by_environment": {"site": "1"}}, "['site'] is not a list"),
        (jobs.PreparedWorkspace, {**PREPARED, "path": ""}, "PreparedWorkspace.path is not a valid Path"),
        (jobs.PreparedWorkspace, {**PREPARED, "path": "/a\0b"}, "PreparedWorkspace.path is not a valid Path"),
        (jobs.PreparedWorkspace, {**PREPARED, "base": None}, "PreparedWorkspace.base is not a valid str: None"),
        (NoneType, {}, "NoneType is not a valid NoneType: {}"),
    ],
)
def test_wrong_values_deep_in_a_result_are_named_with_their_place(kind: type, data: object, reason: str) -> None:
    with pytest.raises(MessageError) as caught:
        decode(kind, data)
    assert reason in str(caught.value)


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), float("inf"), None, "60", True])
def test_a_duration_is_a_finite_number_of_seconds(timeout: object) -> None:
    with pytest.raises(MessageError, match=r"PrepareWorkspace\.timeout is not a valid float"):
        decode(jobs.PrepareWorkspace, {**dataclasses.asdict(JOBS[0]), "timeout": timeout})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff",
        pytest.param(b"[" * 100_000, id="too deep"),
        b"[]",
        b"{}",
        b'{"job": "RemoveAll", "request": {}}',
        b'{"job": []}',
    ],
)
def test_a_line_that_is_no_job_is_refused(line: bytes) -> None:
    with pytest.raises(MessageError):
        decode_job(line)


async def test_a_workspace_is_made_listed_measured_and_cleaned(site: GitSite) -> None:
    async with workspace_helper(site.state, site.logged.append) as helper:
        made = await helper.prepare_workspace(
            jobs.PrepareWorkspace(site.source(), AUTHOR, 1, umask=0o77, timeout=60, fetches=True)
        )
        assert made == jobs.PreparedWorkspace(site.tasks / "1", site.first)
        (site.tasks / "stranger").mkdir()
        assert (await helper.list_workspaces()).by_environment == {"site": ("1", "stranger")}
        moved = await helper.quarantine_workspace(jobs.QuarantineWorkspace("site", "stranger"))
        assert moved.path.is_dir()
        assert moved.path.parent.name == "quarantine"
        usage = await helper.measure_workspaces(jobs.MeasureWorkspaces("site", {1: "1", 2: "2"}))
        assert list(usage.by_run) == [1]
        assert usage.by_run[1] > 0
        commit(made.path, "mine.txt", "mine\n")
        done = await helper.clean_workspace(jobs.CleanWorkspace("site", 1, made.base, salvage_max=None, saves=True))
        assert (done.gone, done.saved and done.saved.commits) == (True, 1)
        assert list((await helper.measure_run_folders(jobs.MeasureRunFolders((1, 2)))).by_run) == [1]
        await helper.delete_leftovers()
    assert site.remnants() == []


async def test_what_an_earlier_attempt_left_is_saved_unless_it_is_more_than_may_be(site: GitSite) -> None:
    commit(site.prepare(), "mine.txt", "mine\n" * 1000)
    preparation = WorkspacePreparation(site.state, 1, umask=0o22, on_wait=print)
    with pytest.raises(RunPreparationError, match=r"of an earlier attempt .* more than salvage_max"):
        await preparation.remove_earlier("site", 60, 10)
    removed = await preparation.remove_earlier("site", 60, None)
    assert removed is not None
    assert removed.saved is not None
    assert (removed.saved.folder, removed.saved.commits) == ("artifacts/saved-work", 1)
    assert await preparation.remove_earlier("site", 60, None) is None
    made = await preparation.make(site.source(), AUTHOR, 60)
    assert (made.path / "a.txt").stat().st_mode & 0o777 == 0o644


async def test_cleanups_give_way_to_agents_but_are_not_starved_however_many_there_were(site: GitSite) -> None:
    before = set(tree.descendants(os.getpid()))
    site.tasks.parent.mkdir(parents=True)
    async with workspace_helper(site.state, site.logged.append) as helper:
        for _ in range(2):
            await helper.delete_leftovers()
            await helper.measure_workspaces(jobs.MeasureWorkspaces("site", {}))
            await helper.measure_saved_work(jobs.MeasureSavedWork(()))
            await helper.measure_run_folders(jobs.MeasureRunFolders(()))
            await helper.maintain_mirrors(jobs.MaintainMirrors(site.source(), timeout=60))
            await helper.clean_workspace(jobs.CleanWorkspace("site", 1, base=None, salvage_max=None, saves=True))
        [process] = set(tree.descendants(os.getpid())) - before
        niceness = os.getpriority(os.PRIO_PROCESS, process.pid)
    assert niceness == max(10, os.getpriority(os.PRIO_PROCESS, 0))


async def test_a_job_that_fails_says_why_and_the_next_one_is_done(site: GitSite) -> None:
    source = site.source(ref="nowhere")
    async with workspace_helper(site.state, site.logged.append) as helper:
        with pytest.raises(WorkspaceHelperError, match="ref 'nowhere' is not a branch, tag or commit"):
            await helper.prepare_workspace(
                jobs.PrepareWorkspace(source, AUTHOR, 1, umask=0o77, timeout=60, fetches=True)
            )
        with pytest.raises(WorkspaceHelperError, match="unexpected error: OperationalError"):
            await helper.remove_orphans(jobs.RemoveOrphans(expired=None, dry_run=True))  # there is no database
        assert (await helper.list_workspaces()).by_environment == {"site": ()}


@asynccontextmanager
async def broken_helper(folder: Path, reply: bytes) -> AsyncIterator[WorkspaceHelper]:
    """Yield the client of a process that replies to its first job with some bytes, and exits."""
    (folder / "reply").write_bytes(reply)
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'read -r job; cat "$0"', str(folder / "reply")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**16,
    )
    try:
        yield WorkspaceHelper(process, lambda _: None, lambda _: None)
    finally:
        await process.communicate()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"", "ended before its job was done"),
        (b"Traceback (most recent call last):\n", "not JSON"),
        (b'{"result": {"folders": 1}}\n', "missing or unknown fields: 'bytes'"),
        (b'{"log": 1}\n', "unknown reply"),
        (b'{"log": "a"}\n{"done": {}}\n', "unknown reply"),
        pytest.param(b"x" * 2**18, "invalid reply", id="longer than a line may be"),
    ],
)
async def test_a_reply_that_cannot_be_used_is_an_error(tmp_path: Path, reply: bytes, reason: str) -> None:
    async with broken_helper(tmp_path, reply) as helper:
        with pytest.raises(WorkspaceHelperError, match=reason):
            await helper.remove_orphans(jobs.RemoveOrphans(expired=None, dry_run=True))


def stubborn(folder: Path) -> list[str]:
    """Return a command that ends on SIGTERM, after it has started one that does not."""
    inner = f"trap '' TERM; echo $$ > {folder}/new; mv {folder}/new {folder}/pid; while :; do sleep 0.05; done"
    return ["sh", "-c", 'sh -c "$0" & trap "exit 1" TERM; while :; do sleep 0.05; done', inner]


def assert_it_ends(folder: Path) -> None:
    """Check that the command which ignores SIGTERM ends; end it in any case."""
    pid = int((folder / "pid").read_text())
    try:
        wait_until(lambda: tree.start_of(pid) is None, what="its end")
    finally:
        tree.kill(lambda: tree.alive([pid]))


def test_what_ignores_a_request_to_end_does_not_outlive_a_command_that_takes_too_long(tmp_path: Path) -> None:
    with pytest.raises(GitError, match="took longer than 1 s"):
        run_program(stubborn(tmp_path), tmp_path, 1)
    assert_it_ends(tmp_path)


def test_what_works_in_silence_makes_progress_and_what_only_waits_does_not(tmp_path: Path) -> None:
    works = [sys.executable, "-S", "-c", "import time\nwhile time.process_time() < 0.7: pass"]
    assert run_program(["sh", "-c", '"$@"', "sh", *works], tmp_path, 60, silence=0.5).returncode == 0
    with pytest.raises(GitError, match=r"made no progress for 0.5 s"):
        run_program(["sh", "-c", '"$@"; sleep 60', "sh", *works], tmp_path, 60, silence=0.5)


ASKED_DURING_THE_START = """
import os
def start(*arguments, start=git._start):
    process = start(*arguments)
    while not Path({pid!r}).exists():
        os.sched_yield()
    os.kill(os.getpid(), signal.SIGTERM)
    return process
git._start = start
"""


@pytest.mark.parametrize("is_early", [False, True])
async def test_what_ignores_a_request_to_end_does_not_outlive_the_helper(tmp_path: Path, *, is_early: bool) -> None:
    code = "import signal; from daemon.workspaces import git, helper; from pathlib import Path\n"
    code += "signal.signal(signal.SIGTERM, helper._terminate)\n"
    code += ASKED_DURING_THE_START.format(pid=str(tmp_path / "pid")) if is_early else ""
    code += f"git.run_program({stubborn(tmp_path)!r}, Path({str(tmp_path)!r}), 60)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    await asyncio.to_thread(wait_until, (tmp_path / "pid").exists, what="the command")
    if not is_early:
        process.terminate()
    await process.wait()
    await asyncio.to_thread(assert_it_ends, tmp_path)
