"""A closer look: the console of processes, why a Run ended, its events; each a text over the main screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.text import Text

from pluto_dist.backend.local.reading import SaidLine
from pluto_dist.cli.console import printable
from pluto_dist.cli.top.model import event_line
from pluto_dist.cli.top.screens import Following, Reading
from pluto_dist.cli.top.source import Source
from pluto_dist.cli.top.widgets import clock_of, style_of
from pluto_dist.read.board import RunSeen
from pluto_dist.read.groups import Group

LINES = 2000


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
