"""The daemon's process: it reads the config, opens the log, and runs the service until that ends."""

import asyncio
import faulthandler
import os
import sys
from pathlib import Path

import structlog

from daemon.cli.locate import read_config
from daemon.cli.memory import collect_normally, share_heap
from daemon.cli.privileges import become_owner, enter_home
from daemon.config.paths import state_dir
from daemon.config.schema import Config
from daemon.errors import AgentcronError, ConfigError
from daemon.lifecycle.service import serve
from daemon.log import Log, configure_log
from daemon.problems import damage_in


def run_daemon(file: Path | None, *, accept_data_loss: bool) -> None:
    """Run the daemon by a config file, None for the usual places; raise AgentcronError if it cannot start.

    If the config is why, the error also says how to start by the last one that worked.
    """
    try:
        _run_daemon(file, accept_data_loss=accept_data_loss)
    except ConfigError as error:
        from daemon.cli.last_config import how_to_start

        last = how_to_start(file)
        raise ConfigError([*error.problems, *([] if last is None else [last])]) from None


def _run_daemon(file: Path | None, *, accept_data_loss: bool) -> None:
    collect_normally()
    share_heap()
    config = read_config(file)
    user = become_owner(state_dir(config))
    if user is not None:
        enter_home(config)
    path = config.resolve(config.log.file) if config.log.file is not None else None
    try:
        log = configure_log(config.log.level, config.log.format, path)
    except OSError as error:
        raise ConfigError([f"{config.file}: log.file: cannot open {path}: {error.strerror}"]) from None
    if user is not None:
        structlog.get_logger().info(
            "[daemon] Running as the user whom the state directory belongs to, not as root", user=user
        )
    faulthandler.enable()  # a watchdog's SIGABRT shows where the daemon hung
    try:
        _serve(config, log, accept_data_loss=accept_data_loss)
    finally:
        log.file.close()


def _serve(config: Config, log: Log, *, accept_data_loss: bool) -> None:
    try:
        asyncio.run(serve(config, log, accept_data_loss=accept_data_loss))
    except AgentcronError:
        raise
    except Exception as error:
        logger = structlog.get_logger()
        damage = damage_in(error)
        if damage is not None:
            logger.error(  # noqa: TRY400 - the reason says enough, without a traceback
                "[daemon] Stopping: the database is damaged", reason=str(damage)
            )
        else:
            logger.exception("[daemon] Fatal error. Running agents continue; the next start will adopt them")
        sys.stdout.flush()
        log.file.close()
        os._exit(1)  # threads that wait for the stopped loop must not keep the process alive
