"""The chart of one series of the Run under the cursor, read by a thread and drawn as text."""

from __future__ import annotations

import time
from itertools import accumulate
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual import work
from textual.widget import Widget

from pluto_dist.cli.chart import Curve, picture
from pluto_dist.cli.top.model import main_series
from pluto_dist.cli.top.source import Drawn, Source
from pluto_dist.cli.top.widgets import as_title, hand_over
from pluto_dist.errors import PlutoDistError
from pluto_dist.read.board import RunSeen

SPARE = 10  # of the time, reading takes at most a tenth
EVERY_S = 2.0
ENDED_S = 60.0  # what has ended hardly changes


class Wanted(NamedTuple):
    """What is to be drawn: a Run by its key, a series, of one rank or of all."""

    run: str
    name: str
    every_rank: bool


class Chart(Widget):
    """One series as a line of braille dots; of all ranks the mean, on the band in which they lie.

    Args:
        source: of the points.
        id: of the widget.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"chart--band"}

    def __init__(self, source: Source, *, id: str) -> None:  # noqa: A002 # Textual's name
        super().__init__(id=id)
        self._source = source
        self._run: RunSeen | None = None
        self._chosen: dict[str, str] = {}
        self._every_rank = self._reading = False
        self._shown: Wanted | None = None
        self._next_at = 0.0
        self._drawn, self._instead = Drawn(Curve()), ""

    def follow(self, run: RunSeen | None, instead: str) -> None:
        """Another Run is under the cursor, or the same as of now.

        Args:
            run: None where there is none.
            instead: the sentence that then stands here.
        """
        self._run = run
        if run is None:
            self._show(None, Drawn(Curve()), instead)
        elif self._wanted(run) != self._shown:
            self._read()

    def turn(self) -> None:
        """Time has passed: the points are read anew if that is due."""
        if time.monotonic() >= self._next_at:
            self._read()

    def choose(self, run: RunSeen, name: str) -> None:
        """Another series of a Run."""
        self._chosen[run.key] = name
        self._read()

    def all_ranks(self) -> None:
        """One rank, or all of them."""
        self._every_rank = not self._every_rank
        self._read()

    def render(self) -> Text:
        """As large as there is room."""
        found = picture(self._drawn.curve, self.size.width, self.size.height, self._drawn.band)
        if not found.lines:
            return Text(self._instead, style="dim")
        text, style = Text("\n".join(found.lines)), self.get_component_rich_style("chart--band")
        starts = list(accumulate((len(line) + 1 for line in found.lines), initial=0))
        for column, rows in enumerate(found.shaded):
            for row in range(rows[0], rows[1] + 1) if rows is not None else ():
                at = starts[row] + found.left + column
                text.stylize(style, at, at + 1)
        return text

    def _wanted(self, run: RunSeen) -> Wanted:
        name = self._chosen.get(run.key) or main_series(run.document.summary) or ""
        return Wanted(run.key, name, self._every_rank)

    def _read(self) -> None:
        run = self._run
        if self._reading or run is None:
            return
        wanted = self._wanted(run)
        if wanted.name:
            self._reading = True
            self._load(run, wanted)
        else:
            self._show(wanted, Drawn(Curve()), "no points yet")

    @work(thread=True, group="chart")
    def _load(self, run: RunSeen, wanted: Wanted) -> None:
        begun, drawn = time.monotonic(), Drawn(Curve())
        try:
            drawn = self._source.curve(run, wanted.name, every_rank=wanted.every_rank)
            instead = "no points here; those that were delivered are on the server"
        except (PlutoDistError, OSError) as error:
            instead = str(error)
        now = time.monotonic()
        over = run.situation.standing == "ended"
        self._next_at = now + (ENDED_S if over else max(EVERY_S, SPARE * (now - begun)))
        hand_over(self, self._take, wanted, drawn, instead)

    def _take(self, wanted: Wanted, drawn: Drawn, instead: str) -> None:
        self._reading = False
        if self._run is not None and self._wanted(self._run) == wanted:
            self._show(wanted, drawn, instead)
        else:
            self._read()  # the person has gone on meanwhile

    def _show(self, wanted: Wanted | None, drawn: Drawn, instead: str) -> None:
        self._shown, self._drawn, self._instead = wanted, drawn, instead
        about = _about(drawn, wanted.name) if wanted is not None else []
        self.border_title = as_title("  ".join(part for part in about if part))
        self.refresh()


def _about(drawn: Drawn, name: str) -> list[str]:
    curve = drawn.curve
    if not curve.steps:
        return [name]
    last = f"{curve.values[-1]:.4g}"
    if drawn.band is not None and drawn.band[0].values and drawn.band[1].values:
        low, high = drawn.band[0].values[-1], drawn.band[1].values[-1]
        last = f"mean {last} ({low:.4g} … {high:.4g})"
    if drawn.ranks:
        return [name, f"{drawn.ranks} ranks", last]
    return [
        name,
        last,
        f"{len(curve.steps):,} points",
        f"{curve.skipped} not finite" if curve.skipped else "",
    ]
