"""An Agentex agent on the same wire as the SDK's own (agentex_sdk.py), for interpreters that the SDK does not run on.

`agentex_plain.py PORT sync|async`: it obeys the first word of the message, and logs what it got to $PEER_LOG.
"""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, web

REQUIRED = {
    "agent": {"id", "name", "description", "acp_type", "created_at", "updated_at"},
    "task": {"id"},
    "content": {"author", "content"},
    "event": {"id", "agent_id", "task_id", "sequence_id"},
}
METHODS: dict[str, dict[str, tuple[str, ...]]] = {
    "sync": {"message/send": ("agent", "task", "content")},
    "async": {
        "task/create": ("agent", "task"),
        "event/send": ("agent", "task", "event"),
        "task/cancel": ("agent", "task"),
    },
}
later: set[asyncio.Task[None]] = set()


def answer(number: object, result: object = None, error: object = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "result": result, "error": error, "id": number}


def refused(number: object, code: int, message: str) -> web.Response:
    return web.json_response(answer(number, error={"code": code, "message": message, "data": None}))


async def api(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    number, method, params = body["id"], body["method"], body["params"]
    key = os.environ.get("AGENT_API_KEY")
    if key and request.headers.get("x-agent-api-key") != key:
        return refused(number, -32601, "Unauthorized")
    parts = METHODS[sys.argv[2]].get(method)
    if parts is None:
        return refused(number, -32601, f"Method {method} not found")
    for part in parts:
        if not REQUIRED[part] <= params.get(part, {}).keys():
            return refused(number, -32603, f"validation error: {part}")
    with Path(os.environ["PEER_LOG"]).open("a") as log:
        log.write(json.dumps({"method": method, "params": params}) + "\n")
    if method == "message/send":
        return await converse(request, number, params)
    if method == "event/send":
        return await take_event(number, params)
    return web.json_response(answer(number, None if method == "task/create" else {"status": "processing"}))


async def take_event(number: object, params: dict[str, Any]) -> web.Response:
    word, url = params["event"]["content"]["content"], params["task"]["task_metadata"].get("hook_url")
    if word == "hook":
        later.add(asyncio.create_task(call_hook(url, 1)))
    if word == "slow":
        await asyncio.sleep(3)
    if word in {"early", "early-fail"}:
        await call_hook(url, 0)
    if word == "early-fail":
        return web.Response(status=503)
    return web.json_response(answer(number, {"status": "processing"}))


async def converse(request: web.Request, number: object, params: dict[str, Any]) -> web.StreamResponse:
    word, _, rest = params["content"]["content"].partition(" ")
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)

    async def update(**values: object) -> None:
        line = answer(number, {"index": 0, "parent_task_message": None, **values})
        await response.write(json.dumps(line).encode() + b"\n")

    content = {"author": "agent", "content": rest, "attachments": None, "format": "plain", "type": "text"}
    if word == "boom":
        error = {"code": -32603, "message": "boom", "data": None}
        await response.write(json.dumps(answer(number, error=error)).encode() + b"\n")
    elif word == "stream":
        await update(type="start", content={**content, "content": ""})
        for piece in (rest[:1], rest[1:-1], rest[-1:]):
            await update(type="delta", delta={"text_delta": piece, "type": "text"})
        await update(type="full", content=content)
        await update(type="done")
    else:
        await update(type="full", content=content)
    return response


async def call_hook(url: str, seconds: float) -> None:
    await asyncio.sleep(seconds)
    async with ClientSession() as session:
        await session.post(url, json={"status": "completed", "result": "from hook"})


if __name__ == "__main__":
    app = web.Application()
    app.router.add_post("/api", api)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
