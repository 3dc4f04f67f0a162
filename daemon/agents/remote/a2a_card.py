"""The agent card of an A2A agent: which URL to call, in which version, and which header carries the key."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from yarl import URL

from daemon.agents.remote.json_rpc import AnswerError, objects_in

_TRANSPORT = "JSONRPC"
KEY_HEADERS = (
    "Authorization",
    "X-API-Key",
    "API-Key",
    "ApiKey",
    "X-Agent-API-Key",
    "X-API-Token",
    "X-Access-Token",
    "X-Auth-Token",
    "X-Functions-Key",
    "X-Goog-API-Key",
    "Ocp-Apim-Subscription-Key",
)
"""The headers that a card may choose for the key; another one could change what the request means to a server."""
_ALLOWED = {name.lower() for name in KEY_HEADERS}
_LONGEST_URL = 2000  # characters
_LONGEST_TENANT = 500  # characters; it is kept with the run and sent in every call
_MOST = 100  # interfaces, and security schemes, that are looked at
_SHOWN = 200  # characters of a header's name in an error


@dataclass(frozen=True)
class Interface:
    """One way to reach an agent."""

    url: str
    version: Literal["1.0", "0.3"]
    tenant: str = ""
    key_header: str | None = None


def interface_of(card: dict[str, Any], url: str, *, has_key: bool = False) -> Interface:
    """Return the newest supported JSON-RPC interface of a card that came from `url`; raise AnswerError if none.

    A key is sent only to the scheme, host and port that the config names, and only in one of `KEY_HEADERS`.
    """
    found = sorted(_interfaces(card), key=lambda interface: interface.version, reverse=True)
    if not found:
        raise AnswerError("it offers no JSON-RPC interface of A2A version 1 or 0.3")
    best = found[0]
    if len(best.tenant) > _LONGEST_TENANT:
        raise AnswerError(f"it names a tenant of more than {_LONGEST_TENANT} characters")
    base, place = URL(url), _joined(url, best.url)
    if place.scheme not in {"http", "https"} or (base.scheme == "https" and place.scheme == "http"):
        raise AnswerError(f"it names {best.url!r}, which is less secure than the card's own URL")
    if has_key and (place.scheme, place.host, place.port) != (base.scheme, base.host, base.port):
        raise AnswerError(
            f"it names {place.origin()}, to which the key is not sent: the config names {base.origin()}; "
            "if it is right, set url to it"
        )
    return Interface(str(place), best.version, best.tenant, _key_header(card, has_key=has_key))


def _joined(url: str, named: str) -> URL:
    """Return the URL that a card names, which may be relative to the card's own; raise AnswerError if it is none."""
    if len(named) > _LONGEST_URL:
        raise AnswerError(f"it names a URL of more than {_LONGEST_URL} characters")
    try:
        place = URL(url).join(URL(named))
        if place.scheme in {"http", "https"}:
            place.origin()  # raises if there is no host, or a port that cannot be one
    except (ValueError, TypeError):
        raise AnswerError(f"it names {named!r}, which is not a URL") from None
    return place


def _interfaces(card: dict[str, Any]) -> Iterator[Interface]:
    """Yield the JSON-RPC interfaces of a card in the format of 1.0 or of 0.3."""
    for entry in objects_in(card.get("supportedInterfaces"), _MOST):
        if _is_json_rpc(entry.get("protocolBinding")):
            yield from _interface(entry.get("url"), entry.get("protocolVersion", "1.0"), entry.get("tenant"))
    version = card.get("protocolVersion", "0.3")
    if _is_json_rpc(card.get("preferredTransport", _TRANSPORT)):
        yield from _interface(card.get("url"), version, None)
    for entry in objects_in(card.get("additionalInterfaces"), _MOST):
        if _is_json_rpc(entry.get("transport")):
            yield from _interface(entry.get("url"), version, None)


def _is_json_rpc(binding: object) -> bool:
    return isinstance(binding, str) and len(binding) == len(_TRANSPORT) and binding.upper() == _TRANSPORT


def _interface(url: object, version: object, tenant: object) -> Iterator[Interface]:
    number = str(version).partition(".")[0] if isinstance(version, str | int | float) else ""
    if isinstance(url, str) and url and number in {"0", "1"}:
        yield Interface(url, "1.0" if number == "1" else "0.3", tenant if isinstance(tenant, str) else "")


def _key_header(card: dict[str, Any], *, has_key: bool) -> str | None:
    """Return the header that the card's security scheme names for an API key, None for a bearer token.

    Raise AnswerError if there is a key and the card accepts it only in headers that are not in `KEY_HEADERS`.
    """
    schemes = card.get("securitySchemes")
    schemes = list(islice(schemes.values(), _MOST)) if isinstance(schemes, dict) else []
    names = [name for name in map(_header_of, schemes) if name is not None]
    allowed = next((name for name in names if name.lower() in _ALLOWED), None)
    if allowed is None and has_key and names and len(names) == len(schemes):
        raise AnswerError(
            f"it wants the key in the header {names[0][:_SHOWN]!r}; "
            f"a key is sent only in one of {', '.join(KEY_HEADERS)}"
        )
    return allowed


def _header_of(scheme: object) -> str | None:
    """Return the header that a security scheme names for an API key, None for a scheme of another kind."""
    if not isinstance(scheme, dict):
        return None
    inner = scheme.get("apiKeySecurityScheme", scheme if scheme.get("type") == "apiKey" else None)
    if not isinstance(inner, dict) or inner.get("location", inner.get("in")) != "header":
        return None
    name = inner.get("name")
    return name if isinstance(name, str) else ""
