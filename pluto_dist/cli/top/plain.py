"""`top` without Textual: tables drawn anew in place, or printed once where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pluto_dist.cli.console import console, now_ms, printable
from pluto_dist.cli.top.model import (
    NUMBERS,
    PROCESS_COLUMNS,
    RUN_COLUMNS,
    Asked,
    Row,
    headline,
    process_rows,
    run_rows,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pluto_dist.read.board import Board, RunSeen

ROWS = 16  # processes of a Run; --json has all


def follow(board: Board, interval_s: float) -> None:
    """Draws until it is interrupted; a pipe gets what two looks have shown."""
    from rich.live import Live

    on = console()
    runs = board.look()
    if not on.is_terminal or on.is_dumb_terminal:
        time.sleep(interval_s)
        on.print(*drawn(board.look(), board.remark, now_ms()), sep="\n")
        return
    with Live(console=on, auto_refresh=False, screen=True) as live:
        while True:
            live.update(_together(drawn(runs, board.remark, now_ms())), refresh=True)
            time.sleep(interval_s)
            runs = board.look()


def drawn(runs: Sequence[RunSeen], remark: str, at_ms: int) -> Iterator[RenderableType]:
    """The Runs, then the processes of each, those that are alike in one line."""
    from rich.text import Text

    asked = Asked()
    yield _grid(RUN_COLUMNS, run_rows(runs, asked, at_ms), "STATUS")
    if not runs:
        yield Text("no Run here yet")
    if remark:
        yield Text(printable(remark), style="yellow")
    for run in runs:
        rows = [each.row for each in process_rows(run, asked)]
        yield Text(f"\n{printable(run.name)}  {headline(run, at_ms)}", style="bold")
        yield _grid(PROCESS_COLUMNS, rows[:ROWS], "STATE")
        if len(rows) > ROWS:
            yield Text(f"… {len(rows) - ROWS} more lines", style="dim")


def _together(parts: Iterator[RenderableType]) -> RenderableType:
    from rich.console import Group

    return Group(*parts)


def _grid(columns: Sequence[str], rows: Sequence[Row], styled: str) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns:
        grid.add_column(title, justify="right" if title in NUMBERS else "left", no_wrap=True)
    for row in rows:
        whole = row.style if row.style == "dim" else ""
        grid.add_row(
            *(
                Text(cell, style=row.style if title == styled else whole)
                for title, cell in zip(columns, row.cells, strict=True)
            )
        )
    return grid
