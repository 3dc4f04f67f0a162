"""The client of acp agents as a reader: it shows or refuses with a reason whatever an agent sends."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.agents.process.acp_client import client, pipes
from daemon.agents.process.acp_client.options import Options
from daemon.agents.process.acp_client.rendering import Rendering
from daemon.agents.process.acp_client.tool_calls import ToolCalls
from daemon.agents.process.supervisor.mask import Secrets
from tests.support.shapes import objects, shapes

NO_SECRETS = Secrets(())
ACP_KEYS = (
    "sessionUpdate",
    "content",
    "text",
    "resource",
    "toolCallId",
    "title",
    "kind",
    "status",
    "entries",
    "type",
    "path",
    "uri",
    "mimeType",
    "cost",
    "currency",
    "amount",
    "messageId",
)


@given(objects(*ACP_KEYS))
@example({"sessionUpdate": []})
@example({"sessionUpdate": {}})
@example({"sessionUpdate": "plan", "entries": [{"status": [], "content": {}}]})
def test_an_update_of_a_session_of_any_shape_is_shown(update: dict[str, Any]) -> None:
    rendering = Rendering(NO_SECRETS, ToolCalls(NO_SECRETS))
    with unheard():
        rendering.update(update)
    assert isinstance(rendering.last_message, str | None)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Do what the client of a session does in its own process, with nothing shown and no signal handled."""
    before = signal.getsignal(signal.SIGTERM)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


class _Scripted:
    """An agent that sends these messages, and reads nothing."""

    def __init__(self, messages: list[Any]) -> None:
        self._messages = messages

    def send(self, message: dict[str, Any]) -> None:
        json.dumps(message)

    def receive(self, *_: object) -> Any:  # noqa: ANN401
        if not self._messages:
            raise pipes.AgentGoneError("it ended")
        return pipes._message(json.dumps(self._messages.pop(0)).encode())

    def take_printed(self) -> bytes:
        return b""


messages = objects(
    "id",
    "method",
    "params",
    "result",
    "error",
    "code",
    "message",
    "sessionId",
    "update",
    "toolCall",
    "options",
    "optionId",
    "kind",
    "protocolVersion",
    "stopReason",
    "usage",
    "inputTokens",
    "_meta",
    "quota",
    "token_count",
    "data",
    "details",
    *ACP_KEYS,
)
offers = objects(
    "agentCapabilities",
    "authMethods",
    "configOptions",
    "modes",
    "models",
    "availableModes",
    "availableModels",
    "modelId",
    "options",
    "category",
    "value",
    "vars",
    "args",
    "id",
    "name",
    "type",
    "description",
)
INITIALIZED = {"id": 1, "result": {"protocolVersion": 1}}
OPENED = {"id": 2, "result": {"sessionId": "s"}}
HELD = Options(version="1", patience=1.0, permissions={"*": "reject"})


@given(st.lists(messages | shapes("method", "params"), max_size=4), messages)
@example([{"method": "session/update", "params": {"sessionId": "s", "update": {"sessionUpdate": []}}}], {})
@example(
    [{"method": "session/request_permission", "id": [], "params": {"options": [{"kind": [], "optionId": "x"}]}}], {}
)
@example([], {"usage": {"inputTokens": 10**4200, "cachedReadTokens": 10**4200, "outputTokens": "x"}, "stopReason": []})
def test_a_session_ends_whatever_its_agent_sends(said: list[Any], end: dict[str, Any]) -> None:
    script = _Scripted([INITIALIZED, OPENED, *said, {"id": 3, "result": end}])
    with unheard():
        result = client.Session(script, ["agent"], HELD).run("go")  # type: ignore[arg-type]
    assert isinstance(result.failure, str | None)
    json.dumps(result.usage)


NO_LOGIN = [{"error": {"code": -32000}}]
GROUPED = [{"id": "mode", "options": [{"value": "x"}, {"options": [{"value": "x"}]}]}]


@settings(max_examples=50)
@given(able=offers, offer=offers, answers=st.lists(messages, max_size=2), loads=st.booleans())
@example(able={}, offer={"configOptions": GROUPED}, answers=[], loads=False)
@example(able={"authMethods": [{"type": "env_var", "vars": [{"name": []}]}]}, offer={}, answers=NO_LOGIN, loads=False)
@example(able={"authMethods": [{"type": "terminal", "args": [1]}]}, offer={}, answers=NO_LOGIN, loads=True)
def test_a_session_opens_or_fails_whatever_its_agent_offers(
    able: dict[str, Any], offer: dict[str, Any], answers: list[dict[str, Any]], loads: bool
) -> None:
    able = {**able, "protocolVersion": 1, **({"agentCapabilities": {"loadSession": True}} if loads else {})}
    opened = {"id": 2, "result": {"sessionId": "s", **offer}}
    script = _Scripted(
        [{"id": 1, "result": able}, opened, *({**answer, "id": 3 + n} for n, answer in enumerate(answers))]
    )
    wishes = replace(HELD, mode="x", model="x", session="s", mcp_servers=[{"type": "http", "name": "m"}] * loads)
    with unheard():
        result = client.Session(script, ["agent"], wishes).run("go")  # type: ignore[arg-type]
    assert isinstance(result.failure, str)
    assert result.kind in {None, "auth", "config", "refused"}
