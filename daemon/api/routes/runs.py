"""The routes of runs."""

import os
import sqlite3
from functools import partial
from pathlib import Path

import aiofiles
import structlog
from aiohttp import web

from daemon.agents.process.supervisor.files import open_in
from daemon.api import requests
from daemon.api.flow import FlowControl
from daemon.api.new_runs import write_runs
from daemon.api.routing import IDEMPOTENCY_KEY, ApiCall, Route, reply
from daemon.api.schedule_columns import run_columns, text_of
from daemon.errors import AgentcronError, ForbiddenError, NotFoundError, RefusedError
from daemon.model import ACTIVE
from daemon.runs.cancel import request_cancellation
from daemon.runs.folder import run_folder
from daemon.runs.retry import request_retry
from daemon.runs.settings import largest_output
from daemon.runs.start import start_run
from daemon.store.connection import Transaction
from daemon.store.limits import check_pending
from daemon.store.runs import Run, get_run
from daemon.views.answers import RunAnswer, run_answer
from daemon.views.pages import PAGE_BYTES
from daemon.views.pools import pools_now
from daemon.views.runs import RunDetails, RunList, RunView, run_details, run_view, runs_page

_LOG = structlog.get_logger()
_OUTPUT = "output.log"
_CHUNK = 256 * 1024
_PAUSE = 0.2  # seconds between two reads of a growing file
_PATIENCE = 3600.0  # seconds that a client may pause, such as a pager that is at a page


class _AtEndError(Exception):
    """The output has not grown."""


async def _list(call: ApiCall) -> web.StreamResponse:
    query = call.query(requests.RunQuery)
    agents = await call.context.access.readable_agents(call.principal)
    own, config = _own_run(call.principal), call.context.config

    def view(connection: sqlite3.Connection) -> RunList:
        return runs_page(
            connection,
            agents=agents,
            only=own,
            agent=query.agent,
            address=query.schedule,
            status=query.status,
            first=text_of("from", query.from_),
            last=text_of("to", query.to),
            limit=query.limit,
            cursor=query.cursor,
            most=PAGE_BYTES,
            config=config,
        )

    return await call.answer(view)


async def _get(call: ApiCall) -> web.StreamResponse:
    run = await _visible(call)
    folder, config = call.context.home.state_dir, call.context.config
    return await call.answer(lambda c: run_details(c, run, folder, config))


async def _answer(call: ApiCall) -> web.StreamResponse:
    run = await _visible(call)
    return await call.answer(lambda _: run_answer(run, call.context.home.state_dir))


async def _output(call: ApiCall) -> web.StreamResponse:
    run = await _visible(call)
    folder, follow = run_folder(call.context.home.state_dir, run.id), call.query(requests.OutputQuery).follow
    first = await _chunk(folder, 0, largest_output(run))  # what is no output is refused before an answer begins
    response = web.StreamResponse()
    response.content_type = "application/octet-stream"
    response.force_close()  # the connection keeps its patience to the end
    if isinstance(call.request.protocol, FlowControl):
        call.request.protocol.begin_stream(_CHUNK, _PATIENCE)
    await response.prepare(call.request)
    try:
        if call.request.method != "HEAD":
            await _send(call, response, run, first, follow=follow)
        await response.write_eof()
    except (ConnectionError, AgentcronError):  # the client is gone, or must see that this is not the end
        if call.request.transport is not None:
            call.request.transport.abort()
    return response


async def _send(call: ApiCall, response: web.StreamResponse, run: Run, chunk: bytes, *, follow: bool) -> None:
    """Send the output from its first chunk on; if the run is followed, until it ends.

    Raise NotFoundError once the principal may no longer see the run.
    """
    folder, at = run_folder(call.context.home.state_dir, run.id), 0
    while True:
        found = await _found(call, run.id) if follow else None  # before reading, so that nothing is missed
        run, active = found or run, found is not None and found.status in ACTIVE
        largest = largest_output(run)
        while chunk:
            await _require_still_visible(call, run)
            at += len(chunk)
            await _write(call, response, chunk)
            chunk = await _chunk(folder, at, largest)
        if not active:
            return
        await call.context.pause(_PAUSE)
        if call.request.transport is None or call.request.transport.is_closing():
            raise ConnectionResetError
        await _require_still_visible(call, run)
        chunk = await _chunk(folder, at, largest)


async def _require_still_visible(call: ApiCall, run: Run) -> None:
    """Raise NotFoundError if a reload has taken the right or the token away since the answer began."""
    if not (call.is_identified() and await _may_see(call, run)):
        _LOG.info("[control] Output broken off: no longer allowed", run=run.id, principal=call.principal)
        raise NotFoundError(f"no run {run.id}")


async def _write(call: ApiCall, response: web.StreamResponse, chunk: bytes) -> None:
    if call.request.transport is None:
        raise ConnectionResetError
    with call.context.unread.waiting(call.principal, len(chunk), call.request.transport):
        await response.write(chunk)


async def _found(call: ApiCall, run_id: int) -> Run | None:
    return await call.context.home.database.read(lambda c: get_run(c, run_id))


async def _chunk(folder: Path, start: int, largest: int) -> bytes:
    """Return a part of the output, nothing at its end; raise RefusedError if an agent put something else there.

    Something else is also a file of more than `largest` bytes.

    The file is open only meanwhile: clients that wait, or do not read, must not use up the files that the daemon may
    have open.
    """
    try:
        async with aiofiles.open(_OUTPUT, "rb", buffering=0, opener=partial(_open_at, folder, start)) as output:
            if start >= largest:
                raise RefusedError(f"the output of this run is larger than the {largest} bytes that agentcron writes")
            return await output.read(min(_CHUNK, largest - start))
    except (FileNotFoundError, _AtEndError):
        return b""
    except OSError as error:
        raise RefusedError(f"the output of this run is gone: {error.strerror}") from None


def _open_at(folder: Path, start: int, name: str, _: int) -> int:
    """Open the output at a position, as the opener of `open`; raise OSError, and _AtEndError if it ends there."""
    descriptor = open_in(str(folder), name)
    if os.fstat(descriptor).st_size <= start:
        os.close(descriptor)
        raise _AtEndError
    os.lseek(descriptor, start, os.SEEK_SET)
    return descriptor


async def _start(call: ApiCall) -> web.StreamResponse:
    agent, key = call.agent, call.idempotency_key
    await call.require("agent.execute", agent, f"agent {agent}")
    if agent not in call.context.config.agents:
        raise NotFoundError(f"no agent {agent!r} is in the config")
    columns = run_columns(await call.body(requests.StartRequest))
    change, instance = await call.change_request(), call.context.home.instance
    number = await write_runs(
        call,
        change,
        lambda tx: start_run(
            tx,
            agent,
            columns,
            key,
            principal=change.principal,
            now=change.now,
            instance=instance,
            limited=change.limited,
        ),
    )
    return await _shown(call, number, status=201)


async def _cancel(call: ApiCall) -> web.StreamResponse:
    run = await _changeable(call)
    change = await call.change_request()
    await call.context.home.database.write(lambda tx: request_cancellation(tx, run.id, change.now, change.principal))
    return await _shown(call, run.id)


async def _retry(call: ApiCall) -> web.StreamResponse:
    run = await _changeable(call)
    call.require_configured(run.agent)
    change, instance = await call.change_request(), call.context.home.instance

    def start(tx: Transaction) -> int:
        if change.limited:
            check_pending(tx, change.principal)
        return request_retry(tx, run.id, change.principal, change.now, instance)

    number = await write_runs(call, change, start)
    return await _shown(call, number, status=201)


async def _shown(call: ApiCall, number: int, status: int = 200) -> web.StreamResponse:
    config = call.context.config

    def view(connection: sqlite3.Connection) -> RunView:
        run = get_run(connection, number)
        if run is None:
            raise NotFoundError(f"no run {number}")
        return run_view(run, pools_now(connection, config))

    return reply(await call.context.home.database.read(view), status=status)


async def _visible(call: ApiCall) -> Run:
    number = call.run_id
    run = await call.context.home.database.read(lambda c: get_run(c, number))
    if run is None or not await _may_see(call, run):
        raise NotFoundError(f"no run {number}")
    return run


async def _may_see(call: ApiCall, run: Run) -> bool:
    is_own = run.id == _own_run(call.principal)
    return is_own or await call.context.access.may(call.principal, "schedule.read", run.agent)


async def _changeable(call: ApiCall) -> Run:
    run = await _visible(call)
    ends_itself = run.id == _own_run(call.principal) and call.request.path.endswith("/cancel")
    if not ends_itself and not await call.context.access.may(call.principal, "task.update", run.agent):
        raise ForbiddenError(
            f"{call.principal} may see run {run.id} but not change it; agents.{run.agent}.allow grants it"
        )
    return run


def _own_run(principal: str) -> int | None:
    return int(principal[4:]) if principal.startswith("run:") else None


ROUTES = [
    Route("GET", "/runs", "list runs, newest first", _list, RunList, query=requests.RunQuery, refusals=(400,)),
    Route(
        "POST",
        "/agents/{agent}/runs",
        "start a run of an agent now, without a schedule",
        _start,
        RunView,
        status=201,
        body=requests.StartRequest,
        body_required=False,
        headers=(IDEMPOTENCY_KEY,),
        refusals=(400, 404, 409, 429),
    ),
    Route("GET", "/runs/{id}", "show a run", _get, RunDetails, refusals=(404,)),
    Route(
        "GET",
        "/runs/{id}/output",
        "output of a run",
        _output,
        "application/octet-stream",
        query=requests.OutputQuery,
        refusals=(404, 409),
    ),
    Route("GET", "/runs/{id}/answer", "what the agent of a run answered", _answer, RunAnswer, refusals=(404,)),
    Route("POST", "/runs/{id}/cancel", "cancel an active run", _cancel, RunView, refusals=(404, 409)),
    Route("POST", "/runs/{id}/retry", "retry a run", _retry, RunView, status=201, refusals=(404, 409, 429)),
]
