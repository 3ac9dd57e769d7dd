"""The source of all that `top` shows: the board, and for one Run its points, its console and its end.

It reads files and asks the coordinator, so it is called by threads beside the screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pluto_dist.backend.local.reading import SaidLine
from pluto_dist.cli import report
from pluto_dist.cli.chart import Curve
from pluto_dist.cli.show import roots
from pluto_dist.core.rules.participants import speaker_shown
from pluto_dist.core.values.document import LeaseShown
from pluto_dist.read.board import Board, RunSeen
from pluto_dist.read.console import last_lines
from pluto_dist.read.lookup import Found
from pluto_dist.read.processes import failed_lease
from pluto_dist.read.run import Run
from pluto_dist.read.settle import remark_on

LAST_LINES = 30
TOGETHER = 32  # consoles that are read at once


class Drawn(NamedTuple):
    """A series for the chart; of several ranks the mean, with the band in which all of them lie."""

    curve: Curve
    band: tuple[Curve, Curve] | None = None
    ranks: int = 0


class Source(Protocol):
    """The questions of the screen."""

    @property
    def remark(self) -> str:
        """What a person should know about the looking."""

    def look(self) -> list[RunSeen]:
        """The Runs as of now."""

    def curve(self, run: RunSeen, name: str, *, every_rank: bool) -> Drawn:
        """Points of one series, or of all ranks that log it."""

    def console(self, run: RunSeen, leases: Sequence[LeaseShown], count: int) -> list[SaidLine]:
        """The newest console lines of some processes, oldest first."""

    def why(self, run: RunSeen) -> list[str]:
        """The end of the Run, or its state."""


class Looking:
    """The source that looks at this machine.

    Args:
        board: of the Runs.
    """

    def __init__(self, board: Board) -> None:
        self._board = board

    @property
    def remark(self) -> str:
        """What a person should know about the looking."""
        return self._board.remark

    def look(self) -> list[RunSeen]:
        """The Runs as of now."""
        return self._board.look()

    def curve(self, run: RunSeen, name: str, *, every_rank: bool) -> Drawn:
        """Points that are on this machine; of all ranks their mean between the smallest and the largest."""
        series = Run(self._board.lookup, _found(run)).series([name], every_rank=every_rank)
        if every_rank:
            for found in series.together():
                if found.metric == name:
                    means, lows, highs = (
                        _curve(found.steps, each) for each in (found.means, found.lows, found.highs)
                    )
                    return Drawn(means, (lows, highs), max(len(found.ranks), *found.counts))
        drawn = Curve()
        for each in series.curves():
            if each.name == name:
                drawn.extend(each.steps, each.values)
        return Drawn(drawn)

    def console(self, run: RunSeen, leases: Sequence[LeaseShown], count: int) -> list[SaidLine]:
        """The newest lines; of many processes those of the first `TOGETHER`."""
        folders = roots(_found(run), self._board.lookup.spool)
        several = len(leases) > 1
        lines = [
            line
            for lease in leases[:TOGETHER]
            for line in last_lines(
                lease, folders, count, speaker_shown(lease, run.document) if several else ""
            )
        ]
        return sorted(lines, key=lambda line: line.time)[-count:]

    def why(self, run: RunSeen) -> list[str]:
        """The status and its reason, who failed first with the last lines of its console."""
        document = run.document
        unsettled = self._board.remark
        remark = remark_on(document, self._board.lookup, run.situation, unsettled, live=run.live)
        lease = failed_lease(document)
        shown = report.Shown(
            document=document,
            store=str(run.store),
            situation=run.situation,
            last_lines=tuple(self.console(run, [lease], LAST_LINES)) if lease is not None else (),
        )
        parts = [
            [f"{run.name} {document.name}: {run.situation.status}"],
            [remark] if remark else [],
            [f"trouble: {document.trouble}"] if document.trouble else [],
            list(report.verdict_lines(shown)),
            list(report.earlier_lines(document)),
        ]
        lines = [line for part in parts if part for line in ("", *part)][1:]
        if document.verdict is None and not document.attempts:
            lines += ["", "It has not ended, and no attempt of it failed."]
        return lines


def _found(run: RunSeen) -> Found:
    return Found(run.document, b"", run.store, run.live)


def _curve(steps: Sequence[int], values: Sequence[float]) -> Curve:
    made = Curve()
    made.extend(steps, values)
    return made
