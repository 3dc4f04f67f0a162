"""What a line of an agent's output can say."""

from collections.abc import Mapping
from typing import NamedTuple


class SessionStarted(NamedTuple):
    """The conversation has an id by which it can be continued."""

    session: str


class Said(NamedTuple):
    """The agent said something to the person; the last thing that it says is its answer."""

    text: str
    continues: bool = False
    """Whether the text goes on from the one before, as in a stream of words."""


class UsedTool(NamedTuple):
    """The agent used a tool, so what it says next is another text."""

    name: str
    given: object = None
    """Its input, as printed."""
    call: str | None = None
    """Identifies the call, which several lines may report."""


class ToolResult(NamedTuple):
    """What a tool returned to the agent."""

    output: object
    """As printed."""
    call: str | None = None
    failed: bool = False
    exit_status: int | None = None


class Warned(NamedTuple):
    """The agent goes on, but warns the person."""

    text: str


class Retrying(NamedTuple):
    """The agent waits before it calls its provider again."""

    cause: str
    attempt: int | None
    most: int | None


class Amounts(NamedTuple):
    """Tokens and US dollars: None where nothing is said of them, -1 for what is no amount."""

    input_tokens: int | None = None
    """Those read from a cache, or written to it, included."""
    output_tokens: int | None = None
    cost_usd: float | None = None


class Used(NamedTuple):
    """A call of the model used this much; all calls together are what the run used."""

    amounts: Amounts
    call: str | None = None
    """Identifies a call that several lines report: the last one counts."""


class Denied(NamedTuple):
    """The agent was not allowed to do something."""

    what: str
    call: str | None = None
    """Identifies the attempt, which several lines may report."""


class LimitHit(NamedTuple):
    """A limit of the agent's account is used up."""

    ends_at: object
    """When it is reset, in seconds since the epoch, as printed."""
    name: str = ""


class Failed(NamedTuple):
    """The agent failed; what it printed about that, in its own words."""

    words: str
    status: int | None = None
    """The provider's HTTP status."""
    name: str = ""
    """The name of the error, such as `rate_limit_error`."""


class Ended(NamedTuple):
    """The agent came to its end by itself; `Failed` follows if that is a failure."""

    answer: str | None = None
    """None if its answer is what it said last."""
    total: Amounts | None = None
    """What the whole run used, None if that is the sum of its calls."""
    models: Mapping[str, Amounts] = {}
    """The same by model."""


Event = SessionStarted | Said | UsedTool | ToolResult | Warned | Retrying | Used | Denied | LimitHit | Failed | Ended
