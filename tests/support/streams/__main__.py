"""Write the transcripts anew."""

from tests.support.streams import STREAMS, transcript

for stream in STREAMS:
    stream.with_suffix(".txt").write_text(transcript(stream))
