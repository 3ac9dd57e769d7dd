"""`pluto-dist upload RUN PATH…`: files and folders to a Run, beside its training.

Attaches as a side, hands the files to this node's coordinator, and shows how it uploads them (without a
server: takes them into the store). A folder is one artifact. A file that a process has open for writing is
waited for.

--watch DIR goes on until the Run ends: files, no folders, that fit --pattern are taken when they are closed
or renamed into place, each state of a file once, also after a restart of the command. On filesystems that
cannot say who has a file open (NFS), when it has not changed for 5 s.

The step is --step, else the last number in the file's name (`step40.pt`: 40), else the next of the Run's.
The name is --name, else that of the file without its number, or of the watched folder.

Exit codes: 0 all is uploaded; 1 something was refused, and stderr says what and why; 130 after Ctrl-C: what
was handed over goes on, and the same command goes on with the rest.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import msgspec

from pluto_dist.backend.ledger import Ledger, Refusals, read_notes
from pluto_dist.backend.local.store import Store
from pluto_dist.cli.console import size, span
from pluto_dist.cli.options import Argument, Dir, Home, Option, RunName, echo
from pluto_dist.core.rules.shipment import Addressed, FileOf, Note, Sent, Shipment
from pluto_dist.core.values.messages import RunView
from pluto_dist.errors import MachineError, UsageError
from pluto_dist.read.lookup import Lookup
from pluto_dist.spool.file_lines import BLOBS, SENT, FileLine, Seen, read_line
from pluto_dist.spool.frames import stream_kind
from pluto_dist.spool.reader import list_streams, records
from pluto_dist.spool.sources import Arrivals, Found, Look, NoSourceError, found_in, is_many, seen_in

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pluto_dist.client.run import Run


def upload(
    run: RunName,
    paths: Annotated[list[Path] | None, Argument(metavar="PATH", help="Files, folders, or patterns.")] = None,
    name: Annotated[str | None, Option("--name", help="Under which they are logged.")] = None,
    step: Annotated[int | None, Option("--step", least=0, help="Default: the number in the name.")] = None,
    watch: Annotated[
        Path | None, Option("--watch", metavar="DIR", help="Take what comes, until the Run ends.")
    ] = None,
    pattern: Annotated[str, Option("--pattern", help="Which files of --watch.")] = "*",
    delete_after: Annotated[
        bool, Option("--delete-after", help="Delete files that are uploaded and have not changed.")
    ] = False,
    label: Annotated[str, Option("--label", help="What the process is called.")] = "uploader",
    project: Annotated[str | None, Option("--project", help="Of the Run.")] = None,
    timeout_s: Annotated[
        float, Option("--timeout", metavar="SECONDS", help="How long to wait for the Run to begin.")
    ] = 30.0,
    home: Home = None,
    folder: Dir = None,
) -> None:
    """Uploads files and folders to a Run, from outside of its training."""
    if not paths and watch is None:
        raise UsageError("nothing to upload: name files or folders, or --watch DIR")
    if watch is not None and not watch.is_dir():
        raise UsageError(f"--watch {watch}: there is no such folder; make it, or start when it is there")
    for path in paths or []:
        _check(path)
    if watch is not None:
        _check_pattern(watch, pattern)
    side = _attached(run, label, project, timeout_s, home, folder)
    with bars() as shown:
        sender = Sender(side, _lookup(side, home, folder), shown, name=name, step=step, delete=delete_after)
        try:
            for path in paths or []:
                sender.send_complete(str(path.absolute()))
            if watch is not None:
                sender.watch(str(watch.absolute()), pattern)
            sender.wait()
        except KeyboardInterrupt:
            side.run.close()
            left = len(sender.uploads.waiting)
            way = f"{left} on their way, which the coordinator goes on with" if left else "nothing on its way"
            shown.say(f"{way}; the same command goes on with the rest")
            raise
    side.run.close()
    refused = sender.uploads.refused
    if refused or sender.failed:
        raise SystemExit(1)


def _check(path: Path) -> None:
    if is_many(str(path)) or path.is_file():
        return
    what = "is no file or folder" if path.exists() else "does not exist"
    raise UsageError(f"{path} {what}; nothing was uploaded")


def _check_pattern(folder: Path, pattern: str) -> None:
    try:
        next(folder.glob(pattern), None)
    except (ValueError, NotImplementedError) as error:
        raise UsageError(
            f"--pattern {pattern!r} means no name below {folder} ({error}); write it like '*.pt' or '**/*.pt'"
        ) from error


def _attached(
    run: str, label: str, project: str | None, timeout_s: float, home: Path | None, folder: Path | None
) -> FileSide:
    given = {"home": home and str(home), "dir": folder and str(folder)}
    from pluto_dist.client.api import attach
    from pluto_dist.client.run import Run

    opened = attach(
        int(run) if run.isdigit() else run,
        label=label,
        project=project,
        timeout_s=timeout_s,
        settings={"console": "off", **{key: value for key, value in given.items() if value}},
    )
    if not isinstance(opened, Run):
        raise MachineError("nothing is recorded here (mode is disabled), so nothing can be uploaded")
    return FileSide(opened)


def _lookup(side: FileSide, home: Path | None, folder: Path | None) -> Uploads:
    found = Lookup(home, folder).find(side.key)
    return Uploads(Store(found.store).run(side.key), side.logged())


State = Literal["waiting", "uploaded", "refused"]
SAY_EVERY_S = 30.0  # of a file that takes long


# Of what the command has handed to the coordinator nothing is in memory only: the list of a Run's artifacts
# says what is uploaded, the spool what is on its way, the notes beside it how far, and `rejected.jsonl` what
# was refused. So a command that was killed goes on. Each file has an id that its content and place determine,
# so that a repeat is known as one. Whether a process still has it open for writing, the kernel knows.


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
        before: it was uploaded before.
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
    before: bool = False
    why: str = ""
    sha256: str = ""


class Uploads:
    """All parcels of one command.

    Args:
        run: folder of the Run in its store.
        spooled: what is in the spool already, by id.
    """

    def __init__(self, run: Path, spooled: dict[str, tuple[Path, FileLine]]) -> None:
        self._spooled = spooled
        self._ledger, self._refusals = Ledger(run), Refusals(run)
        self._entries, self._refused = self._ledger.read(), self._refusals.read()
        self.parcels: dict[str, Parcel] = {}

    def knows(self, id: str) -> bool:  # noqa: A002 # the field's word
        """Whether it was logged before, by this command or by one that was killed."""
        return id in self.parcels or id in self._entries or id in self._spooled

    def add(self, parcel: Parcel, *, new: bool) -> None:
        """A parcel that was logged: now, or before."""
        if new:  # that it was refused once is over
            self._refused.pop(parcel.id, None)
        parcel.before = not new and parcel.id in self._entries
        if parcel.id in self._spooled:
            parcel.notes = self._spooled[parcel.id][0]
        self.parcels[parcel.id] = parcel

    def look(self) -> Iterator[Parcel]:
        """Brings all up to date; gives those whose state has changed."""
        self._entries, self._refused = self._ledger.read(), self._refusals.read()
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
    if parcel.before:
        return f"{parcel.path} was uploaded before: {size(parcel.size)}, sha256 {parcel.sha256[:12]}"
    rate = f", {size(parcel.size / seconds)}/s" if seconds > 0 else ""
    return (
        f"{parcel.path} uploaded: {size(parcel.size)} in {span(seconds)}{rate}, sha256 {parcel.sha256[:12]}"
    )


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
            files = self._files_of(path)
            if not files:
                return
            looks = {file.path: _look(file) for file in files}
            arrivals.look(looks, time.monotonic(), last=True)
            if not arrivals.waits():
                break
            if not told:
                self._shown.say(f"{path} is being written: waiting until it is closed")
                told = True
            self._follow()
        self._send(path, files)

    def _files_of(self, path: str) -> tuple[Found, ...]:
        """The files of a path that was there; () if it has gone, which holds up no other."""
        try:
            return _files_of(path)
        except FileNotFoundError:
            self._fail(path, "it is gone")
            return ()

    def _fail(self, path: str, why: str) -> None:
        self.failed.append(path)
        self._shown.say(f"{path} cannot be uploaded: {why}")

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
            self._fail(path, why)
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
        from pluto_dist.client.media.files import Artifact

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
