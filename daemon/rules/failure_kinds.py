"""Tell kinds of failures apart by what agents and their providers say: names, HTTP statuses, exit statuses, words."""

import re
from typing import NamedTuple

from daemon.model import FailureKind

_LONGEST = 4000  # characters that are searched

_BY_EXIT_STATUS = {
    ("gemini", 41): FailureKind.AUTH,
    ("gemini", 44): FailureKind.CONFIG,
    ("gemini", 52): FailureKind.CONFIG,
    ("gemini", 55): FailureKind.CONFIG,
}
"""Exit statuses that a program gives a meaning: gemini-cli has no valid login, sandbox, settings, or trust."""
_BY_NAME = {
    "refusal": FailureKind.REFUSED,
    "authentication_error": FailureKind.AUTH,
    "authentication_failed": FailureKind.AUTH,
    "permission_error": FailureKind.AUTH,
    "invalid_api_key": FailureKind.AUTH,
    "ProviderAuthError": FailureKind.AUTH,
    "rate_limit_error": FailureKind.QUOTA,
    "rate_limit_exceeded": FailureKind.QUOTA,
    "usage_limit_reached": FailureKind.QUOTA,
    "insufficient_quota": FailureKind.QUOTA,
    "overloaded_error": FailureKind.OVERLOADED,
    "server_error": FailureKind.OVERLOADED,
    "model_not_found": FailureKind.CONFIG,
    "ProviderModelNotFoundError": FailureKind.CONFIG,
    "not_found_error": FailureKind.CONFIG,
}
"""Names of errors in what Anthropic, OpenAI and opencode send."""
_BY_HTTP_STATUS = {
    401: FailureKind.AUTH,
    402: FailureKind.QUOTA,
    403: FailureKind.AUTH,
    404: FailureKind.CONFIG,
    408: FailureKind.OVERLOADED,
    429: FailureKind.QUOTA,
    500: FailureKind.OVERLOADED,
    502: FailureKind.OVERLOADED,
    503: FailureKind.OVERLOADED,
    504: FailureKind.OVERLOADED,
    529: FailureKind.OVERLOADED,
}
_SPENT = re.compile(
    r"credit balance|insufficient[ _](?:quota|credits?|funds|balance)|out of credits?|payment required"
    r"|check your plan and billing",
    re.IGNORECASE,
)
_WORDS = {
    FailureKind.QUOTA: (
        r"(?:usage|session|weekly|monthly|spending|rate) ?limit|rate_limit|quota|too many requests|limit reached"
    ),
    FailureKind.OVERLOADED: (
        r"overloaded|at capacity|service unavailable|bad gateway|gateway time-?out|internal server error"
        r"|stream disconnected|connection (?:error|refused|reset|closed)|econn[a-z]+|etimedout|enotfound|eai_again"
        r"|fetch failed|network error|error sending request|socket connection was closed|API Error: terminated"
    ),
    FailureKind.AUTH: (
        r"\(-32000\)|not (?:logged|signed) in|/login|unauthorized|authenticat|oauth|token (?:has |is )?expired"
        r"|forbidden"
        r"|api[ _-]key.{0,40}(?:invalid|missing|expired|required|not (?:valid|found|set))"
        r"|(?:invalid|missing|incorrect|no).{0,20}api[ _-]key"
    ),
    FailureKind.CONFIG: (
        r"unknown (?:option|argument|model)|unexpected argument|unrecognized|requires --|invalid value|no such model"
        r"|model.{0,80}(?:not found|does not exist|not supported)|not .{0,30}trusted directory|no conversation found"
    ),
    FailureKind.REFUSED: r"usage policy|unable to respond to this request|refused to continue|\brefusal\b",
}
"""What programs write of a failure, the first that is found counts; -32000 is how acp agents ask for a login."""
_KINDS = {kind: re.compile(words, re.IGNORECASE) for kind, words in _WORDS.items()}
_STATUS_IN_WORDS = re.compile(r"(?:status(?: code)?|error|code)[ :=(]{1,3}([45]\d\d)\b|\(([45]\d\d)\)", re.IGNORECASE)


class Signs(NamedTuple):
    """What is known of a failure."""

    words: str
    result_format: str = ""
    """Of the program that failed."""
    exit_status: int | None = None
    http_status: int | None = None
    name: str = ""


def kind_of(signs: Signs) -> FailureKind:
    """Return the kind of a failure: what says it most exactly decides."""
    words = signs.words[:_LONGEST]
    by_exit_status = _BY_EXIT_STATUS.get((signs.result_format, signs.exit_status or 0))
    if by_exit_status is not None:
        return by_exit_status
    if is_spent(words):
        return FailureKind.QUOTA
    status = signs.http_status or _status_in(words)
    found = _BY_NAME.get(signs.name) or _BY_HTTP_STATUS.get(status or 0)
    if found is not None:
        return found
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(words)), FailureKind.FAILED)


def is_spent(words: str) -> bool:
    """Return whether a failure's words say that the account has no credit left, which no waiting mends."""
    return _SPENT.search(words[:_LONGEST]) is not None


def _status_in(words: str) -> int | None:
    """Return the HTTP status in a failure's words, None if there is none."""
    found = _STATUS_IN_WORDS.search(words)
    return int(found[1] or found[2]) if found else None
