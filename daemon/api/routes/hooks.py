"""The route by which a remote agent ends its run."""

from typing import Literal

from aiohttp import web
from typing_extensions import TypedDict

from daemon.api import requests
from daemon.api.routing import ApiCall, Route, reply


class HookView(TypedDict):
    """The run that a hook ended."""

    run_id: int
    status: Literal["completed", "failed"]


async def _take(call: ApiCall) -> web.StreamResponse:
    token = call.request.match_info["token"]
    hook = await call.context.hook_calls.run_of(token)  # before any of the body is read: nobody else knows the token
    body = await call.body(requests.HookCall, sender=f"hook of run {hook}")
    run_id = await call.context.hook_calls.take(token, body.status, body.result, body.error)
    return reply(HookView(run_id=run_id, status=body.status))


ROUTES = [
    Route(
        "POST",
        "/hooks/{token}",
        "end the run to which the token belongs",
        _take,
        HookView,
        body=requests.HookCall,
        refusals=(404,),
        is_open=True,
    )
]
