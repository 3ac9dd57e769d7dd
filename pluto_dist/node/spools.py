"""What the coordinator reads of a lease's folder: lifecycle entries, sizes, the last step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pluto_dist.core.delivery import kind_of
from pluto_dist.core.foreign import UNREADABLE, step_behind
from pluto_dist.core.ids import LEASE_ID
from pluto_dist.core.lifecycle import LifecycleEntry, Unreadable, decode_entry
from pluto_dist.errors import ProtocolError
from pluto_dist.node.lease_lock import LOCK_NAME, LeaseProbe
from pluto_dist.spool.frames import HEADER, HEADER_BYTES, MARK_STEP, Cut, scan
from pluto_dist.spool.names import DRAIN_LOCK, stream_pid
from pluto_dist.spool.reader import last_record, list_streams, next_range, read_cut, writer_lives
from pluto_dist.spool.real_files import real_files

LIFECYCLE = "lifecycle"
FORGOTTEN_S = 10.0  # a process that has made its lock file locks it at once
LONGEST_STEP = 20  # digits of the largest 64-bit integer


class _Step(msgspec.Struct):
    step: int = -1


class LifecycleTail:
    """Reads the lifecycle stream of one lease; entries are numbered from 1.

    Attributes:
        trouble: why the last `read` did not get further.

    Args:
        folder: the lease's folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._offsets: dict[int, int] = {}
        self._torn: dict[int, int] = {}
        self._count = 0
        self.trouble: OSError | None = None

    def read(self, sizes: dict[int, int] | None = None) -> list[tuple[int, LifecycleEntry | Unreadable]]:
        """Entries that were not read before, with their numbers; `trouble` says why there are not more."""
        entries: list[tuple[int, LifecycleEntry | Unreadable]] = []
        self.trouble = None
        try:
            segments = list_streams(self._folder).get(LIFECYCLE, {}) if sizes is None else sizes
            self._read(segments, entries)
        except OSError as error:
            self.trouble = error
        return entries

    def _read(self, segments: dict[int, int], entries: list[tuple[int, LifecycleEntry | Unreadable]]) -> None:
        while (segment := next_range(segments, self._offsets, self._torn)) is not None:
            cut = read_cut(self._folder, LIFECYCLE, segment, self._offsets.get(segment, 0))
            if cut.end == cut.start:
                self._torn[segment] = segments[segment]
                continue
            self._offsets[segment] = cut.end
            for line in cut.lines if not cut.damaged else with_gaps(cut, segment):
                self._count += 1
                entries.append((self._count, decode_entry(line)))


def with_gaps(cut: Cut, segment: int) -> Iterator[bytes]:
    """Lines of a damaged cut, with an empty one for each entry that cannot be read any more.

    So the entries behind them keep the numbers that an earlier coordinator gave them. How many are missing
    follows from the sequence; at the start of a cut, where that is not known, one is assumed.
    """
    before = -1 if cut.start == 0 and segment == 1 else None
    start = 0
    while start < len(cut.raw):
        one = scan(cut.raw, start, final=True, limit_frames=1)
        after = _sequence_of(cut.raw, one) if one.lines else None
        missing = one.damaged
        if missing and before is not None and after is not None:
            room = one.skipped // HEADER_BYTES  # a sequence that is a lie must not make billions of them
            missing = max(missing, min(after - before - 1, room))
        yield from (b"",) * missing
        yield from one.lines
        start, before = one.end, after


def _sequence_of(raw: bytes, one: Cut) -> int:
    """The sequence of the last frame of a cut of `raw`."""
    mark: int = HEADER.unpack_from(raw, one.end - len(one.lines[-1]) - HEADER_BYTES)[1]
    return mark // MARK_STEP


def check_lease_folder(spool: Path, lease_id: str, folder: str) -> None:
    """A client names its folder; only a lease's own place in this node's spool is accepted (G11).

    Raises:
        ProtocolError: it is somewhere else.
    """
    if not LEASE_ID.match(lease_id) or Path(folder) != lease_folder(spool, lease_id):
        raise ProtocolError(
            f"lease {lease_id!r} names the folder {folder!r}; this coordinator's are in {spool}/leases"
        )


def check_exists(folder: str) -> None:
    """A lease that nobody has heard of yet has at least a folder.

    Raises:
        ProtocolError: it has none.
    """
    if not Path(folder).is_dir():
        raise ProtocolError(f"there is no lease folder {folder}; somebody deleted it, or it never was")


def lease_folder(spool: Path, lease_id: str) -> Path:
    """Where a lease's files are."""
    return spool / "leases" / lease_id


def lease_ids(spool: Path) -> list[str]:
    """Leases that have a folder in the spool."""
    folder = spool / "leases"
    try:
        return sorted(path.name for path in folder.iterdir() if LEASE_ID.match(path.name))
    except FileNotFoundError:
        return []


def record_sizes(folder: str) -> tuple[dict[str, dict[int, int]], dict[int, int]]:
    """Sizes of the record streams' segments, and those of the lifecycle stream."""
    streams = list_streams(folder)
    lifecycle = streams.get(LIFECYCLE, {})
    return {name: sizes for name, sizes in streams.items() if kind_of(name) is not None}, lifecycle


def next_step(folder: str) -> int:
    """One more than the step of the last record of any chain, 0 if there is none."""
    steps = [0]
    for stream in list_streams(folder):
        if kind_of(stream) in ("metrics", "data", "files"):
            record = last_record(folder, stream)
            if record is not None:
                steps.append(step_behind(_step_of(record)))
    return max(steps)


def still_written(folder: str) -> bool:
    """Whether a child or the console's drain of a dead process may still write here.

    They hold locks, which end with them: the chain that a child writes, and the drain's file. Where nothing
    can be read, nobody is waited for.
    """
    files = real_files()
    try:
        children = [stream for stream in list_streams(folder) if stream_pid(stream) is not None]
        if any(writer_lives(folder, stream) for stream in children):
            return True
        return files.being_written(f"{folder}/{DRAIN_LOCK}")
    except OSError:
        return False


def has_family(folder: str) -> bool:
    """Whether forked children of a dead process live; they may log, also if they have not done so yet."""
    try:
        probe = LeaseProbe(Path(folder) / LOCK_NAME)
    except OSError:  # not the file that the process made; nobody is waited for
        return False
    try:
        return probe.has_family()
    finally:
        probe.close()


def is_released(folder: str) -> bool:
    """Whether the process has let go of its lease file, and no child that it forked can write there."""
    probe = LeaseProbe(Path(folder) / LOCK_NAME)
    try:
        return probe.state() != "held" and not probe.has_family() and not still_written(folder)
    finally:
        probe.close()


def is_forgotten(folder: str, now: float) -> bool:
    """Whether a process died before the disk took a word of it: its lock is there, and nobody holds it.

    Args:
        folder: of a lease that has written nothing.
        now: epoch seconds.
    """
    try:
        path = Path(folder) / LOCK_NAME
        return now > path.stat().st_mtime + FORGOTTEN_S and is_released(folder)
    except FileNotFoundError:  # not locked yet, or the node's own
        return False


def remove_folder(folder: str) -> None:
    """Deletes a lease's folder; one that is gone already is no error."""
    shutil.rmtree(folder, ignore_errors=True)


def _step_of(record: bytes) -> int:
    try:
        return msgspec.json.decode(record, type=_Step).step
    except UNREADABLE:  # non-finite values are no JSON; the step stands before them
        head, _, rest = record.partition(b'"step":')
        digits = rest.split(b",", 1)[0].strip()
        return int(digits) if head and digits.isdigit() and len(digits) <= LONGEST_STEP else -1
