"""Files, texts, histograms and tables of a Run, and how a browser may have a file.

A logged file may come from a stranger: only pictures, sounds and films are shown in place, and never what may
hold a script (SVG, HTML); everything else is a download.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections import deque
from pathlib import Path

import msgspec

from pluto_dist.read.run import LoggedFile, Run

FILES = 2000
POINTS = 200  # of a series of texts, histograms or tables
SHOWN = {
    *("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "image/avif"),
    *("audio/mpeg", "audio/wav", "audio/x-wav", "audio/ogg", "audio/flac", "audio/x-flac", "audio/mp4"),
    *("video/mp4", "video/webm", "video/ogg"),
}


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
