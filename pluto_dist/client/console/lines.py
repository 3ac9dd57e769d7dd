"""Text in, finished lines out, as a person would have seen them on a terminal. Pure.

Of a line that was rewritten with carriage returns (progress bars) the last state counts; what no newline ends
is a line when the stream ends. Escape sequences and control characters are taken out, tabs stay. A line
longer than `PIECE` becomes several, so that memory is bounded without any newline too.

Limit: bars stacked with "cursor up" end a line at each step, so each ended state is a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

PIECE: Final = 16 * 1024  # characters

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # undecodable bytes in Python's own way; no UTF-8 has them


class LineCutter:
    """The unfinished line of one stream, as one thread writes it.

    `feed` may be interrupted by a signal handler that feeds the same cutter: both texts are kept, in one
    order or the other.

    Args:
        redact: takes secrets out of a line; it sees whole lines, before they are cut into pieces.
    """

    __slots__ = ("_redact", "_rest")

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        """Takes text as it was written; returns the lines that it finished."""
        before, self._rest = self._rest, ""
        finished: list[str] = []
        rest = before + text
        if "\n" in text:
            *lines, rest = rest.split("\n")
            finished = self._shown(lines)
        if "\r" in rest:
            rest = _last_state(rest)
        if len(rest) > 2 * PIECE:
            finished += self._cut_unfinished(rest)
            rest, self._rest = self._rest, ""
        self._rest = rest + self._rest
        return finished

    def end(self) -> list[str]:
        """The stream is over: what was not finished is a line, unless it is blank."""
        rest, self._rest = self._rest, ""
        return self._shown([rest]) if rest.strip() else []

    @property
    def empty(self) -> bool:
        """Whether no line is unfinished."""
        return not self._rest

    def _shown(self, lines: Iterable[str]) -> list[str]:
        found = [self._redact(line if line.isprintable() else _plain(line)) for line in lines]
        return [piece for line in found for piece in _pieces(line)] if max(map(len, found)) > PIECE else found

    def _cut_unfinished(self, rest: str) -> list[str]:
        """At least one piece stays behind, so that a secret that goes on in the next text is seen whole."""
        pieces = list(_pieces(self._redact(_plain(rest))))
        self._rest = "".join(pieces[-2:])
        return pieces[:-2]


def _last_state(line: str) -> str:
    """What a carriage return left to see; one at the end has overwritten nothing yet."""
    body = line.rstrip("\r")
    seen = body[body.rfind("\r") + 1 :]
    return seen + "\r" if len(body) < len(line) else seen


def _plain(line: str) -> str:
    line = _ESCAPE.sub("", _last_state(line))
    return _SURROGATE.sub("�", _UNPRINTABLE.sub("", line))


def _pieces(line: str) -> Iterator[str]:
    """At least one; an empty line is one too."""
    yield line[:PIECE]
    for at in range(PIECE, len(line), PIECE):
        yield line[at : at + PIECE]
