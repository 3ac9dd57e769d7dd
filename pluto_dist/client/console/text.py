"""From printed text to console records: lines as on a terminal, with a log type and without secrets.

**Lines** (`LineCutter`). Of a line that was rewritten with carriage returns (progress bars) the last state
counts; text that no newline ends is a line when the stream ends. Escape sequences and control characters are
taken out, tabs stay. A line longer than `PIECE` becomes several, so that memory is bounded without any
newline too. Limit: bars stacked with "cursor up" end a line at each step, so each ended state is a line of
its own.

**Log types** (`Levels`). A line of stdout is PRINT. Progress bars, loggers and tracebacks alike go to stderr,
so a line there is ERROR if it is part of a traceback or names that level, WARNING or DEBUG if it names those,
else INFO. Where both go to one file and come as one stream ("both"), a line that names no level is PRINT.

**Secrets** (`redactor`). Values of environment variables whose names look secret, and the API key, are masked
in records. Only known values are: a secret that a program reads from a file and prints is not noticed. Output
on the terminal is never changed.

A record (`Recorder`) is one JSON line, without the number that the coordinator gives.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

LogType = Literal["PRINT", "INFO", "WARNING", "ERROR", "DEBUG"]
StreamName = Literal["stdout", "stderr", "both"]
SEPARATE: Final[tuple[StreamName, ...]] = ("stdout", "stderr")

_NAMED = re.compile(
    r"\b(?:(ERROR|CRITICAL|FATAL|\w*Error:|error:)|(WARN(?:ING)?|\w*Warning:|warning:)|(DEBUG))(?!\w)"
)
_HEAD = 200  # characters; a level stands at the start of a line
_TRACEBACK = "Traceback (most recent call last):"
_FATAL = ("Fatal Python error", "Segmentation fault", "terminate called after")


class Levels:
    """Remembers whether stderr is inside a traceback; one for each stream and thread."""

    __slots__ = ("_in_traceback", "_stdout", "_unnamed")

    def __init__(self, stream: StreamName) -> None:
        self._stdout = stream == "stdout"
        self._unnamed: LogType = "INFO" if stream == "stderr" else "PRINT"
        self._in_traceback = False

    def of(self, line: str) -> LogType:
        """Log type of the next line."""
        if self._stdout:
            return "PRINT"
        if self._in_traceback:
            # It ends with the exception itself, which is the first line without an indentation.
            self._in_traceback = not line or line[0] in " \t+|" or _TRACEBACK in line
            return "ERROR"
        if _TRACEBACK in line:
            self._in_traceback = True
            return "ERROR"
        if line.startswith(_FATAL):
            return "ERROR"
        named = _NAMED.search(line, 0, _HEAD)
        if named is None:
            return self._unnamed
        return "ERROR" if named[1] else "WARNING" if named[2] else "DEBUG"


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
        """Ends the stream: an unfinished line counts, unless it is blank."""
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
        """Cuts off pieces, all but the last: a secret that goes on in the next text has to be seen whole."""
        pieces = list(_pieces(self._redact(_plain(rest))))
        self._rest = "".join(pieces[-2:])
        return pieces[:-2]


def _last_state(line: str) -> str:
    """The visible part of a line with carriage returns; one at its end has overwritten nothing yet."""
    body = line.rstrip("\r")
    seen = body[body.rfind("\r") + 1 :]
    return seen + "\r" if len(body) < len(line) else seen


def _plain(line: str) -> str:
    line = _ESCAPE.sub("", _last_state(line))
    return _SURROGATE.sub("�", _UNPRINTABLE.sub("", line))


def _pieces(line: str) -> Iterator[str]:
    """The line in pieces, at least one; an empty line is one too."""
    yield line[:PIECE]
    for at in range(PIECE, len(line), PIECE):
        yield line[at : at + PIECE]


SHORTEST: Final = 8  # characters; shorter values would take ordinary words out of every line
MASK: Final = "***"

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)


def secrets_of(env: Mapping[str, str], *more: str) -> tuple[str, ...]:
    """Values to take out, longest first, so that one within another leaves nothing behind.

    A value that names an existing file or folder is a place, not a secret. Of a value with several lines
    each line counts.
    """
    values = [value for name, value in env.items() if _SECRET_NAME.search(name) and not _is_place(value)]
    lines = {line.strip() for value in (*values, *more) for line in value.splitlines()}
    return tuple(sorted((line for line in lines if len(line) >= SHORTEST), key=len, reverse=True))


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """A function that masks them in a line."""
    known = tuple(secrets)

    def redact(line: str) -> str:
        for secret in known:  # faster than one pattern of them all
            if secret in line:
                line = line.replace(secret, MASK)
        return line

    return redact


def _is_place(value: str) -> bool:
    try:
        return value.startswith(("/", "~", "./")) and Path(value).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, or no such user: no place
        return False


_to_json = msgspec.json.Encoder().encode


class Recorder:
    """One stream as one thread (or one pipe) writes it.

    Args:
        stream: which one.
        append: takes a record; the lease's console stream.
        clock: epoch milliseconds.
        redact: takes secrets out of a line.
    """

    __slots__ = ("_append", "_clock", "_cutter", "_levels")

    def __init__(
        self,
        stream: StreamName,
        append: Callable[[bytes], object],
        clock: Callable[[], int],
        redact: Callable[[str], str],
    ) -> None:
        self._append = append
        self._clock = clock
        self._cutter = LineCutter(redact)
        self._levels = Levels(stream)

    def feed(self, text: str) -> None:
        """Records the lines that this text finishes."""
        lines = self._cutter.feed(text)
        if lines:
            self._record(lines)

    def end(self) -> None:
        """Records what no newline has finished."""
        self._record(self._cutter.end())

    @property
    def idle(self) -> bool:
        """Whether nothing unfinished would be lost with this object."""
        return self._cutter.empty

    def _record(self, lines: Iterable[str]) -> None:
        now = self._clock()
        for line in lines:
            log_type = self._levels.of(line).encode()
            self._append(b'{"time":%d,"message":%b,"logType":"%b"}\n' % (now, _to_json(line), log_type))
