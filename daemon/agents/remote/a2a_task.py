"""A task of an A2A agent, for version 1.0 and 0.3 alike: its state, its output, and the outcome of its run."""

import json
from dataclasses import dataclass
from typing import Any, Self

from daemon.agents.base import Outcome
from daemon.agents.remote.json_rpc import AnswerError, objects_in
from daemon.agents.remote.usage import usage_in
from daemon.model import RunStatus

_WAITING = {"input-required", "auth-required"}
_OVER = {"completed", "failed", "canceled", "rejected", *_WAITING}
_REASONS = {
    "failed": "the agent's task failed",
    "canceled": "the agent cancelled its task",
    "rejected": "the agent rejected the task",
    "input-required": "the agent asks for input",
    "auth-required": "the agent asks for authentication",
}


@dataclass(frozen=True)
class RemoteTask:
    """A task as its agent reported it."""

    id: str
    state: str
    """As version 0.3 writes it: `input-required`, not `TASK_STATE_INPUT_REQUIRED`."""
    words: str
    """The message in its status."""
    products: tuple[str, ...]
    """The text of its artifacts."""
    usage: dict[str, Any]

    @classmethod
    def in_answer(cls, answer: dict[str, Any]) -> Self | None:
        """Return the task in a result, None if that is a message; raise AnswerError if the task lacks id or state."""
        task = answer.get("task", answer)
        if not isinstance(task, dict) or ("task" not in answer and not isinstance(task.get("status"), dict)):
            return None
        status = task.get("status")
        status = status if isinstance(status, dict) else {}
        if not isinstance(task.get("id"), str) or not task["id"] or not isinstance(status.get("state"), str):
            raise AnswerError("the task in the answer has no id or no state")
        state = status["state"].lower().removeprefix("task_state_").replace("_", "-")
        words = words_of(status.get("message"))
        products = [words_of(artifact) for artifact in objects_in(task.get("artifacts"))]
        if not words and not any(products):
            said = [
                entry for entry in objects_in(task.get("history")) if str(entry.get("role")) in {"agent", "ROLE_AGENT"}
            ]
            words = words_of(said[-1]) if said else ""
        return cls(task["id"], state, words, tuple(filter(None, products)), usage_in(task, status.get("message")))

    @property
    def is_over(self) -> bool:
        """Whether the task has ended, or waits for something that never comes."""
        return self.state in _OVER

    @property
    def waits_for_somebody(self) -> bool:
        """Whether the agent waits for input or authentication, which nobody can give."""
        return self.state in _WAITING

    @property
    def output(self) -> str:
        """Its artifacts, then the message in its status."""
        return "\n".join([*self.products, *([self.words] if self.words else [])])

    @property
    def outcome(self) -> Outcome:
        """The outcome of a run whose task is over."""
        message = self.words or (self.products[-1] if self.products else None)
        if self.state == "completed":
            return Outcome(RunStatus.COMPLETED, message=message, usage=self.usage)
        reason = _REASONS[self.state]
        permanent = self.state not in {"failed", "canceled"}
        error = f"{reason}: {self.words}" if self.words else reason
        return Outcome(RunStatus.FAILED, error, message=message, usage=self.usage, permanent=permanent)


def words_of(holder: object) -> str:
    """Return the text of all parts of a message or an artifact."""
    parts = objects_in(holder.get("parts")) if isinstance(holder, dict) else []
    return "\n".join(filter(None, map(_part, parts)))


def _part(part: dict[str, Any]) -> str:
    if isinstance(part.get("text"), str):
        return str(part["text"])
    if part.get("data") is not None:
        return json.dumps(part["data"], ensure_ascii=False)
    file = part.get("file", part)
    names = [file.get(key) for key in ("name", "filename", "uri", "url")] if isinstance(file, dict) else []
    return f"[file {next((name for name in names if name), 'without a name')}]"
