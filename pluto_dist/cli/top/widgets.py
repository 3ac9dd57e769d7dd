"""The pieces of the screen: a table that keeps its cursor, a list of events, a chart."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual import work
from textual.widget import Widget
from textual.widgets import DataTable, Footer
from textual.worker import get_current_worker

from pluto_dist.cli.chart import Curve, picture
from pluto_dist.cli.console import printable
from pluto_dist.cli.top.model import NUMBERS, Drawn, Row, Source, folded, main_series, short
from pluto_dist.core.values.records import RunEvent
from pluto_dist.errors import PlutoDistError
from pluto_dist.read.board import RunSeen

SPARE = 10  # of the time, reading takes at most a tenth
EVERY_S = 2.0
ENDED_S = 60.0  # what has ended hardly changes


class Table(DataTable[Text]):
    """Rows that are shown again and again; the cursor stays with its row, wherever that moves.

    Args:
        columns: their titles.
        styled: the title of the column that has the row's style.
        id: of the widget.
    """

    def __init__(self, columns: Sequence[str], styled: str, *, id: str) -> None:  # noqa: A002 # Textual's name
        super().__init__(id=id, cursor_type="row", cell_padding=0, cursor_foreground_priority="renderable")
        self._titles, self._styled = tuple(columns), styled
        self._rows: list[Row] = []
        self._made: tuple[Sequence[str], Sequence[int]] = ((), ())

    @property
    def chosen(self) -> str | None:
        """Key of the row under the cursor."""
        return self._rows[self.cursor_row].key if 0 <= self.cursor_row < len(self._rows) else None

    def show_rows(self, rows: Sequence[Row], sign: Mapping[str, str] | None = None) -> None:
        """Shows these rows.

        Args:
            rows: as wide as they like; numbers are aligned here.
            sign: a character behind the title of a column.
        """
        heads = tuple(f"{title}{(sign or {}).get(title, ' ')}" for title in self._titles)
        widths = _widths(heads, rows)
        if [row.key for row in rows] == [row.key for row in self._rows]:  # columns do not jump to and fro
            widths = [max(pair) for pair in zip(widths, self._made[1], strict=False)] or widths
        aligned = [_aligned(row, heads, widths) for row in rows]
        before, chosen, at = self._rows, self.chosen, self.scroll_y
        self._rows = aligned
        if (heads, widths) == self._made and [row.key for row in before] == [row.key for row in aligned]:
            self._update(before)
            return
        self._make(heads, widths)
        keys = [row.key for row in aligned]
        if chosen in keys:
            self.move_cursor(row=keys.index(chosen), scroll=False)
            self.scroll_to(y=at, animate=False)

    def _make(self, heads: Sequence[str], widths: Sequence[int]) -> None:
        self.clear(columns=True)
        self._made = (heads, widths)
        for title, head, width in zip(self._titles, heads, widths, strict=True):
            self.add_column(head.rjust(width) if title in NUMBERS else head, key=title, width=width)
        for row in self._rows:
            self.add_row(*self._texts(row), key=row.key)

    def _update(self, before: Sequence[Row]) -> None:
        for old, row in zip(before, self._rows, strict=True):
            if old != row:
                for title, text in zip(self._titles, self._texts(row), strict=True):
                    self.update_cell(row.key, title, text)

    def _texts(self, row: Row) -> list[Text]:
        return [
            Text(cell, style=row.style if title == self._styled or row.style == "dim" else "")
            for title, cell in zip(self._titles, row.cells, strict=True)
        ]


class Events(Widget):
    """The newest events of a Run, as many as there is room for."""

    def __init__(self, *, id: str) -> None:  # noqa: A002 # Textual's name
        super().__init__(id=id)
        self._events: Sequence[RunEvent] = ()

    def show_events(self, events: Sequence[RunEvent]) -> None:
        """Shows the end of these."""
        self._events = events
        self.border_title = as_title(f"events {len(events)}" if events else "events")
        self.refresh()

    def render(self) -> Text:
        """One line each, cut at the edge."""
        text = Text()
        for event, line in folded(self._events)[-max(1, self.size.height) :]:
            cut = short(line, max(1, self.size.width - 9))
            text.append(f"{clock_of(event)} ", "dim").append(f"{cut}\n", style_of(event))
        text.rstrip()
        return text


def as_title(text: str) -> str:
    """A border's title is markup; names are not."""
    return printable(text).replace("[", "\\[")


def _aligned(row: Row, heads: Sequence[str], widths: Sequence[int]) -> Row:
    """A row with its cells as wide as their columns: numbers to the right, one space between columns."""
    cells = tuple(
        f"{cell} ".rjust(width) if head[:-1] in NUMBERS else f"{cell} ".ljust(width)
        for head, cell, width in zip(heads, row.cells, widths, strict=True)
    )
    return Row(row.key, cells, row.style)


def _widths(heads: Sequence[str], rows: Sequence[Row]) -> list[int]:
    cells = [row.cells for row in rows]
    return [max(len(head), *(len(row[at]) + 1 for row in cells), 0) for at, head in enumerate(heads)]


def hand_over(to: Widget, take: Callable[..., None], *found: object) -> None:
    """What a thread has found, for the screen; nothing where that was closed meanwhile."""
    if get_current_worker().is_cancelled:
        return

    def taken() -> None:
        if to.is_attached and to.app.is_running:  # an app that has closed its screens is attached as before
            take(*found)

    to.app.call_from_thread(taken)


def keys() -> Footer:
    """The keys, close together."""
    footer = Footer()
    footer.compact = True  # not every version takes it as an argument
    return footer


def style_of(event: RunEvent) -> str:
    """Bad news are red, warnings yellow."""
    if event.name in ("side_died", "side_failed", "records_damaged"):
        return "red"
    if event.name == "ended":
        return "red" if event.detail.get("status") == "FAILED" else "green"
    return "yellow" if event.name in ("ranks_stuck", "restarted", "superseded", "taken_over") else ""


def clock_of(event: RunEvent) -> str:
    """Local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(event.at_ms / 1000))


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
