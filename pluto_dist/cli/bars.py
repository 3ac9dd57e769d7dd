"""How uploads are shown: bars with rate and remaining time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from pluto_dist.cli.console import size, span

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pluto_dist.cli.uploads import Parcel

SAY_EVERY_S = 30.0  # of a file that takes long


class Bars(Protocol):
    """What a command tells of its uploads, on stderr."""

    def say(self, text: str) -> None:
        """A remark."""
        ...

    def begin(self, parcel: Parcel) -> None:
        """A file was handed over."""
        ...

    def show(self, waiting: Iterable[Parcel]) -> None:
        """How far those are that are on their way."""
        ...

    def end(self, parcel: Parcel) -> None:
        """A file is uploaded, or refused."""
        ...


@contextmanager
def bars() -> Iterator[Bars]:
    """As fits stderr."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Rich(progress)


class Lines:
    """A line when a file is done, and one in a while before."""

    def __init__(self) -> None:
        self._begun: dict[str, float] = {}
        self._told: dict[str, float] = {}

    def say(self, text: str) -> None:
        """See `Bars`."""
        typer.echo(f"pluto-dist: {text}", err=True)

    def begin(self, parcel: Parcel) -> None:
        """See `Bars`."""
        self._begun[parcel.id] = self._told[parcel.id] = time.monotonic()

    def show(self, waiting: Iterable[Parcel]) -> None:
        """See `Bars`."""
        now = time.monotonic()
        for parcel in waiting:
            if now - self._told[parcel.id] >= SAY_EVERY_S:
                self._told[parcel.id] = now
                self.say(f"{parcel.path}: {size(parcel.sent)} of {size(parcel.size)}")

    def end(self, parcel: Parcel) -> None:
        """See `Bars`."""
        self.say(_told(parcel, time.monotonic() - self._begun[parcel.id]))


class Rich:
    """A bar for each file on its way, and a line for each that is done.

    Args:
        progress: of rich.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, float] = {}

    def say(self, text: str) -> None:
        """See `Bars`."""
        self._progress.console.print(text, markup=False, highlight=False)

    def begin(self, parcel: Parcel) -> None:
        """See `Bars`."""
        self._begun[parcel.id] = time.monotonic()
        self._tasks[parcel.id] = self._progress.add_task(Path(parcel.path).name, total=parcel.size)

    def show(self, waiting: Iterable[Parcel]) -> None:
        """See `Bars`."""
        for parcel in waiting:
            self._progress.update(self._tasks[parcel.id], completed=parcel.sent)

    def end(self, parcel: Parcel) -> None:
        """See `Bars`."""
        self._progress.remove_task(self._tasks.pop(parcel.id))
        self.say(_told(parcel, time.monotonic() - self._begun[parcel.id]))


def _told(parcel: Parcel, seconds: float) -> str:
    if parcel.state == "refused":
        return f"{parcel.path} was refused: {parcel.why}"
    rate = f", {size(parcel.size / seconds)}/s" if seconds > 0 else ""
    return (
        f"{parcel.path} uploaded: {size(parcel.size)} in {span(seconds)}{rate}, sha256 {parcel.sha256[:12]}"
    )
