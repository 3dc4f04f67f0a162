"""Parts of the daemon, put together in the test's own process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from daemon.access import Access
from daemon.agents.factory import Agents
from daemon.agents.process.launcher import Nursery
from daemon.config.live import LiveConfig
from daemon.config.schema import Config
from daemon.http_client import open_session
from daemon.notify.outbox import Outbox
from daemon.runs.control import RunControl
from daemon.runs.fetches import Fetches
from daemon.runs.hook_tokens import HookTokens
from daemon.runs.pipeline import Pipeline
from daemon.runs.queue import Queue
from daemon.runs.withdrawal import Withdrawals
from daemon.store.database import Database
from daemon.store.home import Home
from daemon.units import utc_now
from daemon.workspaces.mirror_use import MirrorUse

NO_NOTIFICATIONS = Outbox(LiveConfig(Config()))


@asynccontextmanager
async def queue_on(database: Database, folder: Path, config: Config) -> AsyncIterator[Queue]:
    """Give a queue that serves a database as the daemon's does."""
    home, live, nursery = Home(database, folder, "instance", utc_now()), LiveConfig(config), Nursery()
    async with open_session() as session, asyncio.TaskGroup() as tasks:
        agents, control = Agents(nursery, None, session, 0o077), RunControl()
        fetches = Fetches(folder, MirrorUse(), tasks)
        hooks, outbox = HookTokens(b""), Outbox(live)
        pipeline = Pipeline(home, live, agents, hooks, Access(live), outbox, control, fetches)
        withdrawals = Withdrawals(home, live, agents, hooks, control)
        queue = Queue(home, live, pipeline, withdrawals, control, fetches, outbox, tasks)
        serving = tasks.create_task(queue.serve())
        try:
            yield queue
        finally:
            serving.cancel()
            queue.abandon()
    await nursery.close()
