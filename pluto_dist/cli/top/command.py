"""`pluto-dist top`: Runs and their processes, live.

JSON: what two looks have shown, a list by Run of
    run, display_id, run_id, project, name    which Run
    status, standing    as in `show`: never RUNNING where its processes are known to be dead
    phase, attempt, created_at, ended_at, points, trouble    as in `show`
    step, rate, lag, backlog    highest step of its members, steps per second of the fastest, steps between
                                the median and the last, records that the backend has not accepted
    processes           all of them, by attempt and rank, sides behind: `lease_id`, `role`, `label`, `rank`,
                        `pid`, `host`, `attempt`, `state`, `health`, `step`, `rate`, `lag`, `word_s`,
                        `written`, `delivered`, `backlog`, `cpu` (percent of a core), `memory` (bytes)
    machines            by node: `host`, `cpu` and `memory` in percent, `cards` with `index`, `model`, `busy`
                        (percent) and `memory` (bytes)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

from pluto_dist.cli.console import console, now_ms, print_json, printable
from pluto_dist.cli.options import Argument, Dir, Home, Json, Option
from pluto_dist.cli.top.model import (
    NUMBERS,
    PROCESS_COLUMNS,
    RUN_COLUMNS,
    Asked,
    Looking,
    Row,
    headline,
    process_rows,
    run_rows,
)
from pluto_dist.host.settings import cluster_of
from pluto_dist.read.board import Board, RunSeen
from pluto_dist.read.lookup import Lookup, reading_settings
from pluto_dist.read.processes import Process

if TYPE_CHECKING:
    from rich.console import RenderableType

FASTEST_S = 0.2


def top(
    run: Annotated[
        list[str] | None, Argument(metavar="RUN", help="Runs to follow; default those that go on.")
    ] = None,
    every: Annotated[bool, Option("--all", help="Also Runs that have ended.")] = False,
    interval: Annotated[
        float, Option("--interval", metavar="SECONDS", least=FASTEST_S, help="Time between two looks.")
    ] = 1.0,
    plain: Annotated[bool, Option("--plain", help="A table that is printed anew, without keys.")] = False,
    home: Home = None,
    folder: Dir = None,
    as_json: Json = False,
) -> None:
    """Follows Runs and their processes in a full screen: who is slow, who is gone, how the loss goes.

    Needs the extra `tui` (`pip install 'pluto-dist[tui]'`); without it, or with --plain, a table is printed
    anew in place, and once where the output is no terminal.
    """
    cluster = cluster_of(reading_settings(home, folder))
    board = Board(Lookup(home, folder), run or (), every=every, cluster=cluster)
    if as_json:
        board.look()
        time.sleep(interval)
        print_json([shown(each) for each in board.look()])
        return
    if not plain and _can_be_full_screen():
        from pluto_dist.cli.top.app import Top

        board.look()  # a Run that is not there is an error before the screen is taken
        Top(Looking(board), interval).run()
        return
    follow(board, interval)


def shown(run: RunSeen) -> dict[str, object]:
    """A Run with its documented keys."""
    document = run.document
    return {
        "run": document.key,
        "display_id": document.display_id,
        "run_id": document.run_id,
        "project": document.project,
        "name": document.name,
        "status": run.situation.status,
        "standing": run.situation.standing,
        "phase": document.phase,
        "attempt": document.attempt,
        "created_at": document.created_at,
        "ended_at": document.ended_at,
        "points": document.points,
        "trouble": document.trouble,
        "step": run.step,
        "rate": run.rate,
        "lag": run.lag,
        "backlog": run.backlog,
        "processes": [_process(each) for each in run.processes],
        "machines": run.machines,
    }


def _process(process: Process) -> dict[str, object]:
    lease, usage = process.lease, process.usage
    return {
        "lease_id": lease.lease_id,
        "role": lease.role,
        "label": lease.label,
        "rank": lease.rank,
        "pid": lease.pid,
        "host": lease.host,
        "attempt": lease.attempt,
        "state": process.state,
        "health": process.health,
        "step": lease.last_step,
        "rate": process.rate,
        "lag": process.lag,
        "word_s": process.word_s,
        "written": lease.written,
        "delivered": lease.delivered,
        "backlog": process.backlog,
        "cpu": usage.cpu if usage is not None else None,
        "memory": usage.memory if usage is not None else None,
    }


def _can_be_full_screen() -> bool:
    terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return terminal and find_spec("textual") is not None


# Without Textual: tables drawn anew in place, or printed once where the output is no terminal.
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
