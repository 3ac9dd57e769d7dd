"""Files of one process: kept in the lease's folder, then named by a line of its files stream (G3).

Copying takes as long as the local disk needs, in the calling thread: when `log()` has returned, neither the
end of the process nor a later change of the user's file changes what is delivered.
"""

from __future__ import annotations

from pluto_dist.client.collect import Attached, Rejection
from pluto_dist.client.lease import LeaseFiles
from pluto_dist.client.once import WarnOnce
from pluto_dist.errors import InvalidRecordError
from pluto_dist.spool.blobs import Blob, NoRoomError, NoSourceError
from pluto_dist.spool.file_lines import FileLine, encode_line


class FileLog:
    """Any thread and any signal handler may call it.

    Attributes:
        dropped: files for which there was no room.
    """

    def __init__(self, files: LeaseFiles, warn: WarnOnce) -> None:
        self._files = files
        self._warn = warn
        self.dropped = 0

    def log(self, file: Attached, step: int, time_ms: int) -> Rejection | None:
        """Keeps one file; a rejection if it cannot be had. Want of room is counted and told."""
        if file.media.source == "":
            return _rejected(file, "it has no file; pass its path or content, or call add_file()")
        try:
            blob = self._files.blobs.keep(file.media.source)
        except NoSourceError as error:
            return _rejected(file, str(error))
        except NoRoomError as error:
            self.dropped += 1
            self._warn(f"no room:{file.name}", f"{file.name!r} is dropped and counted: {error}")
            return None
        return self._write(file, blob, encode_line(_line(file, blob, step, time_ms)))

    def _write(self, file: Attached, blob: Blob, line: bytes) -> Rejection | None:
        try:
            if self._files.files.append(line):
                return None
        except InvalidRecordError as error:  # endless annotations
            self._files.blobs.discard(blob)
            return _rejected(file, str(error))
        self._files.blobs.discard(blob)  # the writer has counted it
        return None


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
    )


def _rejected(file: Attached, advice: str) -> Rejection:
    return Rejection(file.name, type(file.media).__name__, advice)
