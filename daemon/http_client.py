"""HTTP calls to peers that may be slow, broken or hostile: redirects, answers and waits are bounded."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

import aiohttp
from yarl import URL

from daemon.http_connection import PeerConnection, TooMuchFramingError
from daemon.turns import Turns
from daemon.version import VERSION

TO_HEADERS = 120.0  # seconds from connecting to the response headers
LARGEST_BODY = 16 * 1024 * 1024
_LONGEST_HEADER = 32 * 1024  # bytes
_MOST_HEADERS = 256
_LARGEST_COMPLAINT = 2048  # bytes of an error's body that are read
_SHOWN = 2000  # characters of a header in errors, which are cut to less once secrets are masked
_LINES_AT_ONCE = 50
_LOOKUPS_AT_ONCE = 8
_COMPLAINT_WAIT = 5.0  # seconds to wait for the body of an error
_MOST_REDIRECTS = 5
_FOLLOWED = {301, 302, 307, 308}  # with the same method and body; 303 would change the method to GET (RFC 9110)
_MOMENTARY = {408, 425, 429}
_LONGEST_WAIT = timedelta(days=36_500)
_SHORTEST_SECRET = 8  # characters of a part of a URL; a shorter one would be found in ordinary words


class CallError(Exception):
    """A call failed; the text says why."""

    def __init__(
        self,
        text: str,
        *,
        may_pass: bool = False,
        wait: timedelta | None = None,
        status: int | None = None,
        is_malformed: bool = False,
        was_refused: bool = False,
    ) -> None:
        super().__init__(text)
        self.was_refused = was_refused
        """Whether the peer certainly did not begin what was asked: there was no connection, or its status says so."""
        self.is_malformed = is_malformed
        """Whether there was an answer that is not valid HTTP: the peer may have done what was asked."""
        self.status = status
        """The status of the HTTP answer, if there was one."""
        self.may_pass = may_pass
        """Whether the same call may succeed later."""
        self.wait = wait
        """How long the peer asks to wait before the next attempt (`Retry-After`)."""


@dataclass(frozen=True)
class HttpCall:
    """One request to a peer."""

    name: str
    """What errors call it."""
    url: str
    body: bytes | None = None
    """The body of a POST; None for a GET."""
    headers: Mapping[str, str] = field(default_factory=dict)
    to_headers: float | None = None
    """Seconds from connecting to the response headers; None for the default."""
    may_be_absent: bool = False
    """Whether a 404 is an answer, so that it does not count as a failed attempt."""


def open_session() -> aiohttp.ClientSession:
    """Return a session that opens a new connection for each call, so that stale data is never taken for an answer.

    It keeps no cookies and does not decompress. Its connections share a part of each turn of the event loop.
    """
    connector = aiohttp.TCPConnector(limit=0, force_close=True, resolver=_Resolver())
    connector._factory = partial(PeerConnection, partial(Turns().do, urgent=False))  # type: ignore[assignment]  # noqa: SLF001 - no public way
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        max_line_size=_LONGEST_HEADER,
        max_field_size=_LONGEST_HEADER,
        max_headers=_MOST_HEADERS,
        headers={"User-Agent": f"agentcron/{VERSION}", "Accept-Encoding": "identity"},
    )


class _Resolver(aiohttp.ThreadedResolver):
    """Resolves names in its own threads, so that slow look-ups do not block other work of the daemon."""

    def __init__(self) -> None:
        super().__init__()
        self._threads = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, "agentcron-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """Return the addresses of a host; raise OSError if it cannot be resolved."""
        look_up = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        return [
            aiohttp.abc.ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Stop the threads without waiting for look-ups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Reply:
    """A 2xx answer whose headers have arrived."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        _end_with_connection(response)
        self.status = response.status
        self.content_type = response.content_type

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; raise CallError if it breaks off, is too large or is compressed.

        Compression was not requested, and a small body may decompress to any size.
        """
        encoding = self._response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in {"", "identity"}:
            raise CallError(f"the answer is encoded as {encoding[:_SHOWN]}, which was not requested")
        size = 0
        async for chunk in _until_error(self._response.content):
            if isinstance(chunk, Exception):
                malformed = isinstance(chunk, (_MalformedError, TooMuchFramingError))
                text = str(chunk) if malformed else f"the answer broke off: {_describe(chunk)}"
                raise CallError(text, may_pass=True, is_malformed=malformed) from None
            size += len(chunk)
            if size > LARGEST_BODY:
                raise CallError(f"the answer is larger than {LARGEST_BODY // 1024**2} MiB")
            yield chunk

    async def lines(self) -> AsyncIterator[list[bytes]]:
        """Yield the non-empty lines of the body as they arrive, up to 50 at once; raise CallError as `chunks` does.

        Other tasks run in between, however many lines arrive at once.
        """
        partial_line: list[bytes] = []
        async for chunk in self.chunks():
            first, *others = chunk.split(b"\n")
            partial_line.append(first)
            if not others:
                continue
            whole, partial_line = b"".join(partial_line), [others.pop()]
            batches = (others[at : at + _LINES_AT_ONCE] for at in range(0, len(others), _LINES_AT_ONCE))
            for lines in ([whole], *batches):  # the first one may be long, and comes alone
                if arrived := [line for line in lines if line.strip()]:
                    yield arrived
                await asyncio.sleep(0)
        if last := b"".join(partial_line).strip():
            yield [last]

    async def read(self) -> bytes:
        """Return the whole body; raise CallError as `chunks` does."""
        return b"".join([chunk async for chunk in self.chunks()])


class _MalformedError(aiohttp.ClientPayloadError):
    """The body of an answer is not valid HTTP."""


def _end_with_connection(response: aiohttp.ClientResponse) -> None:
    """Let the body of a response end with its connection.

    At a malformed chunk, aiohttp closes the connection, but whoever reads the body would wait forever.
    """
    content, connection = response.content, response.connection
    protocol = None if connection is None else connection.protocol
    if protocol is None:
        return
    closed = protocol.closed

    def end(_: object = None) -> None:
        if closed is not None and not closed.cancelled():
            closed.exception()  # else asyncio complains that nobody asked for it
        if not content.is_eof() and content.exception() is None:
            reason = protocol.exception()
            content.set_exception(_MalformedError(_not_http(getattr(reason, "message", "") or "its body is malformed")))

    if closed is None:
        end()
    else:
        closed.add_done_callback(end)


async def _until_error(content: aiohttp.StreamReader) -> AsyncIterator[bytes | Exception]:
    """Yield a body as it arrives, and at last the error that ended it, if there was one."""
    try:
        async for chunk in content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError) as error:
        rest = content._read_nowait(-1)  # noqa: SLF001 - the public ways lose what came together with the error
        if rest:
            yield rest
        yield error


@contextlib.asynccontextmanager
async def calling(session: aiohttp.ClientSession, call: HttpCall) -> AsyncIterator[Reply]:
    """Make a call and yield the reply once its headers are there; raise CallError without a 2xx reply."""
    response = await _headers(session, call)
    try:
        if not HTTPStatus.OK <= response.status < HTTPStatus.MULTIPLE_CHOICES:
            raise await _refusal(response)
        yield Reply(response)
    finally:
        response.close()


async def _headers(session: aiohttp.ClientSession, call: HttpCall) -> aiohttp.ClientResponse:
    seconds = TO_HEADERS if call.to_headers is None else call.to_headers
    try:
        async with asyncio.timeout(seconds):
            return await _followed(session, call)
    except TimeoutError:
        raise CallError(f"no answer within {seconds:.0f} s", may_pass=True) from None
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise CallError(f"not a URL that can be called: {error}") from None
    except (aiohttp.ClientError, OSError) as error:
        is_malformed = isinstance(error, (aiohttp.ClientResponseError, TooMuchFramingError))
        was_refused = isinstance(error, aiohttp.ClientConnectorError)
        raise CallError(_describe(error), may_pass=True, is_malformed=is_malformed, was_refused=was_refused) from None
    except ValueError as error:  # a value that a header cannot hold, such as a key of several lines
        raise CallError(f"the call cannot be made: {error}") from None


async def _followed(session: aiohttp.ClientSession, call: HttpCall) -> aiohttp.ClientResponse:
    """Return the response after following redirects within the same scheme, host and port."""
    url = URL(call.url)
    for _ in range(_MOST_REDIRECTS + 1):
        method = "GET" if call.body is None else "POST"
        response = await session.request(method, url, data=call.body, headers=call.headers, allow_redirects=False)
        place = response.headers.get("Location")
        if response.status not in _FOLLOWED or place is None:
            return response
        response.close()
        url = _within(url, place)
    raise CallError(f"redirected more than {_MOST_REDIRECTS} times")


def _within(url: URL, place: str) -> URL:
    """Return where a redirect leads to; raise CallError if that is elsewhere."""
    try:
        target = url.join(URL(place))
        same = target.origin() == url.origin()
    except ValueError:
        same = False
    if not same:
        raise CallError(
            f"redirected to {place[:_SHOWN]}, another scheme or host; write that into the config if it is right"
        )
    return target


async def _refusal(response: aiohttp.ClientResponse) -> CallError:
    """Return the error for a status other than 2xx, with the beginning of the response's body."""
    status = response.status
    body = b""
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(_COMPLAINT_WAIT):
            body = await response.content.read(_LARGEST_COMPLAINT)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        body = b""
    words = " ".join(body.decode(errors="replace").split())
    text = f"HTTP {status} {response.reason or ''}".strip() + (f": {words}" if words else "")
    may_pass = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _MOMENTARY
    wait = _retry_after(response.headers.get("Retry-After"))
    # 503 without a wait may come from a proxy that lost the connection to the agent
    was_refused = status in _MOMENTARY or (status == HTTPStatus.SERVICE_UNAVAILABLE and wait is not None)
    return CallError(text, may_pass=may_pass, wait=wait, status=status, was_refused=was_refused)


def secrets_of_url(url: str) -> list[str]:
    """Return what must not be shown of a URL that is a secret itself, as that of a webhook: the URL and its parts.

    Peers quote any of them, percent-encoded or not: the path, one segment of it, the query, a value in it, the user.
    """
    pieces = {url}
    for normalized in (str, URL):
        with contextlib.suppress(ValueError):  # what is not a URL has no parts
            form = str(normalized(url))
            parts = urlsplit(form)
            pieces |= {form, parts.path, *parts.path.split("/"), parts.username or "", parts.password or ""}
            pieces |= {parts.query, *(pair.partition("=")[2] for pair in parts.query.split("&"))}
    pieces |= {unquote(piece) for piece in pieces}
    return sorted(piece for piece in pieces if len(piece) >= _SHORTEST_SECRET)


def _retry_after(text: str | None) -> timedelta | None:
    """Return the wait that a `Retry-After` header asks for, in seconds or as a date (RFC 9110, 10.2.3)."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text)), _LONGEST_WAIT) if len(text) < 12 else _LONGEST_WAIT  # noqa: PLR2004
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max(timedelta(0), until - datetime.now(UTC)), _LONGEST_WAIT)


def _describe(error: BaseException) -> str:
    """Describe a network error for people."""
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.strerror or str(error.os_error)
        return f"cannot connect to {error.host}:{error.port}: {reason}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before an answer came"
    if isinstance(error, aiohttp.ClientResponseError):
        return _not_http(error.message)
    return str(error) or type(error).__name__


def _not_http(reason: str) -> str:
    return f"the answer is not valid HTTP: {reason.strip().partition(chr(10))[0].rstrip(':')}"
