"""The pieces of the screen: a table that keeps its cursor, a list of events."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from rich.text import Text
from textual.widget import Widget
from textual.widgets import DataTable, Footer
from textual.worker import get_current_worker

from pluto_dist.cli.console import printable
from pluto_dist.cli.top.model import NUMBERS, Row, folded, short
from pluto_dist.core.values.records import RunEvent


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
        if to.is_attached:
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
