"""The route of retention."""

import asyncio

from aiohttp import web

from daemon.api import answers, shapes
from daemon.api.routes import Call, Route, reply
from daemon.errors import StoreUnavailableError
from daemon.forecast import Forecast
from daemon.retention import Swept
from daemon.workspaces.calling import PorterError


async def _run(call: Call) -> web.StreamResponse:
    await call.require_admin("run retention")
    asked = call.said(shapes.RetentionRequest)
    retention = call.control.retention
    task = call.control.start(retention.foretell() if asked.dry_run else retention.sweep())
    try:
        found = await asyncio.shield(task)
    except (PorterError, OSError) as error:
        raise StoreUnavailableError(f"retention cannot go on now: {error}") from None
    except asyncio.CancelledError:
        if task.cancelled():
            raise StoreUnavailableError("the daemon stops; the next sweep goes on where this one was") from None
        raise
    swept, foretold = (Swept(), found.view()) if isinstance(found, Forecast) else (found, None)
    return reply({**swept.view(), "dry_run": asked.dry_run, "would_delete": foretold})


ROUTES = [
    Route(
        "POST",
        "/retention/run",
        "delete what has expired",
        _run,
        answers.RetentionView,
        body=shapes.RetentionRequest,
        body_required=False,
    ),
]
