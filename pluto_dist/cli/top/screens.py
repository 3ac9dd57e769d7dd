"""What lies over the main screen for a while: a console, why a Run ended, its events, a choice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, OptionList, RichLog
from textual.widgets.option_list import Option

from pluto_dist.backend.local.reading import SaidLine
from pluto_dist.cli.console import printable
from pluto_dist.cli.top.model import event_line
from pluto_dist.cli.top.source import Source
from pluto_dist.cli.top.widgets import as_title, clock_of, hand_over, keys, style_of
from pluto_dist.read.board import RunSeen
from pluto_dist.read.processes import Group

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
