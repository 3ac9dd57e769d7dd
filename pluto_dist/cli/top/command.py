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

import time
from typing import TYPE_CHECKING, Annotated

from pluto_dist.cli import options
from pluto_dist.cli.options import Argument, Option

if TYPE_CHECKING:
    from pluto_dist.read.board import RunSeen
    from pluto_dist.read.processes import Process

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
    home: options.Home = None,
    folder: options.Dir = None,
    as_json: options.Json = False,
) -> None:
    """Follows Runs and their processes in a full screen: who is slow, who is gone, how the loss goes.

    Needs the extra `tui` (`pip install 'pluto-dist[tui]'`); without it, or with --plain, a table is printed
    anew in place, and once where the output is no terminal.
    """
    from pluto_dist.cli.console import print_json
    from pluto_dist.host.settings import cluster_of
    from pluto_dist.read.board import Board
    from pluto_dist.read.lookup import Lookup, reading_settings

    cluster = cluster_of(reading_settings(home, folder))
    board = Board(Lookup(home, folder), run or (), every=every, cluster=cluster)
    if as_json:
        board.look()
        time.sleep(interval)
        print_json([shown(each) for each in board.look()])
        return
    if not plain and _can_be_full_screen():
        from pluto_dist.cli.top.app import Top
        from pluto_dist.cli.top.source import Looking

        board.look()  # a Run that is not there is an error before the screen is taken
        Top(Looking(board), interval).run()
        return
    from pluto_dist.cli.top.plain import follow

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
    import os
    import sys
    from importlib.util import find_spec

    terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return terminal and find_spec("textual") is not None
