"""Files that `pluto-dist upload` has handed to the coordinator, and what became of each.

Nothing of it is in memory only: the list of a Run's artifacts says what is uploaded, the spool what is on its
way, the notes beside it how far, and `rejected.jsonl` what was refused. So a command that was killed goes on.

On a terminal they are shown as bars with rate and remaining time, elsewhere as plain lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from pluto_dist.backend.ledger import Entry, Ledger, read_notes
from pluto_dist.cli.console import size, span
from pluto_dist.cli.options import echo
from pluto_dist.core.rules.shipment import Addressed, FileOf, Note, Sent, Shipment
from pluto_dist.core.values.ids import UNREADABLE
from pluto_dist.spool.file_lines import BLOBS, SENT, FileLine, Seen, read_line
from pluto_dist.spool.sources import Found

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

State = Literal["waiting", "uploaded", "refused"]
SAY_EVERY_S = 30.0  # of a file that takes long


class Parcel(msgspec.Struct):
    """One file or folder.

    Attributes:
        id: of its line.
        path: of the user's file or folder.
        files: that it consists of.
        size: bytes of all.
        step: of its record, None where the Run counts.
        notes: folder of its notes.
        sent: bytes that are uploaded.
        why: it was refused.
        sha256: of what is uploaded.
    """

    id: str
    path: str
    files: tuple[Found, ...]
    size: int
    step: int | None
    notes: Path
    state: State = "waiting"
    sent: int = 0
    why: str = ""
    sha256: str = ""


class _Refused(msgspec.Struct):
    reason: str = ""
    record: str = ""


class Uploads:
    """All parcels of one command.

    Args:
        run: folder of the Run in its store.
        spooled: what is in the spool already, by id.
    """

    def __init__(self, run: Path, spooled: dict[str, tuple[Path, FileLine]]) -> None:
        self._run = run
        self._spooled = spooled
        self._ledger = Ledger(run)
        self._entries: dict[str, Entry] = {}
        self._refused: dict[str, str] = {}
        self._read = 0
        self.parcels: dict[str, Parcel] = {}
        self._look_at_lists()

    def knows(self, id: str) -> bool:  # noqa: A002 # the field's word
        """Whether it was logged before, by this command or by one that was killed."""
        return id in self.parcels or id in self._entries or id in self._spooled

    def add(self, parcel: Parcel, *, new: bool) -> None:
        """A parcel that was logged: now, or before."""
        if new:  # that it was refused once is over
            self._refused.pop(parcel.id, None)
        if parcel.id in self._spooled:
            parcel.notes = self._spooled[parcel.id][0]
        self.parcels[parcel.id] = parcel

    def look(self) -> Iterator[Parcel]:
        """Brings all up to date; gives those whose state has changed."""
        self._look_at_lists()
        for parcel in self.waiting:
            if parcel.id in self._entries:
                parcel.state, parcel.sent = "uploaded", parcel.size
                parcel.sha256 = self._entries[parcel.id].sha256
            elif parcel.id in self._refused:
                parcel.state, parcel.why = "refused", self._refused[parcel.id]
            else:
                parcel.sent = _sent(parcel)
                continue
            yield parcel

    @property
    def waiting(self) -> list[Parcel]:
        """Those that are not uploaded."""
        return [parcel for parcel in self.parcels.values() if parcel.state == "waiting"]

    @property
    def refused(self) -> list[Parcel]:
        """Those that cannot be uploaded."""
        return [parcel for parcel in self.parcels.values() if parcel.state == "refused"]

    def _look_at_lists(self) -> None:
        self._entries = self._ledger.read()
        try:
            with (self._run / "rejected.jsonl").open("rb") as file:
                file.seek(self._read)
                lines = file.read()
        except OSError:
            return
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            try:
                found = msgspec.json.decode(line, type=_Refused)
            except UNREADABLE:
                continue
            record = read_line(found.record.encode())
            if record is not None:
                self._refused[record.path] = found.reason


def _sent(parcel: Parcel) -> int:
    """Bytes that are out, by the notes of whoever uploads."""
    notes = read_notes(parcel.notes / (parcel.id + SENT))
    if not notes:
        return 0
    files = [FileOf(file.name, file.size) for file in parcel.files]
    shipment = Shipment("", files, folder=len(files) > 1)
    return sum(_of(each.number, each.size, notes) for each in shipment.objects)


def _of(number: int, size: int, notes: list[Note]) -> int:
    sent = 0
    for note in notes:
        if isinstance(note, Addressed) and note.object == number and note.slot.done:
            return size
        if isinstance(note, Sent) and note.object == number:
            sent = note.bytes
    return sent


def delete(parcel: Parcel) -> bool:
    """Deletes what was uploaded, if it is still that; empty folders above its files go too."""
    gone = True
    for file in parcel.files:
        path = Path(file.path)
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        if Seen(found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev) != file.seen:
            gone = False  # it was written again since
            continue
        path.unlink()
        root = Path(parcel.path)
        while root.is_dir() and path.parent.is_relative_to(root) and not any(path.parent.iterdir()):
            path = path.parent
            path.rmdir()
    return gone


def notes_of(lease: Path) -> Path:
    """Folder of the notes of a lease's uploads."""
    return lease / BLOBS


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
        echo(f"pluto-dist: {text}", err=True)

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
