"""What becomes of what a command prints, without a daemon: the files of its supervisor, and the outcome."""

from dataclasses import fields
from pathlib import Path

from daemon.agents.base import Outcome, RunSettings, Work
from daemon.agents.process.agent_report import read_report
from daemon.agents.process.outcome import outcome_of
from daemon.agents.process.records import ExitRecord
from daemon.agents.process.supervisor.listener import Listener
from daemon.agents.process.supervisor.mask import Secrets


def printed(
    folder: Path, output: bytes, result_format: str, errors: bytes = b"", secrets: tuple[str, ...] = ()
) -> Listener:
    """Write what is learnt of a command that printed this, in pieces as they come through a pipe."""
    listener = Listener(result_format)
    for data, is_error in ((output, False), (errors, True)):
        for start in range(0, len(data), 64 * 1024):
            listener.hear(data[start : start + 64 * 1024], is_error=is_error)
    listener.save(str(folder), Secrets(secrets))
    return listener


def outcome_of_printed(
    folder: Path, output: bytes, settings: RunSettings, errors: bytes = b"", **record: object
) -> Outcome:
    """Return the outcome of a command that printed this; `record` says how it ended, by default with 0."""
    listener = printed(folder, output, settings.result_format, errors)
    known = {"reason": "exited", "exit_code": 0, "at": 1_796_000_000.0, "oom_kills": 0, "left_over": 0}
    known["last_line"] = listener.last_line(Secrets(()))
    ended = ExitRecord(**{**dict.fromkeys(field.name for field in fields(ExitRecord)), **known, **record})  # type: ignore[arg-type]
    work = Work(*(1, "run", "a", "s", "", 1, "manual", "key", "user", "", {}, {}, ""), folder, folder, settings)
    return outcome_of(ended, None, read_report(folder, settings.result_format, Secrets(())), work)
