"""The routes that start runs of a schedule: now, or for past due times."""

import json
from datetime import timedelta
from typing import Any

from aiohttp import web
from typing_extensions import TypedDict

from daemon.api import requests
from daemon.api.new_runs import check_inputs, write_runs
from daemon.api.routing import IDEMPOTENCY_KEY, IF_MATCH, ApiCall, Route, reply
from daemon.api.schedule_columns import input_columns, instant
from daemon.api.schedule_in_path import SCHEDULE
from daemon.config.effective import days_of
from daemon.errors import NotFoundError
from daemon.fires.backfill import Backfilled, backfill
from daemon.model import Overlap
from daemon.schedules import management
from daemon.store.connection import Transaction
from daemon.store.limits import check_backfilled
from daemon.store.runs import get_run
from daemon.views.runs import RunView, run_view


class BackfillView(TypedDict):
    """What a backfill started, and the due times that it left alone."""

    backfilled: int
    already_run: int
    skipped_overlap: int
    upcoming: int
    runs: list[int]


async def _trigger(call: ApiCall) -> web.StreamResponse:
    agent, name, key = call.agent, call.schedule, call.idempotency_key
    await call.require("agent.execute", agent, f"schedule {agent}/{name}")
    call.require_configured(agent)
    body = await call.body(requests.TriggerRequest)
    overrides: dict[str, Any] = {} if body.initial_input is None else dict(input_columns(body.initial_input))
    if body.task_params is not None:
        overrides["task_params"] = json.dumps(body.task_params)
    request, instance = await call.change_request(), call.context.home.instance

    def start(tx: Transaction) -> RunView:
        run = get_run(tx, management.trigger(tx, agent, name, overrides, key, request, instance))
        if run is None:
            raise NotFoundError("the run that answered this key was deleted")
        return run_view(run)

    view = await write_runs(call, request, start)
    return reply(view, status=201)


async def _backfill(call: ApiCall) -> web.StreamResponse:
    agent, name = call.agent, call.schedule
    await call.require("agent.execute", agent, f"schedule {agent}/{name}")
    call.require_configured(agent)
    body = await call.body(requests.BackfillRequest)
    span = instant("from", body.from_), instant("to", body.to)
    request, config = await call.change_request(), call.context.config
    days = days_of(config, config.agents[agent].retention)
    oldest = None if days is None else request.now - timedelta(days=days)

    def start(tx: Transaction) -> Backfilled:
        row = management.find(tx, agent, name, request)
        if request.limited:
            check_backfilled(tx, request.principal)
        policy = body.overlap_policy or Overlap(row.overlap)
        return backfill(
            tx,
            row,
            span,
            policy,
            principal=request.principal,
            now=request.now,
            oldest=oldest,
            instance=call.context.home.instance,
            check=lambda: check_inputs(call, request, tx),
        )

    await call.context.clock.decide_overdue()
    done = await write_runs(call, request, start)
    return reply(
        BackfillView(
            backfilled=len(done.runs),
            already_run=done.already_run,
            skipped_overlap=done.skipped_overlap,
            upcoming=done.upcoming,
            runs=done.runs,
        )
    )


_REFUSALS = (400, 404, 409, 412, 429)

ROUTES = [
    Route(
        "POST",
        f"{SCHEDULE}/trigger",
        "start a run now, out of band",
        _trigger,
        RunView,
        status=201,
        body=requests.TriggerRequest,
        body_required=False,
        headers=(IF_MATCH, IDEMPOTENCY_KEY),
        refusals=_REFUSALS,
        action="trigger",
    ),
    Route(
        "POST",
        f"{SCHEDULE}/backfill",
        "start past due times",
        _backfill,
        BackfillView,
        body=requests.BackfillRequest,
        headers=(IF_MATCH,),
        refusals=_REFUSALS,
        action="backfill",
    ),
]
