"""The route of retention."""

import asyncio

from aiohttp import web

from daemon.api import requests, responses
from daemon.api.routing import ApiCall, Route, reply
from daemon.errors import StoreUnavailableError
from daemon.maintenance.preview import Forecast
from daemon.maintenance.retention import RetentionResult
from daemon.workspaces.client import PorterError


async def _run(call: ApiCall) -> web.StreamResponse:
    await call.require_admin("run retention")
    asked = call.said(requests.RetentionRequest)
    retention = call.context.retention
    task = call.context.background.start(retention.foretell() if asked.dry_run else retention.sweep())
    try:
        found = await asyncio.shield(task)
    except (PorterError, OSError) as error:
        raise StoreUnavailableError(f"retention cannot go on now: {error}") from None
    except asyncio.CancelledError:
        if task.cancelled():
            raise StoreUnavailableError("the daemon stops; the next sweep goes on where this one was") from None
        raise
    swept, foretold = (RetentionResult(), found.view()) if isinstance(found, Forecast) else (found, None)
    return reply({**swept.view(), "dry_run": asked.dry_run, "would_delete": foretold})


ROUTES = [
    Route(
        "POST",
        "/retention/run",
        "delete what has expired",
        _run,
        responses.RetentionView,
        body=requests.RetentionRequest,
        body_required=False,
    ),
]
