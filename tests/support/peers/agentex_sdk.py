"""An Agentex test agent: it obeys the first word of the message, and logs what it got to PEER_LOG."""

import argparse
import asyncio
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path

os.environ["AGENTEX_BASE_URL"] = ""  # unset means http://localhost:5003; empty means: do not register
os.environ.setdefault("AGENT_NAME", "word-agent")
os.environ.setdefault("ACP_URL", "http://127.0.0.1")
os.environ.setdefault("LOG_LEVEL", "ERROR")
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else LiteLLM asks github.com while it is imported

import httpx
from agentex.lib.environment_variables import EnvironmentVariables

EnvironmentVariables.refresh()  # before the server is imported: else it never asks for AGENT_API_KEY

from agentex.lib.sdk.fastacp.base.base_acp_server import BaseACPServer
from agentex.lib.sdk.fastacp.fastacp import FastACP
from agentex.protocol.acp import CancelTaskParams, CreateTaskParams, SendEventParams, SendMessageParams
from agentex.types.task_message_content import TaskMessageContent
from agentex.types.task_message_update import (
    StreamTaskMessageDelta,
    StreamTaskMessageDone,
    StreamTaskMessageFull,
    StreamTaskMessageStart,
    TaskMessageUpdate,
)
from agentex.types.text_content import TextContent
from agentex.types.text_delta import TextDelta
from pydantic import BaseModel


def log(method: str, params: BaseModel) -> None:
    path = os.environ.get("PEER_LOG")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"method": method, "params": params.model_dump(mode="json")}) + "\n")


def text_of(content: TaskMessageContent | None) -> str:
    return content.content if isinstance(content, TextContent) else ""


def words(text: str) -> TextContent:
    return TextContent(author="agent", content=text)


async def answer(params: SendMessageParams) -> AsyncGenerator[TaskMessageUpdate, None]:
    log("message/send", params)
    word, _, rest = text_of(params.content).partition(" ")
    if word == "boom":
        raise RuntimeError("boom")
    if word == "stream":
        yield StreamTaskMessageStart(type="start", index=0, content=words(""))
        for piece in (rest[:1], rest[1:-1], rest[-1:]):
            yield StreamTaskMessageDelta(type="delta", index=0, delta=TextDelta(type="text", text_delta=piece))
        yield StreamTaskMessageFull(type="full", index=0, content=words(rest))
        yield StreamTaskMessageDone(type="done", index=0)
    else:
        yield StreamTaskMessageFull(type="full", index=0, content=words(rest))


async def answer_plainly(params: SendMessageParams) -> TextContent:
    log("message/send", params)
    word, _, rest = text_of(params.content).partition(" ")
    if word == "boom":
        raise RuntimeError("boom")
    return words(rest)


async def created(params: CreateTaskParams) -> None:
    log("task/create", params)


async def received(params: SendEventParams) -> None:
    log("event/send", params)
    if text_of(params.event.content) == "hook":
        await asyncio.sleep(1)
        async with httpx.AsyncClient(trust_env=False) as client:
            url = str((params.task.task_metadata or {})["hook_url"])
            await client.post(url, json={"status": "completed", "result": "from hook"})


async def cancelled(params: CancelTaskParams) -> None:
    log("task/cancel", params)


def build_server(kind: str) -> BaseACPServer:
    server = FastACP.create(acp_type="async" if kind == "async" else "sync")
    if kind == "async":
        server.on_task_create(created)
        server.on_task_event_send(received)
        server.on_task_cancel(cancelled)
    elif kind == "plain":
        server.on_message_send(answer_plainly)
    else:
        server.on_message_send(answer)  # an async generator function: the SDK takes it
    return server


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("kind", choices=["sync", "plain", "async"], help="plain: sync, and never streams")
    options = parser.parse_args()
    build_server(options.kind).run(host="127.0.0.1", port=options.port, log_level="warning")
