"""What the supervisor of a run learns from the output of its command: the last line, and in a known format the rest.

It gets masked output. What it learnt in a format goes into two files in the run's folder: what is known of the run, and
all that the agent answered.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from .files import open_anew
from .mask import Secrets

if TYPE_CHECKING:
    from ..formats.reader import Reader

REPORT = "report.json"
"""The file with what is known of the run (`formats.report.Report.summary`), and a `fault` if reading it failed."""
ANSWER = "answer.txt"
"""The file with all that the agent answered; empty if it answered nothing."""
_KEPT = 4096  # bytes of the end of each stream
_LONGEST_LINE = 500  # bytes; in a record of the status file, where JSON may double them
_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])")  # ECMA-48
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


class Listener:
    """Listens to the output of one command."""

    def __init__(self, result_format: str) -> None:
        """Listen; the output is in a known format, unless that is `none`."""
        self.tells_errors_apart = result_format != "none"
        """Whether the standard error is to be heard by itself; else both are one stream, which keeps their order."""
        self._ends = {False: b"", True: b""}  # of the output, and of the standard error
        self._reader: Reader | None = None
        self._fault: str | None = None
        if self.tells_errors_apart:
            self._guarded(lambda: self._open(result_format))

    def _open(self, result_format: str) -> None:
        from ..formats.reader import Reader  # noqa: PLC0415 - most runs are in no format, and pay nothing for them

        self._reader = Reader(result_format)

    def hear(self, shown: bytes, *, is_error: bool) -> None:
        """Take the next bytes of the standard output, or of the standard error."""
        end = shown if len(shown) >= _KEPT else self._ends[is_error] + shown
        self._ends[is_error] = end[-_KEPT:]
        reader = self._reader
        if reader is not None and self._fault is None:
            self._guarded(lambda: reader.feed_errors(shown) if is_error else reader.feed(shown))

    def _guarded(self, read: Callable[[], None]) -> None:
        """Let no fault in what reads a format end the run; what was known before it remains."""
        try:
            read()
        except Exception as error:  # noqa: BLE001 - as said above
            self._fault = f"{type(error).__name__}: {error}"

    def last_line(self, secrets: Secrets) -> str | None:
        """Return the last line that is not empty, of the standard error if there is one, for people; None without."""
        for end in (self._ends[True], self._ends[False]):
            lines = _SEQUENCES.sub("", end.decode(errors="replace")).replace("\r", "\n").split("\n")
            shown = [text for line in lines if (text := _CONTROLS.sub(" ", line).strip())]
            if shown:
                return _cut(secrets.masked(shown[-1]), _LONGEST_LINE)
        return None

    def answer(self) -> str:
        """Return what the agent answered once its output has ended; empty without an answer, and in no known format."""
        if self._reader is None:
            return ""
        self._finish()
        return self._reader.report.answer

    def _finish(self) -> None:
        if self._reader is not None and self._fault is None:
            self._guarded(self._reader.finish)

    def save(self, run_dir: str, secrets: Secrets) -> None:
        """Write what was learnt of the run, masked, and remove an answer that the agent left itself; raise OSError."""
        with contextlib.suppress(OSError):  # there is none, or it is a folder, which nobody takes for an answer
            os.unlink(os.path.join(run_dir, ANSWER))
        if not self.tells_errors_apart:
            return
        self._finish()
        report = None if self._reader is None else self._reader.report
        known = {**(report.summary() if report else {}), "fault": self._fault}
        _write(os.path.join(run_dir, REPORT), json.dumps(secrets.masked_value(known), ensure_ascii=False))
        answer = report.bounded_answer(secrets.masked) if report else ""
        if answer:
            _write(os.path.join(run_dir, ANSWER), answer)


def _cut(text: str, most: int) -> str:
    """Return the beginning of a text that takes at most so many bytes."""
    return text.encode(errors="replace")[:most].decode(errors="ignore")


def _write(path: str, text: str) -> None:
    with open(path, "wb", opener=open_anew) as stream:
        stream.write(text.encode(errors="replace"))
