"""The route by which an agent elsewhere ends its run."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from aiohttp import web

from daemon.agents.base import Outcome
from daemon.agents.supervisor.files import open_anew
from daemon.api import answers, shapes
from daemon.api.routes import Call, Route, reply
from daemon.errors import NotFoundError
from daemon.model import RunStatus
from daemon.runs.folders import run_folder

_LONGEST_TOKEN = 200
_LONGEST_MESSAGE = 4000


async def _settle(call: Call) -> web.StreamResponse:
    token, said = call.request.match_info["token"], call.said(shapes.HookCall)
    if len(token) > _LONGEST_TOKEN:
        raise NotFoundError("no such hook: it is unknown, used or expired")
    run_id = await call.control.settle_hook(token, _outcome(said))
    folder = run_folder(call.control.state_dir, run_id)
    await asyncio.to_thread(_keep, folder, said.model_dump(mode="json"))
    return reply({"run_id": run_id, "status": said.status})


def _outcome(said: shapes.HookCall) -> Outcome:
    result = said.result
    words = result if isinstance(result, str) else None if result is None else json.dumps(result, ensure_ascii=False)
    message = words[:_LONGEST_MESSAGE].encode(errors="replace").decode() if words else None
    if said.status == "completed":
        return Outcome(RunStatus.COMPLETED, message=message)
    error = (said.error or "the agent reported a failure")[:_LONGEST_MESSAGE]
    return Outcome(RunStatus.FAILED, error.encode(errors="replace").decode(), message=message)


def _keep(folder: Path, said: dict[str, Any]) -> None:
    """Keep what was said in the run's folder: the result file as it came, its words as the output."""
    result = said["result"]
    words = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False, indent=2)
    for name, text in (("result.json", json.dumps(said)), ("output.log", "" if result is None else words + "\n")):
        with contextlib.suppress(OSError), open_anew(str(folder / name)) as stream:  # the outcome stands without it
            stream.write(text.encode(errors="replace"))


ROUTES = [
    Route(
        "POST",
        "/hooks/{token}",
        "end the run that the token was given to",
        _settle,
        answers.HookView,
        body=shapes.HookCall,
        refusals=(404, 409),
        is_open=True,
    )
]
