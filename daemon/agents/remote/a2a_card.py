"""The agent card of an A2A agent: which URL to call, in which version, and which header carries the key."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from yarl import URL

from daemon.agents.remote.json_rpc import AnswerError, objects_in

_TRANSPORT = "JSONRPC"
_NO_KEY_HEADERS = {"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection"}


@dataclass(frozen=True)
class Interface:
    """One way to reach an agent."""

    url: str
    version: Literal["1.0", "0.3"]
    tenant: str = ""
    key_header: str | None = None


def interface_of(card: dict[str, Any], url: str, *, has_key: bool = False) -> Interface:
    """Return the newest supported JSON-RPC interface of a card that came from `url`; raise AnswerError if none.

    A key is sent only to the host that the config names.
    """
    found = sorted(_interfaces(card), key=lambda interface: interface.version, reverse=True)
    if not found:
        raise AnswerError("it offers no JSON-RPC interface of A2A version 1 or 0.3")
    best = found[0]
    base = URL(url)
    try:
        place = base.join(URL(best.url))
    except ValueError:
        raise AnswerError(f"it names {best.url[:300]!r}, which is not a URL") from None
    if place.scheme not in {"http", "https"} or (base.scheme == "https" and place.scheme == "http"):
        raise AnswerError(f"it names {best.url[:300]!r}, which is less secure than the card's own URL")
    if has_key and place.host != base.host:
        raise AnswerError(
            f"it names {place.host}, a host that the key is not sent to; if it is right, set url to that host"
        )
    return Interface(str(place), best.version, best.tenant, _key_header(card))


def _interfaces(card: dict[str, Any]) -> Iterator[Interface]:
    """Yield the JSON-RPC interfaces of a card in the format of 1.0 or of 0.3."""
    for entry in objects_in(card.get("supportedInterfaces")):
        if str(entry.get("protocolBinding")).upper() == _TRANSPORT:
            yield from _interface(entry.get("url"), entry.get("protocolVersion", "1.0"), entry.get("tenant"))
    version = card.get("protocolVersion", "0.3")
    if str(card.get("preferredTransport", _TRANSPORT)).upper() == _TRANSPORT:
        yield from _interface(card.get("url"), version, None)
    for entry in objects_in(card.get("additionalInterfaces")):
        if str(entry.get("transport")).upper() == _TRANSPORT:
            yield from _interface(entry.get("url"), version, None)


def _interface(url: object, version: object, tenant: object) -> Iterator[Interface]:
    number = str(version).partition(".")[0]
    if isinstance(url, str) and url and number in {"0", "1"}:
        yield Interface(url, "1.0" if number == "1" else "0.3", tenant if isinstance(tenant, str) else "")


def _key_header(card: dict[str, Any]) -> str | None:
    """Return the header that the card's security scheme names for an API key, None for a bearer token."""
    schemes = card.get("securitySchemes")
    for scheme in schemes.values() if isinstance(schemes, dict) else ():
        if not isinstance(scheme, dict):
            continue
        inner = scheme.get("apiKeySecurityScheme", scheme if scheme.get("type") == "apiKey" else None)
        if isinstance(inner, dict) and inner.get("location", inner.get("in")) == "header":
            name = str(inner.get("name"))
            if re.fullmatch(r"[A-Za-z0-9-]{1,100}", name) and name.lower() not in _NO_KEY_HEADERS:
                return name
    return None
