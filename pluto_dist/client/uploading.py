"""A side that only ships files: each under an id of its own choice, so that a repeat is known as one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from pluto_dist.client.media.files import Artifact
from pluto_dist.client.run import Run
from pluto_dist.core.values.messages import RunView
from pluto_dist.spool.file_lines import BLOBS, FileLine, Seen, read_line
from pluto_dist.spool.names import stream_kind
from pluto_dist.spool.reader import list_streams, records


class FileSide:
    """An attached Run, as the command `upload` needs it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._lease = run._lease

    @property
    def key(self) -> str:
        """Name of the Run's folder in its store."""
        view: RunView = self.run._run_view()
        return view.key

    @property
    def folder(self) -> Path:
        """Of this process's lease."""
        return self._lease.files.folder

    def log(self, name: str, path: str, step: int | None, id: str) -> str:  # noqa: A002 # the field's word
        """Logs a file or folder under its id; why it was not taken, "" if it was."""
        points = self._lease.points
        rejected, dropped, points.first_reject = points.rejected, self._lease.files.dropped, ""
        artifact = Artifact(path)
        artifact.id = id
        self.run.log({name: artifact}, step=step)
        if points.rejected > rejected:
            return points.first_reject
        return self._lease.files.trouble or "the spool is full" if self._lease.files.dropped > dropped else ""

    def logged(self) -> dict[str, tuple[Path, FileLine]]:
        """Files that any lease of this node has logged and that are still in its spool, by id."""
        found: dict[str, tuple[Path, FileLine]] = {}
        for lease in self.folder.parent.iterdir():
            for stream, segments in list_streams(str(lease)).items():
                for segment in segments if stream_kind(stream) == "files" else ():
                    for line in records(str(lease), stream, segment):
                        fields = read_line(line)
                        if fields is not None:
                            found[fields.path] = (lease / BLOBS, fields)
        return found


def id_of(run: str, name: str, path: str, seen: Iterable[Seen]) -> str:
    """The id of one state of a file, or of a folder's files: the same after a restart, on this node."""
    digest = hashlib.blake2s(f"{run}\0{name}\0{path}".encode("utf-8", "surrogatepass"), digest_size=16)
    for each in seen:
        digest.update(f"\0{each.size} {each.mtime_ns} {each.inode}".encode())
    return digest.hexdigest()
