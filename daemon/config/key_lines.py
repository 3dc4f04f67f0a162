"""Find the line of each key in a TOML document, for error messages; tomllib does not report it."""

import re
from collections.abc import Iterable, Iterator

KeyPath = tuple[str | int, ...]

_TOKEN = re.compile(
    r'(?P<string>"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\')'
    r"|(?P<comment>#[^\n]*)|(?P<newline>\n)|(?P<space>[ \t\r]+)|(?P<mark>[\[\]{}=,.])|(?P<bare>[^\s\[\]{}=,.#\"']+)",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def key_lines(text: str, wanted: Iterable[KeyPath]) -> dict[KeyPath, int]:
    """Return the lines (from 1) of key paths in a valid TOML document, and of the paths that they begin with.

    Array items count as numbers. Only what is wanted is kept, so that a large document takes little memory.
    """
    return _Scanner(text, {path[:length] for path in wanted for length in range(len(path) + 1)}).scan()


class _Scanner:
    """One pass over the tokens with an explicit stack, so that depth cannot exhaust Python's."""

    def __init__(self, text: str, wanted: set[KeyPath]) -> None:
        self.wanted = wanted
        self.lines: dict[KeyPath, int] = {}
        self.table: KeyPath = ()
        self.tables_in_array: dict[KeyPath, int] = {}
        self.stack: list[tuple[str, KeyPath, int]] = []  # open bracket, its path, index of the next item
        self.key: list[str] = []
        self.path: KeyPath = ()
        self.in_value = False
        self.tokens = _tokens(text)

    def scan(self) -> dict[KeyPath, int]:
        for kind, text, line in self.tokens:
            self._step(kind, text, line)
        return self.lines

    def _step(self, kind: str, text: str, line: int) -> None:
        if kind == "newline":
            if not self.stack:
                self.key, self.in_value = [], False
        elif not self.stack and not self.in_value and text == "[":
            self._header(line)
        elif self.in_value:
            self._value(kind, text, line)
        elif text == "=":
            base = self.stack[-1][1] if self.stack else self.table
            self._record(base, self.key, line)
            self.path, self.key, self.in_value = (*base, *self.key), [], True
        elif text == "}":
            self._close()
        elif kind in {"bare", "string"}:
            self.key.append(_unquoted(text))

    def _header(self, line: int) -> None:
        """Read the header of a table after its first bracket, to the end of the line."""
        opened, parts = 1, []
        for kind, text, _ in self.tokens:
            if kind == "newline":
                break
            opened += text == "["
            if kind in {"bare", "string"}:
                parts.append(_unquoted(text))
        self._record((), parts, line)
        self.table = self._through_arrays(parts)
        if opened > 1:
            index = self.tables_in_array.get(self.table, -1) + 1
            self.tables_in_array[self.table] = index
            self.table = (*self.table, index)
        if self.table in self.wanted:
            self.lines[self.table] = line

    def _through_arrays(self, parts: list[str]) -> KeyPath:
        """Name the newest item of each array of tables on the way."""
        path: KeyPath = ()
        for number, part in enumerate(parts):
            path = (*path, part)
            if path in self.tables_in_array and number < len(parts) - 1:
                path = (*path, self.tables_in_array[path])
        return path

    def _value(self, kind: str, text: str, line: int) -> None:
        if text in {"[", "{"} and kind == "mark":
            self._keep(self.path, line)
            self.stack.append((text, self.path, 0))
            self._enter()
        elif text in {"]", "}"} and kind == "mark":
            self._close()
        elif text == "," and kind == "mark":
            self._next_item()
        elif kind in {"bare", "string"}:
            self._keep(self.path, line)

    def _enter(self) -> None:
        bracket, path, index = self.stack[-1]
        self.in_value = bracket == "["
        self.path = (*path, index) if bracket == "[" else path

    def _next_item(self) -> None:
        if self.stack:
            bracket, path, index = self.stack.pop()
            self.stack.append((bracket, path, index + 1))
            self._enter()

    def _close(self) -> None:
        if self.stack:
            self.stack.pop()
        self.in_value, self.key = True, []
        if self.stack and self.stack[-1][0] == "[":
            self.path = (*self.stack[-1][1], self.stack[-1][2])

    def _record(self, base: KeyPath, parts: list[str], line: int) -> None:
        for length in range(1, min(len(parts), 32) + 1):  # deeper keys have no place in the schema
            self._keep((*base, *parts[:length]), line)

    def _keep(self, path: KeyPath, line: int) -> None:
        if path in self.wanted:
            self.lines.setdefault(path, line)


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        kind, found = match.lastgroup or "", match[0]
        if kind not in {"comment", "space"}:
            yield kind, found, line
        line += found.count("\n")


def _unquoted(key: str) -> str:
    if key.startswith("'"):
        return key[1:-1]
    if key.startswith('"'):
        return _ESCAPE.sub(_unescape, key[1:-1])
    return key


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "uU" and len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPED.get(code, code)
