"""Make text from outside safe to show."""

import codecs
import re

CUT = "\n[cut]"
"""Ends a text for people of which the rest is left out."""
_encode = codecs.getencoder("unicode_escape")  # looked up now: later there may be no free file descriptor to load it

_LAYOUT = re.compile(r"([\n\t])")


def escape(text: str) -> str:
    r"""Return text with every character escaped (`\xNN`, `\uNNNN`) that could move a cursor, end a line or hide."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _encode(c, "surrogatepass")[0].decode() for c in text)


def escape_lines(text: str) -> str:
    """Return text escaped, except its new lines and tabs; another end of a line becomes a new line."""
    if text.isprintable():
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(part if part in {"\n", "\t"} else escape(part) for part in _LAYOUT.split(text))


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: `1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def cut(text: str, most: int) -> str:
    """Return text that takes at most so many bytes of UTF-8, with a mark at its end if it is cut."""
    data = text.encode(errors="replace")
    if len(data) <= most:
        return data.decode()
    return data[: max(0, most - len(CUT))].decode(errors="ignore") + CUT
