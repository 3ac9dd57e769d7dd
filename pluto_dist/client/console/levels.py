"""Which log type a line has. Pure.

What goes to stdout is PRINT. stderr is where progress bars, loggers and tracebacks go alike, so the stream
alone says nothing: a line there is ERROR if it is part of a traceback or names that level, WARNING or DEBUG
if it names those, else INFO. Where both go to one file and come as one stream ("both"), what names nothing is
PRINT.
"""

from __future__ import annotations

import re
from typing import Final, Literal

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
