"""Points and files of one process, on their way from `log()` into its spool; the hot path.

A point gets its step and time, is encoded, and is written as a line; a name that is new is declared before it
(R7). A file is kept in the lease's folder first, then named by a line of the files stream. When `log()` has
returned, the end of the process changes nothing about what is delivered (G3). What a later change of the
user's file does is in the table of `spool.blobs`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pluto_dist.client import record
from pluto_dist.client.lease_files import LeaseFiles, Wall
from pluto_dist.client.notices import WarnOnce
from pluto_dist.client.record import Attached, Rejection
from pluto_dist.client.values import clean_text, shown
from pluto_dist.core.rules.shipment import PUT_LIMIT
from pluto_dist.core.values.backend import LogType
from pluto_dist.core.values.ids import MAX_STEP
from pluto_dist.errors import InvalidRecordError
from pluto_dist.spool.blobs import Blob, NoRoomError
from pluto_dist.spool.file_lines import FileLine, Part, encode_line
from pluto_dist.spool.frames import DECLARE
from pluto_dist.spool.sources import NoSourceError, found_in, is_many
from pluto_dist.spool.writer import follow_forks

REJECT_LIMIT = 300  # characters


class PointLog:
    """Writes records; any thread and any signal handler may call it.

    Attributes:
        highest: the highest step so far, -1 before the first.
        rejected: keys that were left out because their value cannot be logged.
        first_reject: the first of them, with its reason.
        attachments: files, and how many were dropped.
    """

    def __init__(self, files: LeaseFiles, wall: Wall, warn: WarnOnce, *, strict: bool) -> None:
        self._files = files
        self._wall = wall
        self._warn = warn
        self._strict = strict
        self._known: set[str] = set()
        self._types: dict[str, LogType] = {}
        self._steps = itertools.count(0)
        self.highest = -1
        self.rejected = 0
        self.first_reject = ""
        self.attachments = FileLog(files, warn)
        follow_forks(self)

    def log(self, data: Mapping[str, Any], step: int | None, timestamp: float | None) -> None:
        """See `Run.log`."""
        automatic = step is None
        if step is None:
            step = next(self._steps)
        time_ms = self._wall.ms() if timestamp is None else self._time_of(timestamp)
        if type(step) is int and 0 <= step <= MAX_STEP:
            line = record.encode_known(data, step, time_ms, self._known)
            if line is not None:
                if step > self.highest:
                    self.highest = step
                    if not automatic:
                        self._steps = itertools.count(step + 1)
                self._files.metrics.append(line)
                return
        encoded = record.encode(data, step, time_ms, self._known, strict=self._strict)
        if step > self.highest:
            self._follow(step, automatic=automatic)
        if encoded.new:
            self._declare(encoded.new)
        if encoded.metrics is not None:
            self._files.metrics.append(encoded.metrics)
        for line in encoded.data:
            self._files.data.append(line)
        if encoded.files:
            self._attach(encoded.files, int(step), time_ms)
        if encoded.rejections:
            self._reject(encoded.rejections)

    def check_commit(self, commit: object) -> None:
        """Warns once of `commit=False`: the official client takes this argument and ignores it, as we do."""
        if isinstance(commit, bool):
            if not commit:
                self._warn(
                    "commit",
                    "log(commit=False) has no effect, as with the official client: every call without step= "
                    "is a step of its own; pass the same step= to calls that belong together",
                )
        else:
            self._warn(
                "commit",
                f"log() was given commit={shown(commit)}, which has no effect: the third argument is commit; "
                "a time is passed as timestamp=",
            )

    def start_at(self, step: int) -> None:
        """The first automatic step, unless this process has logged beyond it already."""
        if step > self.highest + 1:
            self.highest = step - 1
            self._steps = itertools.count(step)

    def after_fork(self) -> None:
        """In a forked child: its chain declares names of its own."""
        self._known = set()

    def _time_of(self, timestamp: object) -> int:
        """Epoch milliseconds; now for an unusable timestamp, as with the official client."""
        try:
            return record.epoch_ms(timestamp)
        except InvalidRecordError as error:
            if self._strict:
                raise
            self._warn("timestamp", f"log(): {error}. The record has the time of the call")
            return self._wall.ms()

    def _follow(self, step: int, *, automatic: bool) -> None:
        """Sets the next automatic step behind the highest step so far."""
        self.highest = int(step)  # it may be numpy's, or a float without a fraction
        if not automatic:
            self._steps = itertools.count(self.highest + 1)

    def _attach(self, files: Iterable[Attached], step: int, time_ms: int) -> None:
        rejections = []
        for file in files:
            rejection = self.attachments.log(file, step, time_ms)
            if rejection is not None:
                rejections.append(rejection)
            elif self._types.get(file.name, file.media.log_type) != file.media.log_type:
                self._warn(
                    f"type:{file.name}",
                    f"{file.name!r} was {self._types[file.name]} first and is {file.media.log_type} now; the "
                    "server shows a name as what it was first: log the file under another one",
                )
        if rejections and self._strict:
            raise InvalidRecordError("; ".join(map(str, rejections)))
        self._reject(rejections)

    def _declare(self, names: Mapping[str, LogType]) -> None:
        by_kind: dict[LogType, dict[str, LogType]] = {}
        for name, kind in names.items():
            by_kind.setdefault(kind, {})[name] = kind
        for kind, found in by_kind.items():
            writer = self._files.stream_of(kind)
            if writer.append(record.declaration(found), DECLARE):
                self._files.declared += 1
                self._known.update(found)
                self._types.update(found)
            else:
                self._files.undeclared += 1

    def _reject(self, rejections: Iterable[Rejection]) -> None:
        for rejection in rejections:
            self.rejected += 1
            self.first_reject = self.first_reject or clean_text(str(rejection))[:REJECT_LIMIT]
            self._warn(
                f"rejected:{rejection.name}:{rejection.type_name}",
                f"log(): {rejection.what} was left out: {rejection.advice}",
            )


class FileLog:
    """Keeps files and writes their lines; any thread and any signal handler may call it.

    Attributes:
        dropped: files for which there was no room.
    """

    def __init__(self, files: LeaseFiles, warn: WarnOnce) -> None:
        self._files = files
        self._warn = warn
        self.dropped = 0

    def log(self, file: Attached, step: int, time_ms: int) -> Rejection | None:
        """Keeps one file; returns a rejection if it cannot be read. Lack of room is counted and warned of."""
        if file.media.source == "":
            return _rejected(file, "it has no file; pass its path or content, or call add_file()")
        try:
            if (
                file.media.log_type == "ARTIFACT"
                and isinstance(path := file.media.source, str)
                and is_many(path)
            ):
                return self._log_folder(file, path, step, time_ms)
            blob = self._files.blobs.keep(file.media.source, file.media.id)
        except NoSourceError as error:
            return _rejected(file, str(error))
        except NoRoomError as error:
            self.dropped += 1
            self._warn(f"no room:{file.name}", f"{file.name!r} is dropped and counted: {error}")
            return None
        if blob.moved:
            self._warn(
                f"moved:{file.name}",
                f"{file.name!r}: {file.media.source!r} was written to while it was logged; what was read is "
                "kept. Log a file when it is closed, or write it under another name and rename it",
            )
        if blob.size > PUT_LIMIT:
            self._warn(
                f"split:{file.name}",
                f"{file.name!r} has {blob.size:,} bytes; storage takes {PUT_LIMIT:,} in one request, so a "
                "server gets it in parts with a manifest, and `pluto-dist download` puts them together",
            )
        return self._write(file, (blob,), encode_line(_line(file, blob, step, time_ms)))

    def _log_folder(self, file: Attached, path: str, step: int, time_ms: int) -> Rejection | None:
        """Its files are one artifact, of this moment; the ranks that write them are to be done before."""
        found, left_out = found_in(path)
        if left_out:
            self._warn(
                f"left out:{file.name}",
                f"{file.name!r}: {len(left_out)} of {path!r} are no files and were left out, the first is "
                f"{left_out[0]!r}: only files are kept, and links to files",
            )
        parts = self._files.blobs.keep_all(found)
        whole = Blob(file.media.id or os.urandom(16).hex(), sum(part.size for part in parts))
        line = msgspec.structs.replace(_line(file, whole, step, time_ms), parts=parts)
        return self._write(file, parts, encode_line(line))

    def _write(self, file: Attached, blobs: Iterable[Blob | Part], line: bytes) -> Rejection | None:
        rejection = None  # of want of room the writer keeps count
        try:
            if self._files.files.append(line):
                return None
        except InvalidRecordError as error:  # endless annotations
            rejection = _rejected(file, str(error))
        for blob in blobs:
            self._files.blobs.discard(blob)
        return rejection


def _line(file: Attached, blob: Blob, step: int, time_ms: int) -> FileLine:
    media = file.media
    return FileLine(
        path=blob.name,
        file_name=media.file_name(step, blob.name),
        file_type=media.file_type,
        log_name=file.name,
        step=step,
        time=time_ms,
        file_size=blob.size,
        log_type=media.log_type,
        caption=media.caption,
        sample_index=file.sample_index,
        annotations=media.annotations,
        source=blob.source,
        seen=blob.seen,
        linked=blob.linked,
    )


def _rejected(file: Attached, advice: str) -> Rejection:
    return Rejection(file.name, type(file.media).__name__, advice)
