"""JSON of any shape, as agents and peers may send it."""

from typing import Any

from hypothesis import strategies as st

WORDS = ["completed", "failed", "result", "success", "JSONRPC", "1.0", "0.3", "/x", "http://h:1/x", "header", "apiKey"]
WORDS += ["text", "full", "start", "delta", "data", "reasoning", "tool_call", "plan", "agent_message_chunk", "diff"]
WORDS += ["end_turn", "cancelled", "allow_once", "USD", "usage_update", "TASK_STATE_FAILED", "input-required", "agent"]
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(WORDS)


def shapes(*keys: str) -> st.SearchStrategy[Any]:
    """Return any JSON whose objects have some of these keys, and others."""
    names = st.sampled_from(keys) | st.text(max_size=3)
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6), max_leaves=25
    )


def objects(*keys: str) -> st.SearchStrategy[dict[str, Any]]:
    """Return JSON objects that have some of these keys, with anything in them."""
    return st.dictionaries(st.sampled_from(keys), shapes(*keys), max_size=len(keys))
