"""Hands files to the coordinator as they are complete, and follows what becomes of them.

Each file has an id that its content and place determine, so that a repeat is known as one. Whether a process
still has it open for writing, the kernel knows.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from pluto_dist.cli.uploads import Bars, Parcel, Uploads, delete, notes_of
from pluto_dist.client.media.files import Artifact
from pluto_dist.client.run import Run
from pluto_dist.core.values.messages import RunView
from pluto_dist.errors import UsageError
from pluto_dist.spool.file_lines import BLOBS, FileLine, Seen, read_line
from pluto_dist.spool.frames import stream_kind
from pluto_dist.spool.reader import list_streams, records
from pluto_dist.spool.sources import Arrivals, Found, Look, NoSourceError, found_in, is_many, seen_in

PAUSE_S = 0.2  # between two looks at what is on its way
LOOK_S = 0.5  # between two looks at a watched folder
ASK_S = 1.0  # between two questions whether the Run has ended

_NUMBER = re.compile(r"\d+(?!.*\d)")
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


class Sender:
    """Hands files over and shows what becomes of them.

    Attributes:
        failed: files that could not be handed over.
    """

    def __init__(
        self,
        side: FileSide,
        uploads: Uploads,
        shown: Bars,
        *,
        name: str | None,
        step: int | None,
        delete: bool,
    ) -> None:
        self._side = side
        self.uploads = uploads
        self._shown = shown
        self._name = name
        self._step = step
        self._delete = delete
        self._asked = 0.0
        self._told_of_folder = False
        self.failed: list[str] = []

    def send_complete(self, path: str) -> None:
        """Hands a file or folder over as soon as no process has it open for writing."""
        arrivals, told = Arrivals(), False
        while True:
            files = _files_of(path)
            looks = {file.path: _look(file) for file in files}
            arrivals.look(looks, time.monotonic(), last=True)
            if not arrivals.waits():
                break
            if not told:
                self._shown.say(f"{path} is being written: waiting until it is closed")
                told = True
            self._follow()
        self._send(path, files)

    def watch(self, folder: str, pattern: str) -> None:
        """Hands over what comes, until the Run has ended and nothing is left."""
        arrivals = Arrivals()
        self._shown.say(f"watching {folder} for {pattern}, until the Run ends")
        look_at = 0.0
        while True:
            ended = self._has_ended()
            if ended or time.monotonic() >= look_at:
                self._take(arrivals, folder, pattern, last=ended)
                look_at = time.monotonic() + LOOK_S
            if ended and not arrivals.waits():
                return
            self._follow()

    def wait(self) -> None:
        """Until everything that was handed over is uploaded or refused."""
        while self.uploads.waiting:
            self._follow()

    def _take(self, arrivals: Arrivals, folder: str, pattern: str, *, last: bool) -> None:
        fitting = sorted(Path(folder).glob(pattern))
        found = {file.path: file for file in _files_among(fitting)}
        looks = {
            path: _look(file) if arrivals.wants(path, file.seen) else Look(file.seen, written=False)
            for path, file in found.items()
        }
        for path in arrivals.look(looks, time.monotonic(), last=last):
            self._send(path, (found[path],), Path(folder).name)
        left_alone = "" if self._told_of_folder else folder_left_alone(fitting, found)
        if left_alone:
            self._told_of_folder = True
            self._shown.say(
                f"{left_alone} is a folder, and --watch takes files only; when it is complete, `pluto-dist "
                "upload RUN FOLDER` takes it as a whole; --pattern '**/*' takes its files one by one"
            )

    def _send(self, path: str, files: tuple[Found, ...], name: str = "") -> None:
        name = self._name or name or _NUMBER.sub("", Path(path).stem).strip("-_. ") or "file"
        id = id_of(self._side.key, name, path, [file.seen for file in files])  # noqa: A001
        size = sum(file.size for file in files)
        step = self._step if self._step is not None else _number_in(path)
        parcel = Parcel(id, path, files, size, step, notes_of(self._side.folder))
        new = not self.uploads.knows(id)
        why = self._side.log(name, path, step, id) if new else ""
        if why:
            self.failed.append(path)
            self._shown.say(f"{path} cannot be uploaded: {why}")
            return
        self.uploads.add(parcel, new=new)
        self._shown.begin(parcel)

    def _follow(self) -> None:
        time.sleep(PAUSE_S)
        for parcel in self.uploads.look():
            self._shown.end(parcel)
            if parcel.state == "uploaded" and self._delete:
                self._give_up(parcel)
        self._shown.show(self.uploads.waiting)

    def _give_up(self, parcel: Parcel) -> None:
        if not delete(parcel):
            self._shown.say(f"{parcel.path} was written again since, and is not deleted")

    def _has_ended(self) -> bool:
        if time.monotonic() - self._asked < ASK_S:
            return False
        self._asked = time.monotonic()
        return self._side.run.status != "RUNNING"


def _files_of(path: str) -> tuple[Found, ...]:
    if not is_many(path):
        return (Found(Path(path).name, path, seen_in(Path(path).stat())),)
    try:
        return found_in(path)[0]
    except NoSourceError as error:
        raise UsageError(str(error)) from error


def folder_left_alone(fitting: Iterable[Path], taken: Iterable[str]) -> str:
    """The first folder that fits a pattern and of whose files none is taken, "" if there is none."""
    files = set(map(Path, taken))
    holding = {parent for path in files for parent in path.parents}
    others = (path for path in fitting if path not in files and path not in holding)
    return next((str(path) for path in others if path.is_dir() and not path.name.startswith(".")), "")


def _files_among(paths: Iterable[Path]) -> Iterator[Found]:
    for path in paths:
        try:
            if path.is_file() and not path.name.startswith("."):
                yield Found(path.name, str(path), seen_in(path.stat()))
        except FileNotFoundError:  # renamed or deleted in this instant
            continue


def _look(file: Found) -> Look:
    try:
        return Look(file.seen, is_written(file.path))
    except OSError:  # it is gone, or cannot be read: `log()` says so
        return Look(file.seen, written=False)


def _number_in(path: str) -> int | None:
    found = _NUMBER.search(Path(path).stem)
    return int(found[0]) if found is not None and len(found[0]) < 19 else None


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


def is_written(path: str) -> bool | None:
    """Whether a process of this machine has the file open for writing; None where that cannot be known.

    A lease for reading is asked for and given back: Linux grants it only while nobody has the file open for
    writing. A writer that comes in this instant waits for some microseconds. Network filesystems have no
    leases, nor has a file of another user.

    Raises:
        OSError: the file cannot be opened.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    _ignore_breaks()
    fd = os.open(path, _READ)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    finally:
        os.close(fd)
    return False


def _ignore_breaks() -> None:
    """A writer that comes is told by a signal that ends a process by default."""
    if signal.getsignal(signal.SIGIO) is signal.SIG_DFL and _is_main_thread():
        signal.signal(signal.SIGIO, signal.SIG_IGN)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
