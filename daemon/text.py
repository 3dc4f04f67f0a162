"""Text from outside, made safe to show."""


def escape(text: str) -> str:
    r"""Return text in which nothing can move a cursor, end a line or hide: it becomes `\xNN` or `\uNNNN`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
