"""The route of retention."""

import asyncio

from aiohttp import web

from daemon.api import requests
from daemon.api.routing import ApiCall, Route, reply
from daemon.errors import StoreUnavailableError
from daemon.views.sweeps import RetentionView, retention_view
from daemon.workspaces.client import WorkspaceHelperError


async def _run(call: ApiCall) -> web.StreamResponse:
    await call.require_admin("run retention")
    body = await call.body(requests.RetentionRequest)
    retention = call.context.retention
    doubt = await retention.clock_doubt() if body.dry_run else None
    work = retention.forecast() if body.dry_run else retention.sweep_on_request(trust_clock=body.trust_clock)
    task = call.context.background.start(work)
    try:
        found = await asyncio.shield(task)
    except (WorkspaceHelperError, OSError) as error:
        raise StoreUnavailableError(f"retention cannot continue now: {error}") from None
    except asyncio.CancelledError:
        if task.cancelled():
            raise StoreUnavailableError(
                "the daemon is stopping; the next sweep continues where this one stopped"
            ) from None
        raise
    return reply(retention_view(found, doubt, dry_run=body.dry_run))


ROUTES = [
    Route(
        "POST",
        "/retention/run",
        "delete what has expired",
        _run,
        RetentionView,
        body=requests.RetentionRequest,
        body_required=False,
    ),
]
