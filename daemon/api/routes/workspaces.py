"""The routes of workspaces."""

from datetime import timedelta
from typing import NotRequired

from aiohttp import web
from typing_extensions import TypedDict

from daemon.api import requests
from daemon.api.routing import ApiCall, Route, reply
from daemon.errors import ForbiddenError, NotFoundError, RefusedError, StoreUnavailableError
from daemon.maintenance.workspace_removal import Discard
from daemon.store.runs import get_run
from daemon.store.workspaces import get_workspace
from daemon.units import utc_now
from daemon.views.sweeps import CleanView, clean_view
from daemon.views.workspaces import (
    LossView,
    WorkspaceList,
    WorkspaceView,
    cleanup_decision,
    loss_view,
    loss_words,
    workspace_view,
    workspaces_view,
)
from daemon.workspaces.client import WorkspaceHelperError


class DiscardView(TypedDict):
    """A workspace: `removed` is false after a dry run; `lost` is what was, or would be, lost without saving."""

    run_id: int
    removed: bool
    lost: NotRequired[LossView]


async def _list(call: ApiCall) -> web.StreamResponse:
    if call.principal.startswith("run:"):
        raise ForbiddenError(f"{call.principal} may see its own run only")
    agents = await call.context.access.readable_agents(call.principal)
    page = call.query(requests.WorkspaceQuery)
    return await call.answer(
        lambda c: workspaces_view(c, call.context.config, utc_now(), agents, limit=page.limit, cursor=page.cursor)
    )


async def _clean(call: ApiCall) -> web.StreamResponse:
    await call.require_admin("clean all workspaces")
    body = await call.body(requests.CleanRequest)
    older_than = None if body.older_than_seconds is None else timedelta(seconds=body.older_than_seconds)
    try:
        result = await call.context.cleanup.sweep(older_than=older_than, dry_run=body.dry_run)
    except (WorkspaceHelperError, OSError) as error:
        raise StoreUnavailableError(f"the workspaces cannot be cleaned now: {error}") from None
    return reply(clean_view(result))


async def _discard(call: ApiCall) -> web.StreamResponse:
    run_id = await _changeable(call)
    body = await call.body(requests.DiscardRequest)
    view, words = DiscardView(run_id=run_id, removed=not body.dry_run), None
    if body.without_saving:
        view["lost"] = lost = await _loss(call, run_id)
        words = "; ".join(loss_words(lost))
    if body.dry_run:
        await call.context.removal.discardable(run_id)
        return reply(view)
    reason = await call.context.removal.discard(run_id, Discard(call.principal, words))
    if reason is not None:
        raise RefusedError(f"the workspace of run {run_id} was not removed: {reason}")
    return reply(view)


async def _loss(call: ApiCall, run_id: int) -> LossView:
    try:
        found = await call.context.removal.loss(run_id)
    except (WorkspaceHelperError, OSError) as error:
        raise StoreUnavailableError(f"the workspace cannot be read: {error}") from None
    workspace = await call.context.home.database.read(lambda c: get_workspace(c, run_id))
    path = workspace.path if workspace is not None else ""
    return loss_view(path, found)


async def _keep(call: ApiCall) -> web.StreamResponse:
    return await _marked(call, kept=True)


async def _unkeep(call: ApiCall) -> web.StreamResponse:
    return await _marked(call, kept=False)


async def _marked(call: ApiCall, *, kept: bool) -> web.StreamResponse:
    run_id = await _changeable(call)
    workspace = await call.context.removal.keep(run_id, call.principal, kept=kept)
    now, config = utc_now(), call.context.config
    return await call.answer(lambda c: workspace_view(workspace, cleanup_decision(c, config, workspace, now), now))


async def _changeable(call: ApiCall) -> int:
    """Return the run whose workspace is to be changed; raise NotFoundError or ForbiddenError if that may not be."""
    number = call.run_id
    run = await call.context.home.database.read(lambda c: get_run(c, number))
    if run is None:
        raise NotFoundError(f"no run {number}")
    await call.require("task.update", run.agent, f"run {number}")
    return number


_CHANGE = (404, 409)

ROUTES = [
    Route(
        "GET",
        "/workspaces",
        "list workspaces",
        _list,
        WorkspaceList,
        query=requests.WorkspaceQuery,
        refusals=(400,),
    ),
    Route(
        "POST",
        "/workspaces/clean",
        "remove the workspaces that the policy does not keep",
        _clean,
        CleanView,
        body=requests.CleanRequest,
        body_required=False,
    ),
    Route(
        "POST",
        "/workspaces/{run_id}/discard",
        "save the work in a workspace, or lose it, and remove the workspace, regardless of the policy",
        _discard,
        DiscardView,
        body=requests.DiscardRequest,
        body_required=False,
        refusals=_CHANGE,
    ),
    Route(
        "POST",
        "/workspaces/{run_id}/keep",
        "keep a workspace",
        _keep,
        WorkspaceView,
        refusals=_CHANGE,
    ),
    Route(
        "POST",
        "/workspaces/{run_id}/unkeep",
        "stop keeping a workspace",
        _unkeep,
        WorkspaceView,
        refusals=_CHANGE,
    ),
]
