"""A provider of models: Anthropic's, OpenAI's and Google's APIs, as far as the programs that are tested call them.

`provider.py PORT`; the first part of a request's path says how it answers: with `text`, `tool` (a command first, which
is in the file `$PEER_LOG.command`, then a text), `unauthorized`, `limited`, `overloaded`, `cut` (the stream breaks off)
or `hang`. The log gets a JSON line for each request: path, and body.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

LOG = Path(os.environ["PEER_LOG"])
COMMAND = LOG.with_name(LOG.name + ".command")
WORDS = "It is done."
LIMIT_SECONDS = 3600
INPUT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS = 100, 20, 7
"""What each call is said to have used; the cached ones are a part of the input."""
SHELLS = {"Bash", "bash", "exec_command", "shell", "shell_command", "run_shell_command"}
"""What the programs call their tool for commands."""

Body = dict[str, Any]
Tool = tuple[str, Mapping[str, Any]]

FAILURES = {
    "unauthorized": (401, "authentication_error", "token has expired"),
    "limited": (429, "rate_limit_error", f"Your limit is used up. Try again in {LIMIT_SECONDS} seconds."),
    "overloaded": (529, "overloaded_error", "Overloaded"),
}
GOOGLE_NAMES = {"unauthorized": "UNAUTHENTICATED", "limited": "RESOURCE_EXHAUSTED", "overloaded": "UNAVAILABLE"}


async def answer(request: web.Request) -> web.StreamResponse:
    """Answer one request as its path says."""
    body: Body = json.loads(await request.read() or b"{}")
    with LOG.open("a") as log:
        log.write(json.dumps({"path": request.path_qs, "body": body}) + "\n")
    how, _, path = request.path.removeprefix("/").partition("/")
    if how in FAILURES:
        return failure(how, path)
    if how == "hang":
        await asyncio.sleep(3600)
    speak = next((speak for ending, speak in SPOKEN.items() if path.endswith(ending)), None)
    if request.method != "POST" or speak is None:
        return web.json_response({}, status=404)
    return await sent(request, speak(body, how), is_cut=how == "cut")


def failure(how: str, path: str) -> web.Response:
    """Return an error as each API has it; one of a limit tells when that is reset, in the API's own place."""
    status, name, words = FAILURES[how]
    error: Body = {"type": name, "code": name, "message": words}
    headers: Mapping[str, str] = {}
    if how == "limited" and path.endswith("/messages"):
        headers = {
            "anthropic-ratelimit-unified-status": "rejected",
            "anthropic-ratelimit-unified-reset": str(limit_end()),
            "anthropic-ratelimit-unified-representative-claim": "five_hour",
        }
    elif how == "limited" and path.endswith("/responses"):
        error = {"type": "usage_limit_reached", "message": words, "plan_type": "plus", "resets_at": limit_end()}
    elif path.endswith("enerateContent"):
        delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{LIMIT_SECONDS}s"}
        error = {"code": status, "status": GOOGLE_NAMES[how], "message": words}
        error |= {"details": [delay]} if how == "limited" else {}
    wrapped = {"error": error} if "details" in error or "status" in error else {"type": "error", "error": error}
    return web.json_response(wrapped, status=status, headers=headers)


def limit_end() -> int:
    """Return when the limit is reset, in seconds since the epoch."""
    return int(time.time()) + LIMIT_SECONDS


async def sent(request: web.Request, events: Iterable[Body], *, is_cut: bool) -> web.StreamResponse:
    """Send events one by one; a stream that is cut ends in the middle of a line, without an end of its own."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        name = f"event: {event['type']}\n" if "type" in event else ""
        data = f"{name}data: {json.dumps(event)}\n\n".encode()
        await response.write(data)
        if is_cut and ("delta" in event or "candidates" in event):
            assert request.transport is not None
            request.transport.abort()
            break
    return response


def tool_of(names: Iterable[str], how: str, *, is_told: bool) -> Tool | None:
    """Return the tool to be called next, None for a text."""
    if how != "tool" or is_told:
        return None
    name = next((name for name in names if name in SHELLS), None)
    if name is None:
        return None
    command = COMMAND.read_text()
    key = "cmd" if name == "exec_command" else "command"
    given = ["bash", "-lc", command] if name == "shell" else command
    return name, {key: given, "description": "writes a file"}


def anthropic(body: Body, how: str) -> Iterator[Body]:
    """Yield a message."""
    results = [part for one in body["messages"] if isinstance(one["content"], list) for part in one["content"]]
    is_told = any(part.get("type") == "tool_result" for part in results)
    tool = tool_of([one["name"] for one in body.get("tools", ())], how, is_told=is_told)
    new = INPUT_TOKENS - CACHED_TOKENS
    used = {"input_tokens": new, "cache_read_input_tokens": CACHED_TOKENS, "cache_creation_input_tokens": 0}
    message = {"id": f"msg_{time.monotonic_ns()}", "type": "message", "role": "assistant", "model": body["model"]}
    message |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": {**used, "output_tokens": 1}}
    yield {"type": "message_start", "message": message}
    if tool is None:
        block: Body = {"type": "text", "text": ""}
        delta: Body = {"type": "text_delta", "text": WORDS}
    else:
        block = {"type": "tool_use", "id": f"toolu_{time.monotonic_ns()}", "name": tool[0], "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(tool[1])}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    reason = "tool_use" if tool else "end_turn"
    usage = {"output_tokens": OUTPUT_TOKENS}
    yield {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
    yield {"type": "message_stop"}


def openai(body: Body, how: str) -> Iterator[Body]:
    """Yield a response."""
    is_told = any(one.get("type") in {"function_call_output", "local_shell_call_output"} for one in body["input"])
    tool = tool_of([one.get("name", "") for one in body.get("tools", ())], how, is_told=is_told)
    response = {"id": f"resp_{time.monotonic_ns()}", "object": "response", "model": body["model"]}
    yield {"type": "response.created", "response": response}
    if tool is None:
        text = {"type": "output_text", "text": WORDS, "annotations": []}
        item: Body = {"type": "message", "role": "assistant", "id": "msg_1", "content": [text]}
        yield {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}}
        yield {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "delta": WORDS}
    else:
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": tool[0]}
        item |= {"arguments": json.dumps(tool[1])}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    usage: Body = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    usage |= {"input_tokens_details": {"cached_tokens": CACHED_TOKENS}, "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS}
    yield {"type": "response.completed", "response": {**response, "output": [item], "usage": usage}}


def openai_chat(body: Body, _: str) -> Iterator[Body]:
    """Yield a text of the API before responses."""
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
    first = {"index": 0, "delta": {"role": "assistant", "content": WORDS}, "finish_reason": None}
    yield {**chunk, "choices": [first]}
    used = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS}
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    yield {**chunk, "choices": [last], "usage": {**used, "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS}}


def google(body: Body, how: str) -> Iterator[Body]:
    """Yield the one part of an answer."""
    parts = [part for one in body["contents"] for part in one["parts"]]
    is_told = any("functionResponse" in part for part in parts)
    declared = [one for tool in body.get("tools", ()) for one in tool.get("functionDeclarations", ())]
    tool = tool_of([one["name"] for one in declared], how, is_told=is_told)
    part: Body = {"text": WORDS} if tool is None else {"functionCall": {"name": tool[0], "args": tool[1]}}
    used = {"promptTokenCount": INPUT_TOKENS, "cachedContentTokenCount": CACHED_TOKENS}
    used |= {"candidatesTokenCount": OUTPUT_TOKENS, "totalTokenCount": INPUT_TOKENS + OUTPUT_TOKENS}
    candidate = {"index": 0, "content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}
    yield {"candidates": [candidate], "usageMetadata": used}


SPOKEN = {
    "/messages": anthropic,
    "/responses": openai,
    "/chat/completions": openai_chat,
    ":streamGenerateContent": google,
}
"""By the end of a path: the API that is called there."""


if __name__ == "__main__":
    app = web.Application(client_max_size=64 * 1024**2)
    app.router.add_route("*", "/{path:.*}", answer)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
