"""The full screen: Runs, the processes of one of them, a chart, events; and what lies over it for a while.

    Runs           one line each; the one under the cursor is the one below
    processes      of that Run, those that are alike in one line, the worst first
    chart, events  of that Run
    over it        a console, why a Run ended, its events, a choice

Looking runs in a thread, at most one at a time, and less often where it takes long; what is shown is decided
by `model`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ClassVar

import msgspec
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import ModalScreen, Screen
from textual.widgets import DataTable, Input, OptionList, RichLog
from textual.widgets.option_list import Option

from pluto_dist.backend.local.reading import SaidLine
from pluto_dist.cli.console import now_ms, printable
from pluto_dist.cli.top.model import (
    PROCESS_COLUMNS,
    RUN_COLUMNS,
    SORTED_COLUMN,
    Asked,
    ProcessRow,
    Source,
    event_line,
    headline,
    plotted,
    process_rows,
    run_rows,
)
from pluto_dist.cli.top.widgets import Chart, Events, Table, as_title, clock_of, hand_over, keys, style_of
from pluto_dist.errors import PlutoDistError
from pluto_dist.read.board import RunSeen
from pluto_dist.read.processes import Group

SPARE = 4  # of the time, looking takes at most a fifth
HELP = """\
Tab          from the Runs to the processes and back
↑ ↓          another Run, another process
Enter, c     console of the process, or of all in the line
w            why the Run ended; what the first that failed said last
e            all events of the Run
m, b         another series in the chart; all ranks: mean, smallest, largest
s, r         sort by the next column; the other way round. Or click a title
/            only lines with these words; Escape takes the filter away
g            one line for processes that are alike, or one for each
a            also earlier attempts, and sides that have left
Space, q     look now; quit

failed first began the end of the Run
died         ended without a word
crashed      a side that failed; the Run goes on
stuck        others go on, or wait for it, says the coordinator
suspect      silent for three heartbeats: stopped, or busy in one long call
behind       what it lacks takes the others more than 5 s
lost         no live coordinator has its Run; nobody can say whether it lives

LAG: steps behind the median of the ranks. CPU: percent of one core, of the
process without its children. LIVE: members that live, of all.
A line of several has the slowest STEP/S, the largest LAG and WORD, and the
sum of BACKLOG, CPU and MEMORY."""
EMPTY = "No Run goes on here. --all shows those that have ended, --dir and --home look elsewhere."


class Top(App[None]):
    """`pluto-dist top`.

    Args:
        source: of all that is shown.
        every_s: seconds between looks, None for looks only by key.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "top.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+c", "quit", show=False, priority=True)]
    TITLE = "pluto-dist top"

    def __init__(self, source: Source, every_s: float | None = 1.0) -> None:
        super().__init__()
        self._main = Main(source, every_s)

    def on_mount(self) -> None:
        """Opens the main screen."""
        self.push_screen(self._main)


class Main(Screen[None]):
    """The Runs, and what is known of one of them.

    Args:
        source, every_s: as for `Top`.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "app.quit", "Quit"),
        Binding("s", "sort", "Sort"),
        Binding("r", "reverse", "Reverse", show=False),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("c", "console", "Console"),
        Binding("w", "why", "Why"),
        Binding("e", "events", "Events"),
        Binding("m", "metric", "Metric"),
        Binding("b", "band", "Band"),
        Binding("g", "group", "Group"),
        Binding("a", "ended", "All", show=False),
        Binding("question_mark", "help", "Keys", key_display="?"),
        Binding("space", "look", "Look", show=False),
        Binding("escape", "clear", "Clear", show=False),
    ]

    def __init__(self, source: Source, every_s: float | None = 1.0) -> None:
        super().__init__()
        self._source, self._every_s = source, every_s
        self._asked = Asked()
        self._runs: list[RunSeen] = []
        self._rows: list[ProcessRow] = []
        self._looking = self._looked = False
        self._next_look = 0.0
        self._trouble = ""
        self._filtered = "processes"

    def compose(self) -> ComposeResult:
        """Two tables, a chart beside events, the keys."""
        yield Table(RUN_COLUMNS, "STATUS", id="runs")
        yield Table(PROCESS_COLUMNS, "STATE", id="processes")
        with Horizontal(id="below"):
            yield Chart(self._source, id="chart")
            yield Events(id="events")
        yield Input(id="filter", placeholder="only lines with these words  (Enter keeps, Escape clears)")
        yield keys()

    def on_mount(self) -> None:
        """Begins to look."""
        self.query_one("#filter").display = False
        self.query_one("#runs", Table).border_title = "looking …"
        self.query_one("#processes").focus()
        self.action_look()
        if self._every_s is not None:
            self.set_interval(self._every_s, self._turn)

    @property
    def run_shown(self) -> RunSeen | None:
        """The Run under the cursor."""
        key = self.query_one("#runs", Table).chosen
        return next((run for run in self._runs if run.key == key), None)

    # --- looking

    def _turn(self) -> None:
        if time.monotonic() >= self._next_look:
            self.action_look()
        self.query_one(Chart).turn()

    def action_look(self) -> None:
        """Looks now."""
        if not self._looking:
            self._looking = True
            self._look()

    @work(thread=True, group="look")
    def _look(self) -> None:
        begun = time.monotonic()
        runs, trouble = self._runs, ""
        try:
            runs = self._source.look()
        except (PlutoDistError, OSError) as error:
            trouble = str(error)
        self._next_look = time.monotonic() + SPARE * (time.monotonic() - begun)
        hand_over(self, self._take, runs, trouble or self._source.remark)

    def _take(self, runs: list[RunSeen], trouble: str) -> None:
        self._looking, self._looked = False, True
        self._runs, self._trouble = runs, trouble
        self._show()

    # --- showing

    def _show(self) -> None:
        at_ms = now_ms()
        table = self.query_one("#runs", Table)
        rows = run_rows(self._runs, self._asked, at_ms)
        table.show_rows(rows)
        hidden = f" of {len(self._runs)}" if len(rows) < len(self._runs) else ""
        parts = [f"Runs {len(rows)}{hidden}", time.strftime("%H:%M:%S")]
        table.border_title = _joined([*parts, self._trouble])
        self._show_run(at_ms)

    def _show_run(self, at_ms: int) -> None:
        run, table = self.run_shown, self.query_one("#processes", Table)
        self._rows = process_rows(run, self._asked) if run is not None else []
        sign = {SORTED_COLUMN[self._asked.by]: "▴" if self._asked.reverse else "▾"}
        table.show_rows([each.row for each in self._rows], sign)
        words = f"filter {self._asked.processes}" if self._asked.processes else ""
        table.border_title = _joined([words, headline(run, at_ms)] if run is not None else [])
        self.query_one(Events).show_events(run.document.events if run is not None else ())
        self.query_one(Chart).follow(run, EMPTY if self._looked else "")

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Another Run is under the cursor."""
        if event.data_table.id == "runs":
            self._show_run(now_ms())

    # --- the chart

    def action_metric(self) -> None:
        """Lets the person choose a series."""
        run = self.run_shown
        if run is None:
            return

        def take(name: str | None) -> None:
            if name is not None:
                self.query_one(Chart).choose(run, name)

        self.app.push_screen(Choosing("series", plotted(run.document.summary)), take)

    def action_band(self) -> None:
        """One rank, or all of them."""
        self.query_one(Chart).all_ranks()

    # --- asking

    def _ask(self, **changed: object) -> None:
        self._asked = msgspec.structs.replace(self._asked, **changed)
        self._show()

    def action_sort(self) -> None:
        """By the next column."""
        self._asked = self._asked.sorted_by_next()
        self._show()

    def action_reverse(self) -> None:
        """The other way round."""
        self._ask(reverse=not self._asked.reverse)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """A click on a title sorts by it; a second one turns it round."""
        by = next((key for key, title in SORTED_COLUMN.items() if title == event.column_key.value), None)
        if event.data_table.id == "processes" and by is not None:
            self._ask(by=by, reverse=by == self._asked.by and not self._asked.reverse)

    def action_group(self) -> None:
        """One line for those that are alike, or one for each."""
        self._ask(grouped=not self._asked.grouped)

    def action_ended(self) -> None:
        """Also what earlier attempts left."""
        self._ask(ended=not self._asked.ended)

    def action_filter(self) -> None:
        """Opens the field for the table that has the focus."""
        field = self.query_one("#filter", Input)
        self._filtered = "runs" if self.query_one("#runs").has_focus else "processes"
        field.value = getattr(self._asked, self._filtered)
        field.display = True
        field.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filters while it is typed."""
        if event.input.id == "filter" and event.input.display:
            self._ask(**{self._filtered: event.value})

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keeps the filter."""
        if event.input.id == "filter":
            self._close_filter()

    def action_clear(self) -> None:
        """Takes the filters away."""
        self._close_filter()
        self._ask(runs="", processes="")

    def _close_filter(self) -> None:
        field = self.query_one("#filter", Input)
        if field.display:
            field.display = False
            self.query_one(f"#{self._filtered}").focus()

    # --- looking closer

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Enter on a process opens its console, on a Run goes to its processes."""
        if event.data_table.id == "processes":
            self.action_console()
        else:
            self.query_one("#processes").focus()

    def action_console(self) -> None:
        """The console of the processes in the line."""
        run, key = self.run_shown, self.query_one("#processes", Table).chosen
        row = next((each for each in self._rows if each.row.key == key), None)
        if run is None or row is None:
            return
        if is_elsewhere(run, row.group):
            where = printable(row.group.first.lease.host)
            self.app.notify(f"its console is on its node; look there, on {where}")
        else:
            self.app.push_screen(console_of(self._source, run, row.group, self._every_s))

    def action_why(self) -> None:
        """How the Run ended."""
        run = self.run_shown
        if run is not None:
            self.app.push_screen(why(self._source, run))

    def action_events(self) -> None:
        """All events of the Run."""
        run = self.run_shown
        if run is not None:
            self.app.push_screen(events_of(run, lambda: self._runs, self._every_s))

    def action_help(self) -> None:
        """The keys and the words."""
        self.app.push_screen(Reading("keys and words", lambda: [Text(line) for line in HELP.splitlines()]))


def _joined(parts: list[str]) -> str:
    return as_title(" · ".join(part for part in parts if part))


CHOICES = 300
LINES = 2000


class Reading(Screen[None]):
    """A long text that can be scrolled and searched; closed by Escape.

    Args:
        title: of the screen.
        read: gives its lines, called by a thread.
    """

    follows = False

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "Back"),
        Binding("slash", "search", "Search", key_display="/"),
        Binding("end,G", "end", "End", key_display="G"),
        Binding("home", "home", "Begin"),
    ]

    def __init__(self, title: str, read: Callable[[], Sequence[Text]]) -> None:
        super().__init__()
        self._title, self._read = title, read
        self._lines: Sequence[Text] = ()
        self._shown: list[Text] = []
        self._word = ""

    def compose(self) -> ComposeResult:
        """A log, a field for the search, the keys."""
        log = RichLog(id="lines", wrap=True, auto_scroll=self.follows, min_width=20)
        log.border_title = as_title(self._title)
        yield log
        yield Input(id="search", placeholder="only lines with …  (Enter keeps, Escape clears)")
        yield keys()

    def on_mount(self) -> None:
        """Begins to read."""
        self.query_one("#search").display = False
        self.query_one("#lines").focus()
        self.load()

    @work(thread=True, group="read")
    def load(self) -> None:
        """Reads once."""
        try:
            lines = self._read()
        except OSError as error:
            lines = [Text(f"it cannot be read: {error}", style="red")]
        hand_over(self, self._take, lines)

    def _take(self, lines: Sequence[Text]) -> None:
        self._lines = lines
        self._show()

    def _show(self) -> None:
        """Adds what is new at the end; writes all anew only where the beginning has changed."""
        log = self.query_one("#lines", RichLog)
        word = self._word.lower()
        lines = [line for line in self._lines if word in line.plain.lower()]
        first = self._first_new(lines)
        follow = self.follows and (log.is_vertical_scroll_end or not self._shown)
        if first == 0:
            log.clear()
        for line in lines[first:]:
            log.write(line, scroll_end=follow)
        if not lines and first == 0:
            log.write(Text("no line" + (f" with {self._word!r}" if word else " yet"), style="dim"))
        self._shown = lines

    def _first_new(self, lines: list[Text]) -> int:
        if not self._shown or not lines:
            return 0
        last = self._shown[-1]
        for index in range(len(lines) - 1, -1, -1):
            if lines[index] == last and (
                index == 0 or len(self._shown) < 2 or lines[index - 1] == self._shown[-2]
            ):
                return index + 1
        return 0

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filters while it is typed."""
        self._word = event.value
        self._shown = []
        self._show()

    def on_input_submitted(self) -> None:
        """Keeps the filter."""
        self.query_one("#lines").focus()

    def action_search(self) -> None:
        """Opens the field."""
        field = self.query_one("#search", Input)
        field.display = True
        field.focus()

    def action_leave(self) -> None:
        """Clears the search, or closes."""
        field = self.query_one("#search", Input)
        if field.display:
            field.value = ""
            field.display = False
            self.query_one("#lines").focus()
        else:
            self.dismiss()

    def action_end(self) -> None:
        """To the newest line; new ones are followed from there."""
        self.query_one("#lines", RichLog).scroll_end(animate=False)

    def action_home(self) -> None:
        """To the first line."""
        self.query_one("#lines", RichLog).scroll_home(animate=False)


class Following(Reading):
    """A text that grows: it begins at its end, and stays there until the person goes up.

    Args:
        every_s: how often it is read again, None for once.
        title, read: as for `Reading`.
    """

    follows = True

    def __init__(self, title: str, read: Callable[[], Sequence[Text]], every_s: float | None) -> None:
        super().__init__(title, read)
        self._every_s = every_s

    def on_mount(self) -> None:
        """Reads again and again; what the text begins with is read by `Reading`."""
        if self._every_s is not None:
            self.set_interval(self._every_s, self.load)


class Choosing(ModalScreen[str | None]):
    """One of many texts; what is typed filters them.

    Args:
        title: of the box.
        choices: what there is.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("down", "down", show=False),
    ]

    def __init__(self, title: str, choices: Sequence[str]) -> None:
        super().__init__()
        self._title, self._choices = title, choices

    def compose(self) -> ComposeResult:
        """A field over a list."""
        field = Input(id="word", placeholder=f"{self._title}: type to filter, Enter takes the first")
        yield field
        yield OptionList(id="choices")

    def on_mount(self) -> None:
        """Shows all."""
        self._fill("")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filters."""
        self._fill(event.value)

    def on_input_submitted(self) -> None:
        """Takes the first."""
        fitting = self._fitting(self.query_one("#word", Input).value)
        self.dismiss(fitting[0] if fitting else None)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Takes this one."""
        self.dismiss(self._fitting(self.query_one("#word", Input).value)[event.option_index])

    def action_leave(self) -> None:
        """Takes none."""
        self.dismiss(None)

    def action_down(self) -> None:
        """From the field into the list."""
        found = self.query_one("#choices", OptionList)
        found.focus()
        found.highlighted = 0 if found.option_count else None

    def _fill(self, word: str) -> None:
        found = self.query_one("#choices", OptionList)
        found.clear_options()
        found.add_options([Option(Text(printable(each))) for each in self._fitting(word)])

    def _fitting(self, word: str) -> list[str]:
        words = word.lower().split()
        return [each for each in self._choices if all(part in each.lower() for part in words)][:CHOICES]


def is_elsewhere(run: RunSeen, group: Group) -> bool:
    """Whether processes are known from other nodes only, which have their consoles."""
    here = {lease.lease_id for lease in run.document.leases}
    return all(process.lease.lease_id not in here for process in group.processes)


def console_of(source: Source, run: RunSeen, group: Group, every_s: float | None) -> Following:
    """The console of one process, or of all that share a line."""
    leases = [process.lease for process in group.processes]

    def read() -> list[Text]:
        return [_said(line) for line in source.console(run, leases, LINES)]

    return Following(printable(f"console of {group.who}, {run.name} {run.document.name}"), read, every_s)


def why(source: Source, run: RunSeen) -> Reading:
    """How a Run ended, or how it is."""

    def read() -> list[Text]:
        return [_reported(line) for text in source.why(run) for line in text.splitlines() or [""]]

    return Reading(printable(f"why: {run.name} {run.document.name}"), read)


def events_of(run: RunSeen, runs: Callable[[], Sequence[RunSeen]], every_s: float | None) -> Following:
    """All events of a Run; `runs` gives the Runs as of now."""

    def read() -> list[Text]:
        now = next((each for each in runs() if each.key == run.key), run)
        return [
            Text(f"{clock_of(event)} ", "dim").append(event_line(event), style_of(event))
            for event in now.document.events
        ]

    return Following(printable(f"events of {run.name}"), read, every_s)


def _said(line: SaidLine) -> Text:
    """A line of a console; what went to stderr is yellow."""
    text = Text()
    text.append(time.strftime("%H:%M:%S ", time.localtime(line.time / 1000)), "dim")
    if line.speaker:
        text.append(f"{printable(line.speaker)} ", "cyan")
    return text.append(printable(line.message), "yellow" if line.log_type == "ERROR" else "")


def _reported(line: str) -> Text:
    """A line of a report."""
    bad = line.startswith(("verdict: FAILED", "first failure"))
    return Text(printable(line), style="bold red" if bad else "dim" if line.startswith("  |") else "")
