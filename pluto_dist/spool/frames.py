"""The format of a segment: its file name, its frames, and `scan`, which cuts them. Pure.

File names are `metrics-00000001.spool`, and `metrics.p4711-00000001.spool` for a forked child's chain. A
frame is a header of 16 bytes and a payload. The header is four little-endian words:

    magic     f8 c1 ff fe; none of these bytes occurs in UTF-8, so no payload contains it
    mark      sequence << 2 | kind; the sequence counts from 0 in each chain, dropped records included, and
              wraps at 2**30; frames of threads may stand in another order than their sequence
    length    of the payload, 1 byte to 8 MiB, so that a damaged length never makes a reader allocate much
    checksum  CRC32 of the payload, seeded with the mark: one call covers kind, sequence and payload

Kinds: RECORD is a request line with its newline; DECLARE is `{"declare": {"<name>": "<type>"}}` and stands
before the first record that uses the name. Payloads are UTF-8; this is what makes a resync certain.

What a reader does with bytes that are no whole frame:

    a whole frame follows      damage: skipped to that frame, counted
    none follows, not final    a frame that is still being written, or was cut short: waits
    none follows, final        damage: skipped to the end, counted

So every undamaged frame is found again, whatever was changed, cut or inserted around it, as long as its own
bytes are together.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Annotated, Final
from zlib import crc32

import msgspec

RECORD: Final = 0
DECLARE: Final = 1

MAGIC: Final = b"\xf8\xc1\xff\xfe"
HEADER: Final = struct.Struct("<IIII")
HEADER_BYTES: Final = HEADER.size
MAX_PAYLOAD: Final = 8 * 1024 * 1024
MARK_STEP: Final = 4  # the two low bits of a mark are the kind
MARK_MASK: Final = 0xFFFF_FFFF
MAGIC_WORD: Final = int.from_bytes(MAGIC, "little")

_KIND_BITS: Final = 3
_NO_LIMIT: Final = 1 << 62


_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Type = Annotated[str, msgspec.Meta(pattern="^[A-Z]+$")]


class _Declaration(msgspec.Struct, forbid_unknown_fields=True):
    declare: dict[_Name, _Type]


_declaration = msgspec.json.Decoder(_Declaration)


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """The frames behind a cursor. `end` is the next cursor, once `lines` are accepted.

    A cut without lines may still move the cursor, over declarations and damage.

    Attributes:
        start, end: offsets in the segment, of the first byte and of the first that was not consumed.
        lines: payloads of the records, in file order.
        declared: names and types of the declarations; of two for one name the first counts.
        damaged: how many places were skipped because no frame could be read there.
        skipped: bytes in those places.
        bad_declarations: frames that are intact but declare nothing readable.
        torn: bytes follow `end` that are no whole frame.
        needed: with `torn`, how many bytes from `end` would decide; more than follow.
    """

    start: int
    end: int
    lines: tuple[bytes, ...] = ()
    declared: dict[str, str] = {}
    damaged: int = 0
    skipped: int = 0
    bad_declarations: int = 0
    torn: bool = False
    needed: int = 0


def encode_frame(payload: bytes, kind: int = RECORD, sequence: int = 0) -> bytes:
    """One frame; the writer's hot path has these two lines of its own."""
    mark = (sequence * MARK_STEP | kind) & MARK_MASK
    return HEADER.pack(MAGIC_WORD, mark, len(payload), crc32(payload, mark)) + payload


def encode_declaration(names: dict[str, str]) -> bytes:
    """Payload of a DECLARE frame."""
    return msgspec.json.encode({"declare": names}) + b"\n"


def scan(
    buffer: bytes | bytearray | memoryview,
    offset: int = 0,
    *,
    final: bool = False,
    base: int = 0,
    limit_bytes: int = _NO_LIMIT,
    limit_frames: int = _NO_LIMIT,
) -> Cut:
    """Cuts whole frames from `buffer`, beginning at `offset`.

    Args:
        buffer: bytes of one segment.
        offset: where to begin in `buffer`.
        final: nothing will be added behind the buffer, so an unfinished frame is damage.
        base: where `buffer` begins in its segment; the cut's offsets are the segment's.
        limit_bytes: stops behind the frame that reaches it.
        limit_frames: stops after that many frames.
    """
    data, found = bytes(buffer), _Found()
    stop = min(len(data), offset + limit_bytes)
    position = _take_frames(data, offset, stop, limit_frames, found)
    while position < stop and found.frames < limit_frames:
        start, (position, whole) = position, resync(data, position)
        if final and not whole:
            position = len(data)
        found.skip(position - start)
        if not whole:
            break
        position = _take_frames(data, position, stop, limit_frames, found)
    torn = position < stop and found.frames < limit_frames
    needed = frame_bytes(data, position) if torn else 0
    return found.cut(base + offset, base + position, torn=torn, needed=needed)


def joined(cuts: Sequence[Cut]) -> Cut:
    """Cuts that follow one another, as one."""
    if len(cuts) == 1:
        return cuts[0]
    declared: dict[str, str] = {}
    for cut in cuts:
        declared = cut.declared | declared
    return Cut(
        start=cuts[0].start,
        end=cuts[-1].end,
        lines=tuple(chain.from_iterable(cut.lines for cut in cuts)),
        declared=declared,
        damaged=sum(cut.damaged for cut in cuts),
        skipped=sum(cut.skipped for cut in cuts),
        bad_declarations=sum(cut.bad_declarations for cut in cuts),
        torn=cuts[-1].torn,
        needed=cuts[-1].needed,
    )


def _take_frames(data: bytes, position: int, stop: int, limit_frames: int, found: _Found) -> int:
    """Takes the whole frames that stand in a row here; returns where they end. The hot loop of delivery."""
    take, unpack, checksum_of, size = found.lines.append, HEADER.unpack_from, crc32, len(data)
    magic_word, header_bytes, kind_bits = MAGIC_WORD, HEADER_BYTES, _KIND_BITS
    stop = min(stop, size - header_bytes + 1)
    for _ in range(limit_frames - found.frames):
        if position >= stop:
            break
        magic, mark, length, checksum = unpack(data, position)
        body = position + header_bytes
        end = body + length
        payload = data[body:end]
        if magic != magic_word or not body < end <= size or checksum_of(payload, mark) != checksum:
            break
        position = end
        if mark & kind_bits:
            found.take(mark & kind_bits, payload)
        else:
            take(payload)
    return position


def resync(data: bytes, position: int) -> tuple[int, bool]:
    """The next whole frame at or behind `position`, and True.

    Without one, the first place where an unfinished frame could stand (at most the end), and False.
    """
    unfinished = None
    at = data.find(MAGIC, position)
    while at >= 0:
        needed = frame_bytes(data, at)
        if at + needed > len(data):
            unfinished = at if unfinished is None else unfinished
        elif needed and _intact(data, at):
            return at, True
        at = data.find(MAGIC, at + 1)
    return (_begun_magic(data, position) if unfinished is None else unfinished), False


def frame_bytes(data: bytes, position: int) -> int:
    """Bytes of the frame that begins here, as far as its header tells; 0 for an impossible length."""
    if position + HEADER_BYTES > len(data):
        return HEADER_BYTES
    length: int = HEADER.unpack_from(data, position)[2]
    return HEADER_BYTES + length if 0 < length <= MAX_PAYLOAD else 0


def _intact(data: bytes, position: int) -> bool:
    mark: int
    checksum: int
    _, mark, length, checksum = HEADER.unpack_from(data, position)
    body = position + HEADER_BYTES
    return crc32(data[body : body + length], mark) == checksum


def _begun_magic(data: bytes, position: int) -> int:
    """The place of a magic that the end of the data cuts off; else the end."""
    end = len(data)
    for length in range(min(len(MAGIC) - 1, end - position), 0, -1):
        if data.endswith(MAGIC[:length]):
            return end - length
    return end


class _Found:
    """The results of a scan so far: records, and what stands beside them."""

    __slots__ = ("bad_declarations", "damaged", "declared", "lines", "others", "skipped")

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.declared: dict[str, str] = {}
        self.others = self.damaged = self.skipped = self.bad_declarations = 0

    @property
    def frames(self) -> int:
        return len(self.lines) + self.others

    def cut(self, start: int, end: int, *, torn: bool, needed: int) -> Cut:
        return Cut(
            start=start,
            end=end,
            lines=tuple(self.lines),
            declared=self.declared,
            damaged=self.damaged,
            skipped=self.skipped,
            bad_declarations=self.bad_declarations,
            torn=torn,
            needed=needed,
        )

    def take(self, kind: int, payload: bytes) -> None:
        self.others += 1
        if kind != DECLARE:  # of a newer writer; this reader cannot know what it means
            self.skip(HEADER_BYTES + len(payload))
            return
        try:
            names = _declaration.decode(payload).declare
        except ValueError:  # msgspec's errors are ValueErrors, as is a payload that is not UTF-8
            self.bad_declarations += 1
            return
        self.declared = names | self.declared

    def skip(self, count: int) -> None:
        if count:
            self.damaged += 1
            self.skipped += count


STREAMS = ("lifecycle", "metrics", "data", "console", "files")
LAST_SEGMENT = 99_999_999  # eight digits
DRAIN_LOCK = "console.lock"  # locked while the drain of a captured console lives

_STREAM = rf"(?P<kind>{'|'.join(STREAMS)})(?:\.p(?P<pid>[1-9]\d*))?"
_stream = re.compile(_STREAM, re.ASCII)
_segment = re.compile(rf"(?P<stream>{_STREAM})-(?P<number>\d{{8}})\.spool", re.ASCII)


def segment_name(stream: str, number: int) -> str:
    """File name of a segment."""
    return f"{stream}-{number:08d}.spool"


@lru_cache  # a folder is looked at twice a second, and has mostly the names that it had
def parse_segment(name: str) -> tuple[str, int] | None:
    """Stream and segment number, or None for a file that is no segment."""
    found = _segment.fullmatch(name)
    return (found["stream"], int(found["number"])) if found else None


def child_stream(kind: str, pid: int) -> str:
    """Name of the chain that the forked child `pid` writes."""
    return f"{kind}.p{pid}"


def stream_kind(stream: str) -> str:
    """`metrics` for both `metrics` and `metrics.p4711`.

    Raises:
        ValueError: this is no stream's name.
    """
    return _parsed(stream)["kind"]


def stream_pid(stream: str) -> int | None:
    """Pid of the forked child that writes this chain, None for the lease's own process."""
    pid = _parsed(stream)["pid"]
    return int(pid) if pid else None


def _parsed(stream: str) -> re.Match[str]:
    found = _stream.fullmatch(stream)
    if not found:
        raise ValueError(f"{stream!r} is no stream; streams are {', '.join(STREAMS)}, or one of a child's")
    return found
