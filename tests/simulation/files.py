"""Files in the simulation: the real upload over a storage in memory, and what must be true of it.

Real are `Files` with its order of steps, `Shipment` and the notes beside the files; simulated are the two
requests, the disk, and a coordinator that dies between any two steps.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from unittest import mock

import msgspec

from pluto_dist.backend import ledger
from pluto_dist.backend.ledger import Notes
from pluto_dist.backend.pluto import files as upload
from pluto_dist.backend.pluto.exchange import NotDelivered
from pluto_dist.backend.pluto.files import Expired, Files, NameRefused, Row
from pluto_dist.coordinator import driver, worker
from pluto_dist.core.rules.shipment import MANIFEST, Addressed, Note
from pluto_dist.core.values.backend import BackendRun, Delivered, Outcome, Rejected, Retry, Unknown
from pluto_dist.spool.file_lines import SENT, FileLine, Part, encode_line, read_line
from pluto_dist.spool.reader import records
from pluto_dist.spool.sources import ChangedError

if TYPE_CHECKING:
    from tests.simulation.coordinator import SimCoordinator
    from tests.simulation.processes import Process
    from tests.simulation.world import World

_note: msgspec.json.Decoder[Note] = msgspec.json.Decoder(Note)  # type: ignore[arg-type] # a union
EXPIRED = 0.05
POISON = "poison"


class DeadError(OSError):
    """The coordinator that uploads is dead: nothing that it would do next happens."""


def value_in(file_name: str) -> int:
    """The value of a file, which its name begins with."""
    return int(file_name[1:].partition("-")[0])


def log_file(process: Process, value: int, *, poison: bool) -> None:
    """A file, or a folder of some, as `log()` keeps them: first the contents, then the line."""
    world, lease = process.world, process.lease
    assert lease is not None
    parts = tuple(
        Part(f"rank{number}", f"{value:024x}{number:08x}", len(_content(value, number)))
        for number in range(world.files.random.choice((0, 0, 2, 3)))
    )
    blobs = {part.path: _content(value, number) for number, part in enumerate(parts)}
    blobs = blobs or {f"{value:032x}": _content(value, 0)}
    try:
        for blob, content in blobs.items():
            fd = process.files.create(f"{lease.folder}/blobs/{blob}")
            whole = process.files.write(fd, content) == len(content)
            process.files.close(fd)
            if not whole:
                return
    except OSError:  # no room: the file is dropped, and counted
        return
    line = FileLine(
        path=f"{value:032x}",
        file_name=f"f{value}-{value}",
        file_type="bin",
        log_name=POISON if poison else world.files.random.choice(("model", f"of_{process.name}")),
        step=value,
        time=world.wall_ms,
        file_size=sum(map(len, blobs.values())),
        log_type="ARTIFACT",
        parts=parts,
    )
    before = lease.files.written
    lease.files.append(encode_line(line))
    if lease.files.written > before:
        world.files.contents[value] = [*blobs.values()]
        world.accepted(process, value, "files", lease.files.stream, poison=poison)


def _content(value: int, number: int) -> bytes:
    return b"%d of %d" % (number, value)


class Storage(Files):
    """The real steps; rows and objects are kept here.

    Attributes:
        contents: of what was logged, by value.
        objects: what is stored, by name.
        rows: how often each name was given an address.
        known: names of which a coordinator has heard that they are stored.
        acting: the coordinator that uploads now.
        broken: what must not have happened.
    """

    def __init__(self, world: World) -> None:
        nothing: Any = None
        super().__init__(nothing, nothing, lambda: world.wall_ms / 1000)
        self.world = world
        self.random = Random(f"files {world.plan.seed}")
        self.contents: dict[int, list[bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.rows: Counter[str] = Counter()
        self.known: set[str] = set()
        self.acting: Any = None
        self.broken = ""
        self._addresses: dict[str, Row] = {}
        self._newest = ""
        self._expired: Counter[int] = Counter()
        self._only_known_to: dict[str, SimCoordinator] = {}
        self._memories: dict[int, dict[str, Notes]] = defaultdict(dict)

    # --- the two requests -------------------------------------------------------------------------

    def presign(self, run: BackendRun, rows: Sequence[Row]) -> tuple[str, ...] | NotDelivered:
        """Addresses, with the accidents of the server."""
        self.step("presign")
        if any(POISON in row.log_name for row in rows):
            return Rejected("the name is refused")
        fate = self._fate()
        if isinstance(fate, Retry):
            return fate
        if fate is not None and self.random.random() < 0.5:
            return fate
        urls = []
        for row in rows:
            self.rows[row.file_name] += 1
            urls.append(f"{row.file_name}?{self.rows[row.file_name]}")
            self._addresses[urls[-1]] = row
            self.world.server.series[value_in(row.file_name)] = f"{run.id}/{row.log_name}"
        if fate is not None:
            return fate
        self.step("address")
        return tuple(urls)

    def put(self, url: str, pieces: Iterator[bytes], size: int) -> Outcome | Expired | NameRefused:
        """The bytes of an object."""
        self.step("put")
        world, row = self.world, self._addresses[url]
        name = row.file_name
        knows = self._only_known_to.get(name, self.acting) is self.acting
        again = name in self.known and knows and not world.powered_off
        self._expect(not again, f"G6: {name} is sent again although it is known to be stored")
        fate = self._fate()
        if isinstance(fate, Retry):
            return fate
        if world.faulty and self.random.random() < EXPIRED:
            world.count("address_expired")
            self._expired[value_in(name)] += 1
            return Expired()
        if fate is not None and self.random.random() < 0.5:
            return fate
        content = b"".join(pieces)
        self._expect(len(content) == size, f"G6: {name} has {len(content)} bytes, not {size}")
        self._store(name, content)
        if fate is not None:
            return fate
        self._newest = name
        self.known.add(name)
        return Delivered()

    def _store(self, name: str, content: bytes) -> None:
        world, value = self.world, value_in(name)
        if name in self.objects:
            world.count("stored_again")
        self.objects[name] = content
        world.count("stored")
        plain, _, ending = name.partition(".")
        wanted = self.contents[value]
        if not ending:
            right = [content] == wanted
        elif name.endswith(MANIFEST):
            missing = len(wanted) - sum(each.startswith(f"{plain}.0") for each in self.objects)
            self._expect(not missing, f"G6: the manifest of {plain} is stored, {missing} files are not")
            sums = [each["sha256"] for each in msgspec.json.decode(content)["files"]]
            right = sums == [hashlib.sha256(each).hexdigest() for each in wanted]
        else:
            right = content == wanted[int(ending.partition("-")[0])]
        self._expect(right, f"G6: {name} is stored with another content")
        if not ending or name.endswith(MANIFEST):
            world.server.arrived[value] = 1

    def _expect(self, truth: bool, what: str) -> None:
        """Looked at after the turn: an error in an upload is one of its answers."""
        if not truth:
            self.broken = what

    def _fate(self) -> Retry | Unknown | None:
        world, chance = self.world, self.random.random()
        if world.server.down or chance < world.rates.retry:
            return Retry("503")
        return Unknown("timeout") if chance < world.rates.retry + world.rates.unknown else None

    def asked_again(self, value: int) -> int:
        """How often addresses of a file were asked for again without storage having refused one."""
        rows = (count for name, count in self.rows.items() if value_in(name) == value)
        return max(0, max(rows, default=0) - 1 - self._expired[value])

    # --- the coordinator dies ---------------------------------------------------------------------

    def step(self, what: str) -> None:
        """In front of it the coordinator may die; then it does not happen."""
        from tests.simulation.coordinator import CrashError

        try:
            self.world.boundary(what)
        except CrashError:
            self.acting.die(f"at {what}")
        if self.acting.gone:
            raise DeadError(errno.EIO, "the coordinator is dead")

    def act(self, coordinator: SimCoordinator) -> None:
        """This one uploads now, with what it has in memory."""
        self.acting = coordinator
        self._remembered = self._memories[coordinator.generation]

    def in_memory(self, note: Note) -> None:
        """The disk did not take a note, or the coordinator died before: no other one knows of it."""
        if isinstance(note, Addressed) and note.slot.done:
            self._only_known_to[self._newest] = self.acting


class MemoryNotes(Notes):
    """The notes of an upload on the simulated disk."""

    world: World

    def all(self) -> list[Note]:
        lines = bytes(self.world.disk.files[str(self._path)].data).splitlines() if self._is_there else []
        return [*map(_note.decode, lines), *self._kept]

    def _written(self, note: Note) -> bool:
        written = super()._written(note)
        if not written or self._kept:
            self.world.files.in_memory(note)
        return written

    def _append(self, path: Path, line: bytes) -> None:
        world = self.world
        world.files.step("note")
        if world.disk.capacity - world.disk.used < len(line):
            raise OSError(errno.ENOSPC, "no space")
        if not self._is_there:
            world.view.close(world.view.create(str(path)))
        world.disk.files[str(path)].data += line

    @property
    def _is_there(self) -> bool:
        return str(self._path) in self.world.disk.files


class MemorySource:
    """The content of a blob on the simulated disk."""

    def __init__(self, world: World, line: FileLine | Part) -> None:
        self._world, self._path = world, line.path
        self.size = line.size if isinstance(line, Part) else line.file_size

    def check(self) -> None:
        self._content()

    def pieces(self, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        yield self._content()[start:][:length]

    def sha256(self) -> str:
        return hashlib.sha256(self._content()).hexdigest()

    def _content(self) -> bytes:
        try:
            found = bytes(self._world.disk.files[self._path].data)
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "no such file", self._path) from None
        if len(found) < self.size:
            raise ChangedError("the machine went down before all of it was on the disk")
        return found


@contextlib.contextmanager
def installed(world: World) -> Iterator[None]:
    """Puts the simulated disk under uploads."""
    listed: dict[str, int] = defaultdict(int)

    def sources_of(line: FileLine) -> tuple[MemorySource, ...]:
        return tuple(MemorySource(world, each) for each in line.contents)

    def add(run: Path, entries: list[ledger.Entry]) -> None:
        for each in entries:
            arrived = world.server.arrived[value_in(each.file_name)]
            world.checks.expect(bool(arrived), f"G6: {each.file_name} is listed, and is not stored")
            listed[each.file_name] += 1

    def remove_blobs(folder: str, stream: str, segment: int, start: int, end: int) -> None:
        for line in records(folder, stream, segment, start, end):
            found = read_line(line)
            assert found is not None
            world.checks.blobs_go(value_in(found.file_name))
            for blob in (found.path, *(part.path for part in found.parts)):
                for ending in ("", SENT):
                    world.disk.files.pop(f"{folder}/blobs/{blob}{ending}", None)

    notes = type("NotesOfWorld", (MemoryNotes,), {"world": world})
    with contextlib.ExitStack() as stack:
        for where, name, what in (
            (upload, "Notes", notes),
            (upload, "sources_of", sources_of),
            (ledger, "add", add),
            (driver, "remove_blobs", remove_blobs),
            (worker.store_files, "set_aside", lambda store, run, line: None),
        ):
            stack.enter_context(mock.patch.object(where, name, what))
        yield
