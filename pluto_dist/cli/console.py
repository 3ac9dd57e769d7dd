"""How commands print: JSON for scripts, plain text and tables for people.

Names, messages and tracebacks come from users' programs: they are printed as text, never as markup, and
without control characters.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

LONGEST_CELL = 120  # characters
PIPE_WIDTH = 200  # columns when nobody looks: lines stay whole for grep
STATUS_STYLES = {
    "RUNNING": "cyan",
    "COMPLETED": "green",
    "FAILED": "bold red",
    "TERMINATED": "yellow",
    "CANCELLED": "yellow",
}


def print_json(value: Any) -> None:
    """Indented JSON on stdout; `value` may hold what msgspec encodes."""
    import msgspec

    body = msgspec.json.format(msgspec.json.encode(value), indent=2)
    sys.stdout.buffer.write(body + b"\n")
    sys.stdout.buffer.flush()


def note(text: str) -> None:
    """A remark on stderr."""
    typer.echo(text, err=True)


def console() -> Console:
    """Of stdout, as wide as the terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False)


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()
) -> None:
    """A table; None is an empty cell, a status has its colour, long texts are cut."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        cells = [_in_a_cell(cell) for cell in row]
        table.add_row(*(Text(cell, style=STATUS_STYLES.get(cell, "")) for cell in cells))
    console().print(table)


def _in_a_cell(value: object) -> str:
    """One line; what is very long would make the table of everybody else unreadable."""
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


def since(at_ms: int | None, now_ms: int) -> str:
    """How long ago."""
    return "" if at_ms is None else span((now_ms - at_ms) / 1000)


def now_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
