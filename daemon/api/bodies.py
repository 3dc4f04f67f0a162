"""Reads the bodies of requests: bounded in size, number and time, and off the event loop if they are large."""

import asyncio
from typing import TypeVar
from weakref import WeakValueDictionary

from aiohttp import HttpVersion11, web
from pydantic import BaseModel

from daemon.api.json_body import parse_document
from daemon.model import LARGEST_BODY

B = TypeVar("B", bound=BaseModel)
_SMALL = 16 * 1024  # bytes that are parsed faster than a thread would begin to
_AT_ONCE = 2  # large bodies of one sender
_TIME = 30.0  # seconds for a body
_CONTINUE = "100-continue"


async def expect(request: web.Request) -> None:
    """Refuse an unknown `Expect`; a body is asked for when it is read (RFC 9110, section 10.1.1)."""
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() != _CONTINUE:
        raise web.HTTPExpectationFailed(text="the only Expect that is understood is 100-continue")


def refuse_encoded(request: web.Request) -> None:
    """Refuse a body that is encoded, which no route decodes."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType(reason="send the body without a Content-Encoding")


class Bodies:
    """The bodies that are being read: two large ones of each sender at once, and one large one is parsed at a time."""

    def __init__(self) -> None:
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._parsing = asyncio.Lock()

    async def read(self, request: web.Request, shape: type[B], sender: str, *, required: bool) -> B:
        """Return the validated body.

        Raise InvalidError for bad JSON, ValidationError for a wrong shape, HTTPException for what is no such body.
        """
        size = request.content_length if request.body_exists else 0
        if size is not None and size > LARGEST_BODY:
            raise web.HTTPRequestEntityTooLarge(LARGEST_BODY, size)
        if size is not None and size <= _SMALL:
            data = await _received(request)
            return _validated(request, data, shape, required=required)
        place = self._places.get(sender)
        if place is None:
            place = self._places[sender] = asyncio.Semaphore(_AT_ONCE)
        async with place:
            data = await _received(request)
            async with self._parsing:
                return await asyncio.to_thread(_validated, request, data, shape, required=required)


async def _received(request: web.Request) -> bytearray:
    """Return the bytes of a body; they are not kept with the request."""
    try:
        async with asyncio.timeout(_TIME):
            if request.headers.get("Expect", "").lower() == _CONTINUE and request.version >= HttpVersion11:
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0  # the response has not begun
            data = bytearray()
            async for chunk in request.content.iter_any():
                data += chunk
                if len(data) > LARGEST_BODY:
                    raise web.HTTPRequestEntityTooLarge(LARGEST_BODY, len(data))
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason=f"the body did not arrive within {_TIME:.0f} s") from None
    return data


def _validated(request: web.Request, data: bytearray, shape: type[B], *, required: bool) -> B:
    if not data and not required:
        return shape()
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(reason="send the body with Content-Type: application/json")
    return shape.model_validate(parse_document(data))
