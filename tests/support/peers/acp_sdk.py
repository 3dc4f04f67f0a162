"""An ACP test agent on stdio: its behaviour is chosen by the first word of the prompt."""

import asyncio
import json
import os
from typing import Any, cast

from acp import PROTOCOL_VERSION, Agent, Client, RequestError, helpers, run_agent, schema

PERMISSIONS = [
    schema.PermissionOption(option_id="allow", name="Allow", kind="allow_once"),
    schema.PermissionOption(option_id="always", name="Always allow", kind="allow_always"),
    schema.PermissionOption(option_id="reject", name="Reject", kind="reject_once"),
    schema.PermissionOption(option_id="never", name="Always reject", kind="reject_always"),
]
OPTIONS = [
    schema.SessionConfigOptionSelect(
        id=f"the-{name}",
        name=name,
        category=name,
        type="select",
        current_value=values[0],
        options=[schema.SessionConfigSelectOption(value=value, name=value) for value in values],
    )
    for name, values in {"mode": ["ask", "code"], "model": ["small", "large"]}.items()
]


class WordAgent:
    def __init__(self) -> None:
        self.folders: dict[str, str] = {}
        self.chosen: dict[str, str | bool] = {}
        self.servers: list[str] = []
        self.cancelled: dict[str, asyncio.Event] = {}

    def on_connect(self, conn: Client) -> None:
        self.client = conn

    async def initialize(self, protocol_version: int, *_: Any, **__: Any) -> schema.InitializeResponse:
        return schema.InitializeResponse(
            protocol_version=min(protocol_version, PROTOCOL_VERSION),
            agent_capabilities=schema.AgentCapabilities(
                load_session=True, mcp_capabilities=schema.McpCapabilities(http=True, sse=True)
            ),
            agent_info=schema.Implementation(name="word-agent", version="1.2.3"),
            auth_methods=[],
        )

    async def new_session(self, cwd: str, *_: Any, **__: Any) -> schema.NewSessionResponse:
        session = f"session-{len(self.folders) + 1}"
        self.open(session, cwd)
        return schema.NewSessionResponse(session_id=session, config_options=OPTIONS)

    async def load_session(
        self, cwd: str, session_id: str, mcp_servers: list[Any], **_: Any
    ) -> schema.LoadSessionResponse:
        self.open(session_id, cwd)
        self.servers = [f"{type(server).__name__} {server.name}" for server in mcp_servers]
        await self.say(session_id, "what I said last time")
        return schema.LoadSessionResponse(config_options=OPTIONS)

    def open(self, session: str, folder: str) -> None:
        self.folders[session] = folder
        self.cancelled[session] = asyncio.Event()

    async def set_config_option(
        self, config_id: str, session_id: str, value: str | bool, **_: Any
    ) -> schema.SetSessionConfigOptionResponse:
        self.chosen[f"{config_id} of {session_id}"] = value
        return schema.SetSessionConfigOptionResponse(config_options=OPTIONS)

    async def cancel(self, session_id: str, **_: Any) -> None:
        self.cancelled[session_id].set()

    async def prompt(self, session_id: str, prompt: list[Any], **_: Any) -> schema.PromptResponse:
        text = "".join(block.text for block in prompt if isinstance(block, schema.TextContentBlock))
        word, _space, rest = text.partition(" ")
        self.cancelled[session_id].clear()
        if word == "echo":
            middle = len(rest) // 2
            await self.say(session_id, rest[:middle])
            await self.say(session_id, rest[middle:])
        elif word == "tools":
            await self.use_tools(session_id)
        elif word == "permit":
            for _time in range(int(rest or 1)):
                await self.say(session_id, await self.ask_permission(session_id))
        elif word == "files":
            await self.say(session_id, await self.read_file(session_id))
        elif word == "cwd":
            await self.say(session_id, self.folders[session_id])
        elif word == "setup":
            await self.say(session_id, json.dumps([self.chosen, self.servers]))
        elif word == "refuse":
            return schema.PromptResponse(stop_reason="refusal")
        elif word == "tokens":
            await self.say(session_id, "This answer is cut")
            return schema.PromptResponse(stop_reason="max_tokens")
        elif word == "usage":
            return await self.tell_usage(session_id)
        elif word in ("long", "stubborn", "crash"):
            await self.say(session_id, "started")
            if word == "crash":
                os._exit(3)
            await (self.cancelled[session_id] if word == "long" else asyncio.Event()).wait()
        cancelled = self.cancelled[session_id].is_set()
        return schema.PromptResponse(stop_reason="cancelled" if cancelled else "end_turn")

    async def say(self, session: str, text: str) -> None:
        await self.client.session_update(session, helpers.update_agent_message_text(text))

    async def use_tools(self, session: str) -> None:
        await self.client.session_update(session, helpers.update_agent_thought_text("Let me look."))
        plan = [
            helpers.plan_entry("Look", priority="high", status="completed"),
            helpers.plan_entry("Answer", priority="medium", status="pending"),
        ]
        await self.client.session_update(session, helpers.update_plan(plan))
        start = helpers.start_tool_call("call_1", "List files", kind="read", status="in_progress")
        await self.client.session_update(session, start)
        output = [helpers.tool_content(helpers.text_block("one file"))]
        end = helpers.update_tool_call("call_1", status="completed", content=output)
        await self.client.session_update(session, end)
        await self.say(session, "There is one file.")

    async def ask_permission(self, session: str) -> str:
        call = schema.ToolCallUpdate(tool_call_id="call_1", title="Run make", kind="execute", status="pending")
        outcome = (await self.client.request_permission(session, call, PERMISSIONS)).outcome
        return f"selected {outcome.option_id}" if isinstance(outcome, schema.AllowedOutcome) else "cancelled"

    async def read_file(self, session: str) -> str:
        try:
            file = await self.client.read_text_file(session, f"{self.folders[session]}/README.md")
        except RequestError as error:
            return f"error {error.code}: {error}"
        return f"read {file.content}"

    async def tell_usage(self, session: str) -> schema.PromptResponse:
        cost = schema.Cost(amount=0.25, currency="USD")
        update = schema.UsageUpdate(session_update="usage_update", used=12, size=200000, cost=cost)
        await self.client.session_update(session, update)
        usage = schema.Usage(input_tokens=5, output_tokens=7, total_tokens=12)
        return schema.PromptResponse(stop_reason="end_turn", usage=usage)


if __name__ == "__main__":
    asyncio.run(run_agent(cast("Agent", WordAgent())))
