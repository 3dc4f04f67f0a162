"""The output of a run whose agent is behind a URL, written to the same file as a command's output."""

import asyncio
import threading
from pathlib import Path

from daemon.agents.process.supervisor.mask import Secrets
from daemon.agents.process.supervisor.output import Output
from daemon.http_client import LARGEST_BODY

_PIECE = 64 * 1024  # bytes that are masked at once, while no other thread can run


class Transcript:
    """Writes what an agent says to `output.log`, secrets masked; if the disk is full, only output is lost."""

    def __init__(self, run_dir: Path, secrets: Secrets) -> None:
        self._run_dir = run_dir
        self._secrets = secrets
        self._output: Output | None = None
        self._waiting: list[str] = []
        self._ends_line = True
        self._lost = 0
        self._is_over = False
        self._lock = threading.Lock()

    async def say(self, text: str) -> None:
        """Append text, and write it."""
        self.add(text)
        await self.write()

    def add(self, text: str) -> None:
        """Append text, to be written by the next `write`."""
        if text:
            self._ends_line = text.endswith("\n")
            self._waiting.append(text)

    def note(self, text: str, most: int) -> None:
        """Append a line of at most `most` characters of a text, likewise."""
        self.add(f"{self._secrets.brief(text, most)}\n")

    def new_line(self) -> None:
        """End the current line, if it is not empty, likewise."""
        if not self._ends_line:
            self.add("\n")

    async def write(self) -> None:
        """Write what was appended."""
        if text := self._taken():
            await asyncio.to_thread(self._write, text)

    def finish(self) -> tuple[int, int]:
        """Write what was appended and close the file; return how many bytes there were, and how many were dropped.

        A write that was cancelled goes on in its thread; it stops here, since another file may get the descriptor.
        """
        if text := self._taken():
            self._write(text)
        with self._lock:
            self._is_over = True
            if self._output is None:
                return self._lost, self._lost
            self._output.finish()
            return self._output.total + self._lost, self._output.dropped + self._lost

    def _taken(self) -> str:
        text = "".join(self._waiting)
        self._waiting.clear()
        return text

    def _write(self, text: str) -> None:
        data = text.encode(errors="replace")
        for at in range(0, len(data), _PIECE):
            with self._lock:
                self._write_piece(data[at : at + _PIECE])

    def _write_piece(self, piece: bytes) -> None:
        if self._is_over:
            return
        try:
            if self._output is None:
                self._output = Output(str(self._run_dir), LARGEST_BODY, self._secrets)
        except OSError:  # a full disk loses the output, not the run
            self._lost += len(piece)
            return
        self._output.write(0, piece)
