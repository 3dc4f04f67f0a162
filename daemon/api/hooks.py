"""The route by which an agent elsewhere ends its run."""

from aiohttp import web

from daemon.api import answers, shapes
from daemon.api.routes import Call, Route, reply


async def _take(call: Call) -> web.StreamResponse:
    said = call.said(shapes.HookCall)
    token = call.request.match_info["token"]
    run_id = await call.control.hook_calls.take(token, said.status, said.result, said.error)
    call.control.queue.wake()
    return reply({"run_id": run_id, "status": said.status})


ROUTES = [
    Route(
        "POST",
        "/hooks/{token}",
        "end the run that the token was given to",
        _take,
        answers.HookView,
        body=shapes.HookCall,
        refusals=(404,),
        is_open=True,
    )
]
