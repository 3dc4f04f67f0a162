"""Streams as known programs print them, FORMAT-WHAT.jsonl, and beside each the transcript that it renders to.

`python -m tests.support.streams` writes the transcripts anew; look at what has changed before you commit them.
"""

from collections.abc import Iterable
from pathlib import Path

from daemon.cli.transcript import Transcript

STREAMS = sorted(Path(__file__).parent.glob("*.jsonl"))


def transcript(stream: Path, size: int | None = None) -> str:
    """Return the transcript of a stream that arrives in chunks of so many bytes, None: at once."""
    data = stream.read_bytes()
    size = size or len(data)
    return rendered(format_of(stream), (data[at : at + size] for at in range(0, len(data), size)))


def format_of(stream: Path) -> str:
    """Return the format of a stream."""
    return stream.name.partition("-")[0]


def rendered(result_format: str, chunks: Iterable[bytes]) -> str:
    """Return the transcript of an output."""
    found = Transcript(result_format)
    return "".join([text for chunk in chunks for text in found.feed(chunk)] + list(found.finish()))
