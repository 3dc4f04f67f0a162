"""One session with an agent: initialize, session/new, session/prompt, and the stop reason that ends it.

Agent Client Protocol, version 1 (agentclientprotocol.com): JSON-RPC 2.0, one message per line, over the agent's
standard input and output. What the agent says goes to our standard output, the result to `$AGENTCRON_RESULT`.
"""

import os
import signal
import sys
import time
from typing import Any

from ..supervisor.mask import Secrets
from ..supervisor.start import reason_of
from .pipes import AgentGoneError, AgentPipes
from .rendering import LONGEST_MESSAGE, LONGEST_NOTE, Rendering, text_of
from .result import SessionResult, write_result

_VERSION = 1
_METHOD_NOT_FOUND = -32601
_AUTH_REQUIRED = -32000
_MOST_TOKENS = 2**63  # more than the daemon accepts; it reports the value
_PREFERRED = {"allow": ("allow_once", "allow_always"), "reject": ("reject_once", "reject_always")}
_STOPPED = {
    "max_tokens": "the agent stopped: it reached its token limit (max_tokens)",
    "max_turn_requests": "the agent stopped: it reached its limit of requests in one turn (max_turn_requests)",
    "refusal": "the agent refused to continue (refusal)",
    "cancelled": "the agent cancelled its turn by itself",
}


def main(arguments: list[str]) -> None:
    """Run one session with the agent that a command starts.

    Arguments: our version, how to answer permission requests, the names of the variables that hold secrets, with commas
    between them, seconds to obey a cancel, and the command.
    """
    version, permissions, hidden, patience, *command = arguments
    secrets = Secrets(os.environ.get(name, "") for name in hidden.split(","))
    prompt = sys.stdin.buffer.read().decode(errors="replace")
    try:
        pipes = AgentPipes(command)
    except OSError as error:
        result = SessionResult(failure=f"cannot start {command[0]!r}: {reason_of(error)}")
        code = 127 if isinstance(error, FileNotFoundError) else 126  # as a shell reports it
    else:
        session = Session(pipes, permissions, float(patience), secrets)
        result = session.run(prompt, version)
        code = pipes.exit_status() or (1 if result.failure else 0)
    if result.failure:
        sys.stderr.write(f"[agentcron] {result.failure}\n")
    write_result(result)
    sys.stdout.flush()
    os._exit(code)


def _is_count(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= _MOST_TOKENS and value % 1 == 0  # type: ignore[operator]


def _sum(values: list[Any]) -> object:
    """Return the sum of the numbers of tokens that are there, None without any; the first one that is no such number.

    The daemon reports a value that it cannot use.
    """
    found = [value for value in values if value is not None]
    for value in found:
        if not _is_count(value):
            return value
    return sum(found) if found else None


class _RefusedError(Exception):
    """The agent answered a request with an error or with an invalid result; the text says which."""


class Session:
    """The conversation with one agent."""

    def __init__(self, pipes: AgentPipes, permissions: str, patience: float, secrets: Secrets) -> None:
        self._pipes = pipes
        self._permissions = permissions
        self._patience = patience
        self._secrets = secrets
        self._rendering = Rendering(secrets)
        self._result = SessionResult()
        self._session: str | None = None
        self._requests = 0
        self._cancelled_at: float | None = None
        self._cancel_sent = False
        signal.signal(signal.SIGTERM, self._cancel)

    def run(self, prompt: str, version: str) -> SessionResult:
        """Run the session to its end; whatever happens becomes its result."""
        try:
            self._initialize(version)
            self._session = self._open()
            self._turn(prompt)
        except (AgentGoneError, _RefusedError) as error:
            self._result.failure = str(error)
        self._rendering.end_line()
        self._result.message = self._rendering.last_message
        if self._result.failure is not None:
            self._result.failure = self._secrets.brief(self._result.failure, LONGEST_MESSAGE)
        return self._result

    def _initialize(self, version: str) -> None:
        answer = self._ask(
            "initialize",
            {
                "protocolVersion": _VERSION,
                "clientCapabilities": {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False},
                "clientInfo": {"name": "agentcron", "title": "agentcron", "version": version},
            },
        )
        if answer.get("protocolVersion") != _VERSION:
            raise _RefusedError(f"the agent speaks ACP version {answer.get('protocolVersion')!r}, not {_VERSION}")

    def _open(self) -> str:
        answer = self._ask("session/new", {"cwd": os.getcwd(), "mcpServers": []})
        session = answer.get("sessionId")
        if not isinstance(session, str):
            raise _RefusedError("the agent answered session/new without a sessionId")
        return session

    def _turn(self, prompt: str) -> None:
        content = [{"type": "text", "text": prompt}]
        answer = self._ask("session/prompt", {"sessionId": self._session, "prompt": content})
        self._count_tokens(answer.get("usage"))
        reason = answer.get("stopReason")
        if reason == "cancelled" and self._cancelled_at is not None:
            self._result.failure = "cancelled"
        elif reason != "end_turn":
            self._result.failure = _STOPPED.get(str(reason), f"the agent stopped for an unknown reason: {reason!r}")

    def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and serve the agent until it answers; raise _RefusedError or AgentGoneError."""
        self._requests += 1
        number = self._requests
        self._pipes.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        while True:
            message = self._pipes.receive(method, self._deadline())
            if message is None:
                self._forward_cancel()
            elif isinstance(message, str):
                self._rendering.note(f"[agent] {message}")
            elif isinstance(message.get("method"), str):
                self._serve(message)
            elif message.get("id") == number:
                return self._answer(method, message)
            else:
                self._rendering.note(f"[protocol] an answer that matches no request: id {message.get('id')!r}")

    def _answer(self, method: str, message: dict[str, Any]) -> dict[str, Any]:
        error = message.get("error")
        if isinstance(error, dict):
            hint = "; log it in once by hand" if error.get("code") == _AUTH_REQUIRED else ""
            raise _RefusedError(f"the agent refused {method}: {error.get('message')} ({error.get('code')}){hint}")
        result = message.get("result")
        if not isinstance(result, dict):
            raise _RefusedError(f"the agent answered {method} without a result")
        return result

    def _serve(self, message: dict[str, Any]) -> None:
        """Handle a notification or a request of the agent."""
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        if "id" not in message:
            is_ours = params.get("sessionId") == self._session
            if message["method"] == "session/update" and is_ours and isinstance(params.get("update"), dict):
                self._rendering.update(params["update"])
                self._count_cost(params["update"])
            return
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == "session/request_permission":
            answer["result"] = {"outcome": self._permit(params)}
        else:
            text = f"{message['method']} is not supported: agentcron offers neither files nor terminals"
            answer["error"] = {"code": _METHOD_NOT_FOUND, "message": text}
        self._pipes.send(answer)

    def _permit(self, params: dict[str, Any]) -> dict[str, str]:
        """Choose the answer to a permission request, and report it."""
        call = params.get("toolCall")
        asked = text_of(call.get("title") or call.get("toolCallId")) if isinstance(call, dict) else ""
        options = params.get("options")
        by_kind = {
            str(option.get("kind")): option
            for option in reversed(options if isinstance(options, list) else [])
            if isinstance(option, dict) and isinstance(option.get("optionId"), str)
        }
        chosen = next((by_kind[kind] for kind in _PREFERRED[self._permissions] if kind in by_kind), None)
        if self._cancelled_at is not None:
            chosen = None
        decision = "cancelled" if chosen is None else str(chosen["kind"])
        asked = self._secrets.brief(asked or "something", LONGEST_NOTE)
        self._rendering.note(f"[permission] {asked}: {decision}")
        self._result.note_permission(asked, decision)
        return {"outcome": "cancelled"} if chosen is None else {"outcome": "selected", "optionId": chosen["optionId"]}

    def _cancel(self, *_: object) -> None:
        """Note that the run is to end (SIGTERM)."""
        self._cancelled_at = self._cancelled_at or time.monotonic()

    def _forward_cancel(self) -> None:
        """Ask the agent once to end its turn; `_deadline` limits the time that it has for that."""
        if self._cancelled_at is not None and self._session is not None and not self._cancel_sent:
            self._cancel_sent = True
            self._pipes.send({"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": self._session}})

    def _deadline(self) -> float | None:
        if self._cancelled_at is None:
            return None
        return self._cancelled_at + (self._patience if self._session is not None else 0.0)

    def _count_tokens(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        read = [usage.get(name) for name in ("inputTokens", "cachedReadTokens", "cachedWriteTokens")]
        self._result.usage["input_tokens"] = _sum(read)
        self._result.usage["output_tokens"] = usage.get("outputTokens")

    def _count_cost(self, update: dict[str, Any]) -> None:
        cost = update.get("cost") if update.get("sessionUpdate") == "usage_update" else None
        amount = cost.get("amount") if isinstance(cost, dict) and cost.get("currency") == "USD" else None
        if isinstance(amount, int | float):
            self._result.usage["cost_usd"] = amount
