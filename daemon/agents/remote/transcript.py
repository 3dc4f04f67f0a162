"""The output of a run whose agent is behind a URL, written to the same file as a command's output."""

import asyncio
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
        self._ends_line = True
        self._lost = 0

    async def say(self, text: str) -> None:
        """Append text as it arrives."""
        if text:
            self._ends_line = text.endswith("\n")
            await asyncio.to_thread(self._write, text)

    async def note(self, text: str, most: int) -> None:
        """Append a line of at most `most` characters of a text."""
        await self.say(f"{self._secrets.brief(text, most)}\n")

    async def new_line(self) -> None:
        """End the current line, if it is not empty."""
        if not self._ends_line:
            await self.say("\n")

    def _write(self, text: str) -> None:
        data = text.encode(errors="replace")
        try:
            if self._output is None:
                self._output = Output(str(self._run_dir), LARGEST_BODY, self._secrets)
        except OSError:  # a full disk loses the output, not the run
            self._lost += len(data)
            return
        for at in range(0, len(data), _PIECE):
            self._output.write(0, data[at : at + _PIECE])

    def finish(self) -> tuple[int, int]:
        """Close the file; return how many bytes there were, and how many of them were dropped."""
        if self._output is None:
            return self._lost, self._lost
        self._output.finish()
        return self._output.total + self._lost, self._output.dropped + self._lost
