"""An ACP agent that behaves as the adapters of real programs do: `acp_plain.py BEHAVIOUR`, standard library only."""

import json
import os
import sys
from typing import Any

BEHAVIOUR = sys.argv[1]
MODES = ["read-only", "auto"]
MODELS = ["small", "large"]
NOT_FOUND = {"code": -32601, "message": "Method not found"}
PROVIDER = "unexpected status 400 Bad Request: the prompt is empty"


def send(**message: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def update(what: str, **more: object) -> None:
    send(method="session/update", params={"sessionId": "s-1", "update": {"sessionUpdate": what, **more}})


def say(text: str, **more: object) -> None:
    update("agent_message_chunk", content={"type": "text", "text": text}, **more)


def text_content(text: str) -> list[dict[str, Any]]:
    return [{"type": "content", "content": {"type": "text", "text": text}}]


def option(name: str, values: list[str], current: str) -> dict[str, Any]:
    entries = [{"value": value, "name": value.title()} for value in values]
    grouped = [{"group": "all", "name": "All", "options": entries}]
    return {"id": name, "category": name, "type": "select", "currentValue": current, "options": grouped}


class PlainAgent:
    """Answers requests by their method, as its behaviour demands it."""

    def __init__(self) -> None:
        self.chosen = {"mode": MODES[0], "model": MODELS[0]}
        self.servers: list[dict[str, Any]] = []
        self.asked = 100

    def answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Return the member of the answer: a result or an error."""
        handler = getattr(self, method.replace("/", "_"), None)
        return handler(params) if handler is not None else {"error": NOT_FOUND}

    def initialize(self, _: dict[str, Any]) -> dict[str, Any]:
        variables = [{"name": "PLAIN_API_KEY"}, {"name": "PLAIN_URL", "optional": True}]
        methods = [
            {"type": "env_var", "id": "key", "name": "Use a key", "vars": variables},
            {"id": "web", "name": "Log in with Plain", "description": "Run `plain login` in a terminal"},
            {"type": "terminal", "id": "tty", "name": "Terminal", "args": ["--login"]},
        ]
        can = {"loadSession": BEHAVIOUR == "load", "mcpCapabilities": {"http": True}}
        return {"result": {"protocolVersion": 1, "agentCapabilities": can, "authMethods": methods}}

    def session_new(self, params: dict[str, Any]) -> dict[str, Any]:
        if BEHAVIOUR == "login":
            return {"error": {"code": -32000, "message": "Authentication required"}}
        self.servers = params["mcpServers"]
        return {"result": {"sessionId": "s-1", **self.offer()}}

    def offer(self) -> dict[str, Any]:
        offer: dict[str, Any] = {}
        if BEHAVIOUR in {"lists", "fallback"}:
            modes = [{"id": mode, "name": mode.title()} for mode in MODES]
            models = [{"modelId": model, "name": model.title()} for model in MODELS]
            offer["modes"] = {"currentModeId": self.chosen["mode"], "availableModes": modes}
            offer["models"] = {"currentModelId": self.chosen["model"], "availableModels": models}
        if BEHAVIOUR in {"options", "fallback"}:
            values = {"mode": MODES, "model": MODELS}
            offer["configOptions"] = [option(name, values[name], now) for name, now in self.chosen.items()]
        return offer

    def session_load(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["sessionId"] != "s-1":
            return {"error": {"code": -32002, "message": "Resource not found", "data": {"uri": params["sessionId"]}}}
        say("what I said last time")
        update("usage_update", used=1, size=9, cost={"amount": 0.5, "currency": "USD"})
        return {"result": self.offer() or None}

    def session_set_mode(self, params: dict[str, Any]) -> dict[str, Any]:
        self.chosen["mode"] = params["modeId"]
        return {"result": {}}

    def session_set_model(self, params: dict[str, Any]) -> dict[str, Any]:
        self.chosen["model"] = params["modelId"]
        return {"result": None}

    def session_set_config_option(self, params: dict[str, Any]) -> dict[str, Any]:
        if BEHAVIOUR == "fallback":
            return {"error": NOT_FOUND}
        self.chosen[params["configId"]] = params["value"]
        return {"result": {"configOptions": self.offer()["configOptions"]}}

    def session_prompt(self, params: dict[str, Any]) -> dict[str, Any]:
        result = getattr(self, f"do_{BEHAVIOUR}", self.do_choices)(params)
        return result or {"result": {"stopReason": "end_turn"}}

    def do_choices(self, _: dict[str, Any]) -> None:
        say("{mode} {model}".format(**self.chosen))

    def do_cause(self, params: dict[str, Any]) -> dict[str, Any]:
        """Fail as the prompt says: with the name of an error, or with another kind of data, as JSON."""
        word = params["prompt"][0]["text"]
        data = json.loads(word) if word[0] in '"{[' else {"message": PROVIDER, "codex_error_info": word}
        return {"error": {"code": -32603, "message": "Internal error", "data": data}}

    def do_quota(self, _: dict[str, Any]) -> dict[str, Any]:
        counted = {"input_tokens": 2000, "output_tokens": 100}
        return {"result": {"stopReason": "end_turn", "_meta": {"quota": {"token_count": counted}}}}

    def do_growing(self, _: dict[str, Any]) -> None:
        update("tool_call", toolCallId="c", title="bash", kind="execute", status="pending")
        text = ""
        for number in range(200):
            for part in (f"line {number}", " of a build\n"):
                text += part
                content = text_content(text)
                update("tool_call_update", toolCallId="c", status="in_progress", title="make", content=content)
        update("tool_call_update", toolCallId="c", status="completed", title="make", content=text_content(text))
        say("Done.")

    def do_messages(self, _: dict[str, Any]) -> None:
        say("A warning.")
        say("The ", messageId="m1")
        say("answer.", messageId="m1")
        say("And more.", messageId="m2")

    def do_errors(self, _: dict[str, Any]) -> None:
        say("One, ")
        self.wait_for_client()
        os.write(2, b"a warning\nand its second li")
        self.wait_for_client()
        say("two")

    def do_kinds(self, params: dict[str, Any]) -> None:
        update("tool_call", toolCallId="c-edit", title="Edit a file", kind="edit", status="pending")
        for kind in params["prompt"][0]["text"].split():
            say(f"{kind}: {self.ask_permission(kind)}\n")

    def do_load(self, _: dict[str, Any]) -> None:
        say("and so on")
        update("usage_update", used=2, size=9, cost={"amount": 0.75, "currency": "USD"})

    def do_cut(self, params: dict[str, Any]) -> None:
        """Say what it cost, and end by the signal that the prompt names."""
        update("usage_update", used=2, size=9, cost={"amount": 0.75, "currency": "USD"})
        os.kill(os.getpid(), int(params["prompt"][0]["text"]))

    def do_servers(self, _: dict[str, Any]) -> None:
        say(json.dumps([self.servers, "AGENTCRON_ACP" in os.environ]))

    def wait_for_client(self) -> None:
        """Return once the client has shown what was sent and printed."""
        self.asked += 1
        send(id=self.asked, method="fs/read_text_file", params={})
        sys.stdin.readline()

    def ask_permission(self, kind: str) -> str:
        """Return the option that the client chose; a call whose kind is to be remembered is asked for without it."""
        self.asked += 1
        call: dict[str, Any] = {"toolCallId": f"c-{kind}"}
        if kind != "edit":
            call |= {"title": f"Do {kind}", **({} if kind == "unnamed" else {"kind": kind})}
        options = [{"optionId": word, "name": word, "kind": f"{word}_once"} for word in ("allow", "reject")]
        request = {"sessionId": "s-1", "toolCall": call, "options": options[: 1 if kind == "think" else 2]}
        send(id=self.asked, method="session/request_permission", params=request)
        outcome: dict[str, str] = json.loads(sys.stdin.readline())["result"]["outcome"]
        return outcome.get("optionId", outcome["outcome"])


if __name__ == "__main__":
    if BEHAVIOUR == "dies":
        sys.exit("\33[31mplain: no such config file\33[0m\n")
    agent = PlainAgent()
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            send(id=message["id"], **agent.answer(message["method"], message["params"]))
