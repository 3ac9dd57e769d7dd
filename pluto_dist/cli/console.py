"""Printing for all commands: JSON for scripts, plain text and tables for people.

Names, messages and tracebacks come from users' programs: they are printed as text, never as markup, and
without control characters.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pluto_dist.cli.options import echo

if TYPE_CHECKING:
    from rich.console import Console

LONGEST_CELL = 120  # characters
PIPE_WIDTH = 200  # columns where the output is no terminal: lines stay whole for grep
NARROWEST = 6  # columns that a folded column keeps
STATUS_STYLES = {  # SGR codes
    "RUNNING": "36",
    "COMPLETED": "32",
    "FAILED": "1;31",
    "TERMINATED": "33",
    "CANCELLED": "33",
}


def print_json(value: Any) -> None:
    """Indented JSON on stdout; `value` may hold what msgspec encodes."""
    import msgspec

    body = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.buffer.write(body + b"\n")
    sys.stdout.buffer.flush()


def note(text: str) -> None:
    """A remark on stderr."""
    echo(text, err=True)


def console() -> Console:
    """Rich's, of stdout, as wide as the terminal; tables do without it, because it takes 0.1 s to load."""
    from rich.console import Console

    return Console(
        width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False, highlight=False, emoji=False
    )


def width() -> int:
    """Columns of the terminal, or of a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """A table; None is an empty cell, a status has its colour, long texts are cut.

    Args:
        columns, rows: names and cells.
        right: columns of numbers.
        spare: columns that are left out where the terminal is too narrow, the first of them first.
    """
    body = [tuple(_in_a_cell(cell) for cell in row) for row in rows]
    columns, body = _fitting(columns, body, spare, width())
    for line in table_lines(columns, body, right=right, width=width(), styled=_styled()):
        echo(line)


def _fitting(
    columns: Sequence[str], rows: list[tuple[str, ...]], spare: Sequence[str], width: int
) -> tuple[Sequence[str], list[tuple[str, ...]]]:
    """The table without as many of the spare columns as it takes to fit."""
    for name in spare:
        if sum(_widths(columns, rows)) + len(columns) - 1 <= width:
            break
        at = columns.index(name)
        columns = [*columns[:at], *columns[at + 1 :]]
        rows = [(*row[:at], *row[at + 1 :]) for row in rows]
    return columns, rows


def _widths(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[int]:
    return [max(map(columns_of, column)) for column in zip(columns, *rows, strict=True)]


def table_lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str],
    width: int,
    styled: bool,
) -> Iterator[str]:
    """Lines of a table; where it is wider than `width` its widest columns are folded."""
    widths = _widths(columns, rows)
    while sum(widths) + len(widths) - 1 > width and max(widths) > NARROWEST:
        widest = max(widths)
        excess = sum(widths) + len(widths) - 1 - width
        others = max((each for each in widths if each < widest), default=NARROWEST)
        widths[widths.index(widest)] = max(NARROWEST, others, widest - excess, (widest + NARROWEST) // 2)
    yield from _row(columns, columns, widths, right, "1" if styled else "")
    for row in rows:
        yield from _row(row, columns, widths, right, "", styled=styled)


def columns_of(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def _row(
    cells: Sequence[str],
    columns: Sequence[str],
    widths: Sequence[int],
    right: Sequence[str],
    style: str,
    *,
    styled: bool = False,
) -> Iterator[str]:
    folded = [_folded(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for level in range(max(map(len, folded))):
        parts = []
        for column, cell, pieces, width in zip(columns, cells, folded, widths, strict=True):
            piece = pieces[level] if level < len(pieces) else ""
            room = " " * (width - columns_of(piece))
            code = STATUS_STYLES.get(cell, "") if styled else style
            painted = f"\x1b[{code}m{piece}\x1b[0m" if code and piece else piece
            parts.append(room + painted if column in right else painted + room)
        yield " ".join(parts).rstrip()


def _folded(text: str, width: int) -> list[str]:
    if columns_of(text) <= width:
        return [text]
    pieces, piece = [], ""
    for char in text:
        if columns_of(piece + char) > width:
            pieces.append(piece)
            piece = ""
        piece += char
    return [*pieces, piece]


def _styled() -> bool:
    """Colours only for a person's terminal."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _in_a_cell(value: object) -> str:
    """The value in one line, cut where it would make the table unreadable."""
    text = printable(value).replace("\n", " ")
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def printable(value: object) -> str:
    """Text without control characters; a number with six digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return "".join(char if char.isprintable() or char in "\n\t" else repr(char)[1:-1] for char in str(value))


def clock(at_ms: int | None) -> str:
    """Local time."""
    return "" if at_ms is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def span(seconds: float | None) -> str:
    """A duration: `0.4 s`, `12 s`, `3 min`, `5 h 10 min`, `2 d 4 h`."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def size(count: float) -> str:
    """Bytes: `312 B`, `4.1 KB`, `20 MB`, `1.3 GB`; a thousand of one are one of the next."""
    unit = "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if count < 1000:
            break
        count, unit = count / 1000, larger
    return f"{count:.1f} {unit}" if count < 10 and unit != "B" else f"{count:.0f} {unit}"


def since(at_ms: int | None, now_ms: int) -> str:
    """Time since then, as a duration."""
    return "" if at_ms is None else span((now_ms - at_ms) / 1000)


def now_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
