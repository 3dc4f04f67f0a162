"""Text from outside, made safe to show."""

import codecs

_encode = codecs.getencoder("unicode_escape")  # found now: later there may be no file descriptor to load it with


def escape(text: str) -> str:
    r"""Return text in which nothing can move a cursor, end a line or hide: it becomes `\xNN` or `\uNNNN`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _encode(c, "surrogatepass")[0].decode() for c in text)


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: `1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
