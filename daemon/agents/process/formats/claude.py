"""`claude -p --output-format json` and `stream-json`: a line for each message, the last one of type `result`."""

from collections.abc import Iterator
from typing import Any

from .events import (
    Amounts,
    Denied,
    Ended,
    Event,
    Failed,
    LimitHit,
    Retrying,
    Said,
    SessionStarted,
    ToolResult,
    Used,
    UsedTool,
)
from .values import (
    amount,
    count_in,
    object_in,
    objects_in,
    readable,
    status_in,
    sum_of_amounts,
    text_in,
    tool_call,
    total,
)

KINDS = frozenset(
    ("system", "assistant", "user", "stream_event", "rate_limit_event", "tool_progress", "tool_use_summary", "result")
)
"""The types of its lines."""
_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_INPUT_OF_MODEL = ("inputTokens", "cacheCreationInputTokens", "cacheReadInputTokens")
_NO_FAILURES = ("", "completed", "success")
"""What the fields that may name a failure hold otherwise."""
_MOST_ERRORS = 10
_SYNTHETIC = "<synthetic>"
_MOST_MODELS = 20


def events_of(content: dict[str, Any]) -> Iterator[Event]:
    """Yield what one object of the output says."""
    session = text_in(content, "session_id")
    if session:
        yield SessionStarted(session)
    match content.get("type"):
        case "assistant":
            yield from _message(content)
        case "user":
            for part in objects_in(object_in(content, "message"), "content"):
                if part.get("type") == "tool_result":
                    failed = part.get("is_error") is True
                    yield ToolResult(part.get("content"), text_in(part, "tool_use_id") or None, failed)
        case "system" if content.get("subtype") == "api_retry":
            cause = f"{content.get('error_status') or ''} {text_in(content, 'error')}".strip()
            yield Retrying(cause, count_in(content, "attempt"), count_in(content, "max_retries"))
        case "rate_limit_event":
            info = object_in(content, "rate_limit_info")
            if info.get("status") == "rejected":
                yield LimitHit(info.get("resetsAt"), text_in(info, "rateLimitType"))
        case "result":
            yield from _result(content)


def _message(content: dict[str, Any]) -> Iterator[Event]:
    """Yield what a message says; those of subagents are not for the person, and no model said the synthetic ones."""
    message = object_in(content, "message")
    if message.get("model") == _SYNTHETIC:
        return
    usage, call = object_in(message, "usage"), text_in(message, "id")
    if usage and call:
        yield Used(_amounts(usage), call)
    for part in objects_in(message, "content"):
        if part.get("type") == "tool_use":
            yield UsedTool(text_in(part, "name"), part.get("input"), text_in(part, "id") or None)
        elif part.get("type") == "text" and content.get("parent_tool_use_id") is None:
            yield Said(text_in(part, "text"))


def _result(content: dict[str, Any]) -> Iterator[Event]:
    for denial in objects_in(content, "permission_denials"):
        what = tool_call(text_in(denial, "tool_name"), denial.get("tool_input"))
        yield Denied(what, text_in(denial, "tool_use_id") or None)
    models = {
        name: Amounts(
            total(used.get(key) for key in _INPUT_OF_MODEL),
            total([used.get("outputTokens")]),
            amount(used.get("costUSD")),
        )
        for name, used in list(object_in(content, "modelUsage").items())[:_MOST_MODELS]
        if isinstance(used, dict)
    }
    yield Ended(text_in(content, "result") or None, _total(content, models), models)
    subtype = text_in(content, "subtype")
    if content.get("stop_reason") == "refusal":
        yield Failed(text_in(content, "result"), name="refusal")
    elif content.get("is_error") is True or subtype.startswith("error"):
        words = text_in(content, "result") or _errors(content)
        names = (text_in(content, "terminal_reason"), subtype)
        name = next((one for one in names if one not in _NO_FAILURES), "")
        yield Failed(words, status_in(content, "api_error_status"), name)


def _amounts(usage: dict[str, Any]) -> Amounts:
    return Amounts(total(usage.get(key) for key in _INPUT), total([usage.get("output_tokens")]))


def _total(content: dict[str, Any], models: dict[str, Amounts]) -> Amounts:
    """Return what the run used: `usage` is the main conversation alone, so the models' sum comes first."""
    found = _amounts(object_in(content, "usage"))
    if models:
        by_model = models.values()
        found = Amounts(total(one.input_tokens for one in by_model), total(one.output_tokens for one in by_model))
    cost = amount(content.get("total_cost_usd"))
    if cost is None:
        cost = sum_of_amounts(one.cost_usd for one in models.values())
    return found._replace(cost_usd=cost)


def _errors(content: dict[str, Any]) -> str:
    """Return the kind of a result without text and the errors that it lists."""
    listed = content.get("errors")
    texts = [content.get("subtype"), *(listed[:_MOST_ERRORS] if isinstance(listed, list) else ())]
    return ": ".join(readable(text) for text in texts if isinstance(text, str) and text)
