"""An A2A test peer: its behaviour is chosen by the first word of the message text."""

import argparse
import asyncio
import json
import os
from pathlib import Path

import uvicorn
from a2a.compat.v0_3 import types as v03
from a2a.compat.v0_3.conversions import to_core_agent_card
from a2a.helpers.proto_helpers import new_task_from_user_message, new_text_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes.agent_card_routes import create_agent_card_routes
from a2a.server.routes.jsonrpc_dispatcher import JsonRpcDispatcher
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import TaskState
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RPC_PATH = "/a2a"
SLOW_SECONDS = 2.0
USAGE = {"usage": {"input_tokens": 5, "output_tokens": 7, "cost_usd": 0.25}}


class WordExecutor(AgentExecutor):
    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None
        assert context.task_id
        assert context.context_id
        text = context.get_user_input()
        word, _, rest = text.partition(" ")
        if word == "echo":
            await event_queue.enqueue_event(new_text_message(rest, context_id=context.context_id))
            return
        if context.current_task is None:
            await event_queue.enqueue_event(new_task_from_user_message(context.message))
        task = TaskUpdater(event_queue, context.task_id, context.context_id)
        if word == "ask":
            await task.requires_input(task.new_agent_message([new_text_part("Which branch?")]))
        elif word == "fail":
            await task.failed(task.new_agent_message([new_text_part("it broke")]))
        elif word == "reject":
            await task.reject(task.new_agent_message([new_text_part("not my job")]))
        else:
            await task.start_work()
            if word == "long":
                await asyncio.Event().wait()  # ended by the SDK once cancel() has returned
            if word == "slow":
                await asyncio.sleep(SLOW_SECONDS)
            answer = {"task": rest, "slow": rest, "usage": "done"}.get(word, text)
            await task.add_artifact([new_text_part(answer)], name="answer")
            metadata = USAGE if word == "usage" else None
            await task.update_status(TaskState.TASK_STATE_COMPLETED, metadata=metadata)

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.task_id
        assert context.context_id
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def append_json(path: str, headers: dict[str, str], body: bytes) -> None:
    try:
        content = json.loads(body)
    except ValueError:
        content = body.decode(errors="replace")
    with Path(path).open("a", encoding="utf-8") as log:
        log.write(json.dumps({"headers": headers, "body": content}) + "\n")


class PostLog:
    """Appends the headers and the body of every POST to the file PEER_LOG names, if any."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = os.environ.get("PEER_LOG")
        if not path or scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        body = await request.body()
        append_json(path, dict(request.headers), body)
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return unread.pop() if unread else await receive()

        await self.app(scope, replay, send)


def card_03(url: str) -> v03.AgentCard:
    return v03.AgentCard(
        name="Peer",
        description="A test peer",
        version="1.2.3",
        url=url,
        preferred_transport="JSONRPC",
        protocol_version="0.3.0",
        capabilities=v03.AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[v03.AgentSkill(id="words", name="Words", description="Obeys the first word", tags=["test"])],
    )


def build_app(url: str, old: bool) -> Starlette:
    shown = card_03(url)
    card = to_core_agent_card(shown)
    if not old:
        card.supported_interfaces[0].protocol_version = "1.0"
    handler = DefaultRequestHandler(WordExecutor(), InMemoryTaskStore(), card)
    dispatcher = JsonRpcDispatcher(handler, enable_v0_3_compat=old)
    routes = create_agent_card_routes(card)
    if old:
        dispatcher.METHOD_TO_MODEL = {}  # as in a real 0.3 server, no 1.0 method is found
        card_json = shown.model_dump(mode="json", by_alias=True, exclude_none=True)
        routes = [Route(AGENT_CARD_WELL_KNOWN_PATH, lambda _: JSONResponse(card_json))]
    routes.append(Route(RPC_PATH, dispatcher.handle_requests, methods=["POST"]))
    return Starlette(routes=routes, middleware=[Middleware(PostLog)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--v03", action="store_true", help="speak protocol 0.3 instead of 1.0")
    options = parser.parse_args()
    app = build_app(f"http://127.0.0.1:{options.port}{RPC_PATH}", options.v03)
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", timeout_graceful_shutdown=1)
