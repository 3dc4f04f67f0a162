"""What is reported of a delivery that failed: why, in brief, and nothing of a URL that is as good as a password."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from daemon.http_client import HttpCall, open_session
from daemon.notify.post import NotSentError, post, run_command

LAST = "xoxb+4f9c/1d77é"
PATH = f"/services/T0/{LAST.replace('/', '%2F')}"


def answer_to(request: web.Request) -> web.Response:
    """Quote the request's URL in the way that its query asks for, in an error or in a redirect to elsewhere."""
    how = request.query["how"]
    quoted = {
        "decoded": LAST,
        "encoded": request.rel_url.raw_path,
        "query": request.rel_url.raw_query_string,
        "value": request.query["token"],
        "late": "x" * 260 + LAST,
        "long": "no such hook " * 100,
    }
    if how == "away":
        return web.Response(status=302, headers={"Location": f"https://elsewhere.example{request.raw_path}"})
    return web.Response(status=404, text=f"cannot POST {quoted[how]}")


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """The address of a webhook that quotes the URLs it is called with."""

    async def handle(request: web.Request) -> web.Response:
        return answer_to(request)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """The session that the daemon uses."""
    async with open_session() as opened:
        yield opened


@pytest.mark.parametrize("how", ["decoded", "encoded", "query", "value", "late", "long", "away"])
async def test_a_failed_delivery_is_reported_in_brief_and_without_the_url(
    site: str, session: aiohttp.ClientSession, how: str
) -> None:
    call = HttpCall("notification", f"http://{site}{PATH}?how={how}&token=a%2Fsecret%20token", b"{}")
    with pytest.raises(NotSentError) as raised:
        await post(session, call)
    reason = str(raised.value)
    assert reason.startswith("redirected to https://elsewhere.example***" if how == "away" else "HTTP 404 Not Found")
    assert ("***" in reason) == (how != "long")
    assert len(reason) <= 300
    for part in ("xoxb", "4f9c", "1d77", "secret"):
        assert part not in reason


@pytest.mark.parametrize("url", ["http://us:pass-word@/{}", "http://host.invalid:99999/{}"])
async def test_a_url_that_cannot_be_called_is_not_quoted(session: aiohttp.ClientSession, url: str) -> None:
    with pytest.raises(NotSentError) as raised:
        await post(session, HttpCall("ping", url.format("a-secret-path")))
    assert "pass-word" not in str(raised.value)
    assert "a-secret-path" not in str(raised.value)


async def test_a_url_in_the_arguments_of_a_command_is_masked_in_what_the_command_prints() -> None:
    script = 'echo "cannot reach $2 at $(basename "$2")" >&2; exit 7'
    with pytest.raises(NotSentError, match=r"ended with status 7: cannot reach \*\*\* at \*\*\*$"):
        async with asyncio.timeout(60):
            await run_command(["sh", "-c", script, "page", "x://[", f"https://hooks.example{PATH}"], b"{}")


async def test_the_input_of_a_command_is_no_pipe_that_breaks_if_nobody_reads_it() -> None:
    text = b"x" * 3_000_000
    await run_command(["sh", "-c", 'test ! -p /dev/stdin && test "$(wc -c)" = 3000000'], text)
    await run_command(["sh", "-c", "exec <&-"], text)
