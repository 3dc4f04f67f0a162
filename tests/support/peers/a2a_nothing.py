"""An A2A agent with its card at the old place, whose answers hold nothing or odd parts: `a2a_nothing.py PORT`."""

import sys

from aiohttp import web


async def card(request: web.Request) -> web.Response:
    interface = {"url": f"http://{request.host}/", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    return web.json_response({"name": "nothing", "supportedInterfaces": [interface]})


async def answer(request: web.Request) -> web.Response:
    body = await request.json()
    words = body["params"]["message"]["parts"][0]["text"]
    result = {"message": {"parts": [None, 5]}} if words == "parts" else None
    return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": result})


if __name__ == "__main__":
    app = web.Application()
    app.router.add_get("/.well-known/agent.json", card)
    app.router.add_post("/", answer)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
