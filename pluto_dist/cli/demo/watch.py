"""Shows the demo's Run while it lives: a live table, or lines where a table cannot be drawn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, Self

from pluto_dist.cli.console import STATUS_STYLES, printable
from pluto_dist.read.streams import caught_up

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from pluto_dist.core.values.document import Document, LeaseShown
    from pluto_dist.core.values.records import RunEvent
    from pluto_dist.read.lookup import Lookup

LOOK_S = 0.2
LINE_EVERY_S = 2.0
COLUMNS = ("RUN", "ROLE", "LABEL", "RANK", "PID", "STATE", "STEP", "WRITTEN", "DELIVERED")
FAILURES = {"side_failed": "crashed", "side_died": "died"}
NUMBERS = ("RANK", "PID", "STEP", "WRITTEN", "DELIVERED")


class Screen(Protocol):
    """A display for the state of the Run."""

    def show(self, document: Document, elapsed_s: float) -> None:
        """The Run as it is now."""

    def __enter__(self) -> Self:
        """Begins."""

    def __exit__(self, *_: object) -> None:
        """Ends; nothing is left on the screen but lines."""


class Table:
    """A table that is drawn anew in place."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._live = Live(console=console, auto_refresh=False)

    def show(self, document: Document, elapsed_s: float) -> None:
        """All leases, those that have ended too."""
        self._live.update(_table(document, elapsed_s), refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


class Lines:
    """A line from time to time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = 0.0

    def show(self, document: Document, elapsed_s: float) -> None:
        """One line each two seconds."""
        if elapsed_s >= self._next_s:
            self._next_s = elapsed_s + LINE_EVERY_S
            self._console.print(f"{elapsed_s:5.1f} s  {_line(document)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def screen(console: Console) -> Screen:
    """A table where a terminal can draw one, else lines."""
    return Table(console) if console.is_terminal and not console.is_dumb_terminal else Lines(console)


class Watch:
    """Asks the coordinator about one Run, shows it, and prints when a process comes or goes.

    Attributes:
        document: the Run as it was seen last, None before it is open.
    """

    def __init__(self, lookup: Lookup, run_id: str, console: Console, on: Screen) -> None:
        self.document: Document | None = None
        self._lookup = lookup
        self._run_id = run_id
        self._console = console
        self._screen = on
        self._states: dict[str, str] = {}
        self._started = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Since the watch began."""
        return time.monotonic() - self._started

    def until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Watches until the condition holds; whether it did so in time."""
        while not condition():
            if self.elapsed_s > within_s:
                return False
            time.sleep(LOOK_S)
            self.look()
        return True

    def look(self) -> None:
        """Looks once."""
        found = [each for each in self._lookup.documents() if each.run_id == self._run_id]
        if found:
            self.document = caught_up(found[0], self._lookup.spool)
            for text in self._news(self.document):
                self.say(text)
            self._screen.show(self.document, self.elapsed_s)

    def say(self, text: str) -> None:
        """A line with the time."""
        self._console.print(f"{self.elapsed_s:5.1f} s  {printable(text)}")

    def lease(self, label: str) -> LeaseShown | None:
        """The lease of the process that people call so, None if it has none yet."""
        leases = self.document.leases if self.document is not None else ()
        return next((lease for lease in leases if lease.label == label), None)

    def failed(self, *labels: str) -> bool:
        """Whether the Run knows of the crash or death of all these processes."""
        events = self.document.events if self.document is not None else ()
        known = {event.detail.get("label") for event in events if event.name in FAILURES}
        return known >= set(labels)

    def _news(self, document: Document) -> Iterator[str]:
        for lease in document.leases:
            state, before = lease.state, self._states.get(lease.lease_id)
            if state != before:
                self._states[lease.lease_id] = state
                if state == "active":
                    yield f"{_who(lease)} attached to {_run(document)} as {lease.role}"
                if state == "ended":
                    yield f"{_who(lease)} {_end(document, lease)}: {_run(document)} is {document.status}"


def _who(lease: LeaseShown) -> str:
    return f"{lease.label} (pid {lease.pid})"


def _run(document: Document) -> str:
    return document.display_id or document.run_id


def _state(document: Document, lease: LeaseShown) -> str:
    """State of a process, or how it ended."""
    failure = _failure(document, lease)
    return lease.end_reason or lease.state if failure is None else FAILURES[failure.name]


def _end(document: Document, lease: LeaseShown) -> str:
    failure = _failure(document, lease)
    detail = failure.detail if failure is not None else {}
    why = detail.get("type") or detail.get("signal")
    return f"{_state(document, lease)} ({why})" if why else _state(document, lease)


def _failure(document: Document, lease: LeaseShown) -> RunEvent | None:
    """The event of a side's failure, which stands nowhere else."""
    found = (event for event in document.events if event.name in FAILURES)
    return next((event for event in found if event.detail.get("label") == lease.label), None)


def _table(document: Document, elapsed_s: float) -> RenderableType:
    from rich.console import Group
    from rich.table import Table as Grid
    from rich.text import Text

    title = Text(f"{elapsed_s:5.1f} s  {_line(document)}", style=STATUS_STYLES.get(document.status, ""))
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        grid.add_column(column, justify="right" if column in NUMBERS else "left", no_wrap=True)
    for lease in document.leases:
        style = "dim" if lease.state == "ended" else ""
        grid.add_row(*(Text(printable(cell), style=style) for cell in _row(document, lease)))
    return Group("", title, grid)


def _row(document: Document, lease: LeaseShown) -> tuple[object, ...]:
    who = (lease.role, lease.label, lease.rank, lease.pid)
    return (_run(document), *who, _state(document, lease), lease.last_step, lease.written, lease.delivered)


def _line(document: Document) -> str:
    attached = [lease.label for lease in document.leases if lease.state == "active"]
    loss = document.summary.get("train/loss")
    training = f"step {loss.step}, loss {loss.last:.3g}, " if loss is not None else ""
    written = sum(lease.written for lease in document.leases)
    delivered = sum(lease.delivered for lease in document.leases)
    return (
        f"{_run(document)} {document.status}, {training}{len(attached)} attached, "
        f"{delivered} of {written} delivered"
    )
