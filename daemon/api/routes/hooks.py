"""The route by which an agent elsewhere ends its run."""

from aiohttp import web

from daemon.api import requests, responses
from daemon.api.routing import ApiCall, Route, reply


async def _take(call: ApiCall) -> web.StreamResponse:
    said = call.said(requests.HookCall)
    token = call.request.match_info["token"]
    run_id = await call.context.hook_calls.take(token, said.status, said.result, said.error)
    return reply({"run_id": run_id, "status": said.status})


ROUTES = [
    Route(
        "POST",
        "/hooks/{token}",
        "end the run that the token was given to",
        _take,
        responses.HookView,
        body=requests.HookCall,
        refusals=(404,),
        is_open=True,
    )
]
