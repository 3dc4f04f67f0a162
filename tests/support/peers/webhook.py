"""A webhook: it takes what it is sent, or fails or hangs, as the file `$PEER_LOG.mode` says.

`webhook.py PORT`; the log gets a JSON line for each request: method, path, headers, body, and the status it got.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from aiohttp import web

LOG = Path(os.environ["PEER_LOG"])
MODE = LOG.with_name(LOG.name + ".mode")
STATUSES = {"fail": 500, "refuse": 400, "hang": 0}


async def take(request: web.Request) -> web.Response:
    body = await request.text()
    status = STATUSES.get(MODE.read_text() if MODE.exists() else "", 200)
    one = {"method": request.method, "path": request.path, "headers": dict(request.headers), "body": body}
    with LOG.open("a") as log:
        log.write(json.dumps({**one, "status": status}) + "\n")
    if status == 0:
        await asyncio.sleep(3600)
    headers = {"Retry-After": "Mon, 01 Jan 2024 00:00:00 +9999999999999999"} if status != 200 else {}
    return web.Response(status=status, headers=headers)


if __name__ == "__main__":
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", take)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
