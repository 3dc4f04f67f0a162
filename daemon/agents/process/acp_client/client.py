"""One session with an agent: initialize, session/new or session/load, session/prompt, and the stop reason that ends it.

Agent Client Protocol, version 1 (agentclientprotocol.com): JSON-RPC 2.0, one message per line, over the agent's
standard input and output. What the agent says goes to our standard output, the result to `$AGENTCRON_RESULT`.
"""

import os
import signal
import sys
import time
from typing import Any

from ..supervisor.start import reason_of
from .choices import choices, not_offered
from .failures import CONFIG, METHOD_NOT_FOUND, REFUSED, SessionError, error_of
from .mcp_servers import usable
from .options import Options, take_options
from .permissions import answer_to, chosen_of
from .pipes import AgentGoneError, AgentPipes
from .rendering import LONGEST_MESSAGE, LONGEST_NOTE, Rendering, text_of
from .result import SessionResult, write_result
from .tool_calls import ToolCalls, word_of
from .usage import cost_in, tokens_in

_VERSION = 1
_LONGEST_SESSION_ID = 200  # characters
_STOPPED = {
    "max_tokens": "the agent stopped: it reached its token limit (max_tokens)",
    "max_turn_requests": "the agent stopped: it reached its limit of requests in one turn (max_turn_requests)",
    "refusal": "the agent refused to continue (refusal)",
    "cancelled": "the agent cancelled its turn by itself",
}


def main(command: list[str]) -> None:
    """Run one session with the agent that a command starts."""
    try:
        options = take_options()
    except (KeyError, TypeError, ValueError):
        _report(SessionResult(failure="agentcron was upgraded under its daemon; restart the daemon"))
        os._exit(1)
    prompt = sys.stdin.buffer.read().decode(errors="replace")
    try:
        pipes = AgentPipes(command)
    except OSError as error:
        _report(_not_started(command[0], error))
        os._exit(127 if isinstance(error, FileNotFoundError) else 126)  # as a shell reports it
    result = Session(pipes, command, options).run(prompt)
    _report(result)
    code = pipes.exit_status() or (1 if result.failure else 0)
    pipes.leave_reader()
    os._exit(code)


def _not_started(program: str, error: OSError) -> SessionResult:
    will_not_mend = isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError)
    failure = f"cannot start {program!r}: {reason_of(error)}"
    return SessionResult(failure=failure, kind=CONFIG if will_not_mend else None)


def _report(result: SessionResult) -> None:
    if result.failure:
        sys.stderr.write(f"[agentcron] {result.failure}\n")
    write_result(result)
    sys.stdout.flush()


class Session:
    """The conversation with one agent."""

    def __init__(self, pipes: AgentPipes, command: list[str], options: Options) -> None:
        self._pipes = pipes
        self._command = command
        self._options = options
        self._secrets = options.secrets()
        self._calls = ToolCalls(self._secrets)
        self._rendering = Rendering(self._secrets, self._calls)
        self._result = SessionResult()
        self._auth_methods: object = None
        self._session: str | None = None
        self._loading: str | None = None  # the session that the agent is loading, and whose past it tells
        self._cost_before = 0.0  # of the session's earlier turns, as far as the agent told it
        self._requests = 0
        self._cancelled_at: float | None = None
        self._cancel_sent = False
        signal.signal(signal.SIGTERM, self._cancel)

    def run(self, prompt: str) -> SessionResult:
        """Run the session to its end; whatever happens becomes its result."""
        try:
            capabilities = self._initialize()
            offer = self._open(capabilities)
            for what, value in (("model", self._options.model), ("mode", self._options.mode)):
                if value is not None:
                    offer |= self._choose(offer, what, value)
            self._turn(prompt)
        except SessionError as error:
            self._fail(str(error), error.kind)
        usage = self._result.usage
        self._result.usage_at_least = bool(usage) and "input_tokens" not in usage and self._result.failure is not None
        self._rendering.error_output(self._pipes.take_printed())
        self._rendering.end_line()
        self._result.message = self._rendering.last_message
        return self._result

    def _fail(self, failure: str, kind: str | None) -> None:
        self._result.failure = self._secrets.brief(failure, LONGEST_MESSAGE)
        self._result.kind = kind

    def _initialize(self) -> dict[str, Any]:
        """Agree on a version of the protocol; return what the agent is capable of."""
        answer = self._ask(
            "initialize",
            {
                "protocolVersion": _VERSION,
                "clientCapabilities": {"fs": {"readTextFile": False, "writeTextFile": False}, "terminal": False},
                "clientInfo": {"name": "agentcron", "title": "agentcron", "version": self._options.version},
            },
        )
        version = answer.get("protocolVersion")
        if version != _VERSION:
            raise SessionError(f"the agent speaks ACP version {version!r}, not {_VERSION}", CONFIG)
        self._auth_methods = answer.get("authMethods")
        capabilities = answer.get("agentCapabilities")
        return capabilities if isinstance(capabilities, dict) else {}

    def _open(self, capabilities: dict[str, Any]) -> dict[str, Any]:
        """Open a session, the one to continue if the agent still has it; return what it lets us choose."""
        setup = {"cwd": os.getcwd(), "mcpServers": usable(self._options.mcp_servers, capabilities)}
        answer = self._load(self._options.session, capabilities, setup) if self._options.session is not None else None
        if answer is None:
            answer = self._ask("session/new", setup)
            session = answer.get("sessionId")
            if not isinstance(session, str):
                raise SessionError("the agent answered session/new without a sessionId")
            self._session = session
        if self._session is not None and len(self._session) <= _LONGEST_SESSION_ID:
            self._result.session = self._secrets.masked(self._session)
        return answer

    def _load(self, session: str, capabilities: dict[str, Any], setup: dict[str, Any]) -> dict[str, Any] | None:
        """Have the agent load the session to continue; return None, and say why, if it does not."""
        if capabilities.get("loadSession") is not True:
            self._refuse_session("the agent does not offer session/load")
            return None
        self._loading = session
        try:
            answer = self._ask("session/load", {**setup, "sessionId": session})
        except AgentGoneError as error:
            if self._cancelled_at is None:
                self._refuse_session(str(error))
            raise
        except SessionError as error:
            self._refuse_session(str(error))
            return None
        finally:
            self._loading = None
        self._session = session
        return answer

    def _refuse_session(self, why: str) -> None:
        self._cost_before = 0.0
        self._result.session_refused = self._secrets.brief(why, LONGEST_NOTE)
        self._rendering.note(f"[session] the last one cannot be continued: {why}")

    def _choose(self, offer: dict[str, Any], what: str, value: str) -> dict[str, Any]:
        """Set the mode or the model in the first way that the agent knows; return what that changed of its offer."""
        found = list(choices(offer, what))
        failure = not_offered(what, value, found)
        for choice in (choice for choice in found if value in choice.values):
            try:
                return self._ask(choice.method, {"sessionId": self._session, **choice.params, choice.key: value})
            except SessionError as error:
                if error.code is None:
                    raise
                failure = SessionError(f"{what} = {value!r}: {error}", error.kind or CONFIG)
                if error.code != METHOD_NOT_FOUND:
                    break
        raise failure

    def _turn(self, prompt: str) -> None:
        content = [{"type": "text", "text": prompt}]
        answer = self._ask("session/prompt", {"sessionId": self._session, "prompt": content})
        self._result.usage.update(tokens_in(answer))
        reason = answer.get("stopReason")
        if reason == "cancelled" and self._cancelled_at is not None:
            self._fail("cancelled", None)
        elif reason != "end_turn":
            failure = _STOPPED.get(str(reason), f"the agent stopped for an unknown reason: {reason!r}")
            self._fail(failure, REFUSED if reason == "refusal" else None)

    def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and serve the agent until it answers; raise SessionError or AgentGoneError."""
        self._requests += 1
        number = self._requests
        self._pipes.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
        while True:
            message = self._pipes.receive(method, self._deadline())
            if message is None:
                self._forward_cancel()
            elif isinstance(message, bytes):
                self._rendering.error_output(message)
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
            raise error_of(method, error, self._auth_methods, self._command)
        result = {} if message.get("result", "") is None else message.get("result")  # some mean nothing by null
        if not isinstance(result, dict):
            raise SessionError(f"the agent answered {method} without a result")
        return result

    def _serve(self, message: dict[str, Any]) -> None:
        """Handle a notification or a request of the agent."""
        params = message.get("params")
        params = params if isinstance(params, dict) else {}
        if "id" not in message:
            if message["method"] == "session/update" and isinstance(params.get("update"), dict):
                self._update(params.get("sessionId"), params["update"])
            return
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == "session/request_permission":
            answer["result"] = {"outcome": self._permit(params)}
        else:
            text = f"{message['method']} is not supported: agentcron offers neither files nor terminals"
            answer["error"] = {"code": METHOD_NOT_FOUND, "message": text}
        self._pipes.send(answer)

    def _update(self, session: object, update: dict[str, Any]) -> None:
        """Show what happens in our session; of the past of one that is loaded, only its cost counts."""
        if session is None or session not in (self._session, self._loading):
            return
        cost = cost_in(update)
        if self._session is None:
            self._cost_before = self._cost_before if cost is None else cost
            return
        self._rendering.update(update)
        if cost is not None:
            self._result.usage["cost_usd"] = cost - self._cost_before if cost >= self._cost_before else cost

    def _permit(self, params: dict[str, Any]) -> dict[str, str]:
        """Choose the answer to a permission request, and report it."""
        request = params.get("toolCall")
        request = request if isinstance(request, dict) else {}
        call = self._calls.find(request)
        answer = answer_to(self._options.permissions, word_of(request, "kind") or call.kind)
        chosen = chosen_of(params.get("options"), answer) if self._cancelled_at is None else None
        decision = str(chosen["kind"]) if chosen else f"reject (no option to {answer} was offered)"
        if self._cancelled_at is not None:
            decision = "cancelled"
        asked = self._secrets.brief(text_of(request.get("title")) or call.title, LONGEST_NOTE)
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
        return self._cancelled_at + (self._options.patience if self._session is not None else 0.0)
