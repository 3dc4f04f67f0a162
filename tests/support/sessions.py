"""A stand-in for Claude Code that keeps its sessions by working directory, and tells what it has not told in one."""

import stat
from pathlib import Path

_PROGRAM = """\
#!/usr/bin/env python3
import hashlib, json, os, sys, uuid
from pathlib import Path

folder = Path({folder!r})
place = folder / "sessions" / hashlib.sha256(os.getcwd().encode()).hexdigest()
place.mkdir(parents=True, exist_ok=True)
given = [word.partition("=")[2] for word in sys.argv if word.startswith("--resume=")]
given += [sys.argv[sys.argv.index("--resume") + 1]] if "--resume" in sys.argv else []
if given and not (place / given[0]).exists():
    sys.exit(f"No conversation found with session ID: {{given[0]}}")
session = given[0] if given else str(uuid.uuid4())
known = (place / session).read_text().split() if given else []
news = [name for name in sorted(os.listdir(folder / "news")) if name not in known]
with (place / session).open("a") as conversation:
    conversation.write("".join(f"{{name}}\\n" for name in news))
print(json.dumps({{"type": "result", "subtype": "success", "is_error": False, "result": " ".join(news) or "nothing new",
    "session_id": session, "num_turns": 1, "usage": {{"input_tokens": 1, "output_tokens": 1}}}}))
"""


class Reporter:
    """The stand-in, called `claude`, with the news that it tells: the names of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "news").mkdir(parents=True)
        self.program = folder / "claude"
        self.program.write_text(_PROGRAM.format(folder=str(folder)))
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)

    @property
    def command(self) -> list[object]:
        """Its command in the config."""
        return [str(self.program), "-p", "--output-format", "json", ["--resume", "{session}"]]

    def add(self, name: str) -> None:
        """Let something happen that it has not told."""
        (self.folder / "news" / name).touch()

    def forget(self) -> None:
        """Lose all sessions, as happens when files are cleaned up."""
        for session in (self.folder / "sessions").glob("*/*"):
            session.unlink()
