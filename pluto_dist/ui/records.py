"""What a Run has logged besides numbers: console lines, files, texts, histograms and tables.

A logged file may come from a stranger: only pictures, sounds and films are shown in place, and never what may
hold a script (SVG, HTML); everything else is a download.
"""

from __future__ import annotations

import hashlib
import heapq
import mimetypes
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import msgspec

from pluto_dist.backend.local.reading import SaidLine, read_lines
from pluto_dist.core.rules.participants import speaker_shown
from pluto_dist.core.values.document import LeaseShown
from pluto_dist.read.console import last_lines
from pluto_dist.read.run import LoggedFile, Run

FILES = 2000
POINTS = 200  # of a series of texts, histograms or tables
SHOWN = {
    *("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/avif"),
    *("audio/mpeg", "audio/wav", "audio/x-wav", "audio/ogg", "audio/flac", "audio/x-flac", "audio/mp4"),
    *("video/mp4", "video/webm", "video/ogg"),
}
MOST = 5000


class FileSeen(msgspec.Struct, frozen=True):
    """A file for the page.

    Attributes:
        file_id: names it in addresses.
        kind: as it was logged.
        media: its type if it may be shown in place, "" for a download.
        here: this machine has it.
    """

    file_id: str
    name: str
    step: int
    time: int
    file_name: str
    size: int
    kind: str
    caption: str | None
    media: str
    here: bool


class Said(msgspec.Struct, frozen=True):
    """One text, histogram or table (JSON) of a series."""

    step: int
    time: int
    kind: str
    value: str


def files_of(run: Run) -> list[FileSeen]:
    """Files that were logged, the newest `FILES` of them."""
    return [_seen(file) for file in run.files[-FILES:]]


def file_of(run: Run, file_id: str) -> LoggedFile | None:
    """The file that an address names; None if there is none, or this machine does not have it."""
    return next((file for file in run.files if _file_id(file) == file_id and file.path is not None), None)


def said_of(run: Run, name: str) -> list[Said]:
    """The newest values of a series that is no number."""
    points = deque(run.texts([name]), maxlen=POINTS)
    return [Said(point.step, point.time, point.kind, str(point.value)) for point in points]


def media_type(name: str) -> str:
    """The type under which a file may be shown in place, "" if it may not."""
    found, _ = mimetypes.guess_type(name)
    return found if found in SHOWN else ""


def _seen(file: LoggedFile) -> FileSeen:
    return FileSeen(
        file_id=_file_id(file),
        name=file.name,
        step=file.step,
        time=file.time,
        file_name=file.file_name,
        size=file.size,
        kind=file.kind,
        caption=file.caption,
        media=media_type(file.file_name),
        here=file.path is not None,
    )


def _file_id(file: LoggedFile) -> str:
    said = "\0".join((file.lease_id, file.name, str(file.step), file.file_name))
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def download_name(path: Path, file: LoggedFile) -> str:
    """What the browser calls it."""
    return Path(file.file_name).name or path.name


class Lines(msgspec.Struct, frozen=True):
    """Lines, oldest first.

    Attributes:
        found: how many hold the text, None if none was asked for.
        cut: there are more before the first one.
    """

    lines: list[SaidLine]
    found: int | None
    cut: bool


def lines_of(run: Run, participants: Iterable[str], text: str, count: int) -> Lines:
    """The newest lines.

    Args:
        run: whose.
        participants: of these; none means all.
        text: only lines that hold it, in whatever case; "" for all. What is searched is read from its start.
        count: at most so many, `MOST` at the most.
    """
    wanted = set(participants)
    leases = [lease for lease in run.leases if not wanted or lease.participant in wanted]
    count = max(1, min(count, MOST))
    return _searched(run, leases, text, count) if text else _newest(run, leases, count)


def _newest(run: Run, leases: list[LeaseShown], count: int) -> Lines:
    found = [last_lines(lease, run.roots, count + 1, speaker_shown(lease, run.document)) for lease in leases]
    lines = list(heapq.merge(*found, key=lambda line: line.time))
    return Lines(lines[-count:], None, len(lines) > count)


def _searched(run: Run, leases: list[LeaseShown], text: str, count: int) -> Lines:
    wanted, sought = {lease.lease_id for lease in leases}, text.casefold()
    kept: deque[SaidLine] = deque(maxlen=count)
    found = 0
    for line in read_lines(run.document, run.roots, {}):
        if line.lease_id in wanted and sought in line.message.casefold():
            kept.append(line)
            found += 1
    return Lines(list(kept), found, found > count)
