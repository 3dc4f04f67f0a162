"""JSON from clients, parsed strictly, and JSON to them; and the headers that carry versions."""

import json
import re
from collections.abc import Mapping
from typing import Any

from daemon.agents.process.supervisor.untrusted_json import UntrustedJsonError, check_bounds
from daemon.errors import InvalidError

_MOST_VALUES = 50_000  # elements and members of one body: to parse as many members blocks all threads for 0.1 s
_DEEPEST = 200  # levels of nesting
_LONGEST_NUMBER = 100  # characters
_ETAG = re.compile(r'(W/)?"([^"]*)"')


def parse_document(data: bytes | bytearray) -> Any:  # noqa: ANN401 - any JSON value
    """Return the JSON value of a body; raise InvalidError if RFC 8259 forbids it, or for one that costs too much."""
    try:
        check_bounds(data, _DEEPEST, _MOST_VALUES)
        document = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=lambda text: int(_short(text)),
            parse_float=lambda text: float(_short(text)),
        )
        json.dumps(document, ensure_ascii=False, allow_nan=False).encode()  # no infinities, no half characters
    except UntrustedJsonError as error:
        raise InvalidError(f"the body {error}; send less at once") from None
    except RecursionError:  # not at this depth, unless the caller itself is deep
        raise InvalidError("the body is nested too deeply") from None
    except UnicodeError:
        raise InvalidError("the body is not valid UTF-8 text") from None
    except ValueError as error:
        raise InvalidError(f"the body is not valid JSON: {error}") from None
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return document


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _short(number: str) -> str:
    if len(number) > _LONGEST_NUMBER:
        raise ValueError(f"a number has more than {_LONGEST_NUMBER} characters; send it as a string")
    return number


def to_json(body: Mapping[str, object]) -> str:
    """Return the text of a JSON answer."""
    return json.dumps(body, ensure_ascii=False)


def versions_of(header: str | None) -> frozenset[int] | None:
    """Return the versions that `If-Match` allows, None if any will do (RFC 9110, section 13.1.1)."""
    if header is None or header.strip() == "*":
        return None
    tags = [tag for weak, tag in _ETAG.findall(header) if not weak]  # the comparison is the strong one
    return frozenset(int(tag) for tag in tags if tag.isascii() and tag.isdigit() and len(tag) < 20)  # noqa: PLR2004


def etag(version: int) -> str:
    """Return the entity tag of a version."""
    return f'"{version}"'
