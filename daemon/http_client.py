"""One HTTP call to a peer that may be slow, broken or hostile: no redirect elsewhere, no endless answer, no bomb."""

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

import aiohttp
from yarl import URL

from daemon import __version__

TO_HEADERS = 120.0  # seconds from connecting to the response headers
LARGEST_BODY = 16 * 1024 * 1024
_LARGEST_COMPLAINT = 2048  # bytes of an error's body that are looked at
_SHOWN = 300  # characters of a header that are shown
_LINES_AT_ONCE = 100
_LOOKUPS_AT_ONCE = 8
_COMPLAINT_WAIT = 5.0  # seconds
_MOST_REDIRECTS = 5
_FOLLOWED = {301, 302, 307, 308}  # with the same method and body; 303 asks for another request than ours (RFC 9110)
_MOMENTARY = {408, 425, 429}
_LONGEST_WAIT = timedelta(days=36_500)


class CallError(Exception):
    """A call did not bring an answer; the text says why."""

    def __init__(
        self, text: str, *, may_pass: bool = False, wait: timedelta | None = None, status: int | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        """Of the HTTP answer, if there was one."""
        self.may_pass = may_pass
        """Whether the same call may succeed later."""
        self.wait = wait
        """How long the peer asks to wait before that (`Retry-After`)."""


@dataclass(frozen=True)
class HttpCall:
    """What is asked of a peer."""

    name: str
    """What it is, in words."""
    url: str
    body: bytes | None = None
    """What is posted; None for a GET."""
    headers: Mapping[str, str] = field(default_factory=dict)
    to_headers: float | None = None
    """Seconds that the peer has until its answer begins; None for the usual time."""


def open_session() -> aiohttp.ClientSession:
    """Return a session for calls: each has a connection of its own, so that no leftover is taken for an answer.

    It keeps no cookies and inflates nothing by itself.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True, resolver=_Resolver()),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        headers={"User-Agent": f"agentcron/{__version__}", "Accept-Encoding": "identity"},
    )


class _Resolver(aiohttp.ThreadedResolver):
    """Looks names up in threads of its own: slow look-ups hold up no other work of the daemon."""

    def __init__(self) -> None:
        super().__init__()
        self._threads = ThreadPoolExecutor(_LOOKUPS_AT_ONCE, "agentcron-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """Return the addresses of a host; raise OSError."""
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
        """Wait for no look-up any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Reply:
    """The answer to a call, its headers read and its status 2xx."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.content_type = response.content_type

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes; raise CallError if it breaks off, is too large or cannot be understood.

        A body that is encoded though nobody asked for that is not looked at: inflating may cost any time and room.
        """
        encoding = self._response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in {"", "identity"}:
            raise CallError(f"its answer is encoded as {encoding[:_SHOWN]}, which nobody asked for")
        size = 0
        try:
            async for chunk in self._response.content.iter_any():
                size += len(chunk)
                if size > LARGEST_BODY:
                    raise CallError(f"its answer is larger than {LARGEST_BODY // 1024**2} MiB")
                yield chunk
        except (aiohttp.ClientError, OSError) as error:
            raise CallError(f"its answer broke off: {_told(error)}", may_pass=True) from None

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the lines of the body that are not empty, as they come; raise CallError.

        Others get their turn in between, however many lines come at once.
        """
        begun: list[bytes] = []
        async for chunk in self.chunks():
            first, *others = chunk.split(b"\n")
            begun.append(first)
            for number, other in enumerate(others):
                line = b"".join(begun)
                begun = [other]
                if line.strip():
                    yield line
                if number % _LINES_AT_ONCE == 0:
                    await asyncio.sleep(0)
        if last := b"".join(begun).strip():
            yield last

    async def read(self) -> bytes:
        """Return the whole body; raise CallError."""
        return b"".join([chunk async for chunk in self.chunks()])


@contextlib.asynccontextmanager
async def calling(session: aiohttp.ClientSession, call: HttpCall) -> AsyncIterator[Reply]:
    """Make a call and give the reply once its headers are there; raise CallError if there is none, or it is no 2xx."""
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
        raise CallError(_told(error), may_pass=True) from None
    except ValueError as error:  # what a header of ours cannot hold, such as a key of several lines
        raise CallError(f"the call cannot be made: {error}") from None


async def _followed(session: aiohttp.ClientSession, call: HttpCall) -> aiohttp.ClientResponse:
    """Return the response, after redirects within the same scheme, host and port."""
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
    """Return what a status other than 2xx means, with the beginning of what the peer says of it."""
    status = response.status
    said = b""
    with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(_COMPLAINT_WAIT):
            said = await response.content.read(_LARGEST_COMPLAINT)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        said = b""
    words = " ".join(said.decode(errors="replace").split())
    text = f"HTTP {status} {response.reason or ''}".strip() + (f": {words}" if words else "")
    may_pass = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _MOMENTARY
    return CallError(text, may_pass=may_pass, wait=_retry_after(response.headers.get("Retry-After")), status=status)


def _retry_after(text: str | None) -> timedelta | None:
    """Return the wait that a header `Retry-After` asks for: seconds or a date (RFC 9110, 10.2.3)."""
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
    return max(timedelta(0), until - datetime.now(UTC))


def _told(error: BaseException) -> str:
    """Return an error of the network in words."""
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = error.strerror or str(error.os_error)
        return f"cannot connect to {error.host}:{error.port}: {reason}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection was closed before an answer came"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"its answer is no proper HTTP: {error.message.partition(chr(10))[0].rstrip(':')}"
    return str(error) or type(error).__name__
