"""Damaged spools: nothing is read that was not written, everything that is whole is found, nothing falls."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import msgspec
from hypothesis import strategies as st

from pluto_dist.coordinator import spools
from pluto_dist.core.values.ids import Identity, Job
from pluto_dist.core.values.lifecycle import (
    Claim,
    Closed,
    LifecycleEntry,
    Noted,
    Target,
    Unreadable,
    encode_entry,
)
from pluto_dist.core.values.messages import PROTOCOL
from pluto_dist.spool.batches import contents, numbered, renamed
from pluto_dist.spool.frames import HEADER_BYTES, MAX_PAYLOAD, encode_frame, segment_name
from pluto_dist.spool.reader import ReadLimits, last_record, list_streams, next_range, read_cut
from tests.fuzz.budget import fuzz
from tests.fuzz.damage import Damage, damaged, damages
from tests.fuzz.values import as_json, plain_json, texts

payloads = st.lists(st.text(min_size=1, max_size=200).map(lambda text: text.encode() + b"\n"), max_size=30)
names = st.sampled_from(
    [
        "metrics-00000002.spool",
        "metrics-1.spool",
        "metrics-00000000.spool",
        "metrics-99999999.spool",
        "lifecycle-00000002.spool",
        "data.p1-00000001.spool",
        "metrics-00000003.spool.tmp",
        ".hidden",
    ]
)


def framed(payload: bytes, number: int) -> bytes:
    """One whole frame."""
    return encode_frame(payload, sequence=number)


def read_all(folder: str, stream: str, *, final: bool) -> tuple[list[bytes], int]:
    """All lines that are found from the first segment on, and the places that were skipped."""
    offsets: dict[int, int] = {}
    torn: dict[int, int] = {}
    lines: list[bytes] = []
    skipped = 0
    for _ in range(1000):
        segments = list_streams(folder).get(stream, {})
        number = next_range(segments, offsets, torn)
        if number is None:
            return lines, skipped
        cut = read_cut(folder, stream, number, offsets.get(number, 0), ReadLimits(bytes=700), final=final)
        skipped += cut.damaged
        lines.extend(cut.lines)
        if cut.end == cut.start:
            torn[number] = segments[number]
        offsets[number] = cut.end
    raise AssertionError(f"no end: {offsets}")


@fuzz(60, written=payloads, changes=damages, final=st.booleans())
def test_a_damaged_stream_gives_whole_records_and_no_others(
    written: list[bytes], changes: list[Damage], final: bool
) -> None:
    """G3, G6: every frame whose bytes are together is found, nothing else is, and damage is counted."""
    frames = [framed(payload, number) for number, payload in enumerate(written)]
    data = damaged(b"".join(frames), changes)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, segment_name("metrics", 1)).write_bytes(data)
        lines, skipped = read_all(folder, "metrics", final=final)
        last = last_record(folder, "metrics")
    whole = Counter(payload for payload, frame in zip(written, frames, strict=True) if frame in data)
    assert not whole - Counter(lines), "a whole frame was not found"
    assert set(lines) <= set(written)
    assert last is None or last in written
    if final and sum(map(len, lines)) + HEADER_BYTES * len(lines) < len(data):
        assert skipped


@fuzz(24, written=payloads, name=names, noise=st.binary(max_size=100), kind=st.integers(0, 4))
def test_foreign_files_beside_a_stream_change_nothing(
    written: list[bytes], name: str, noise: bytes, kind: int
) -> None:
    """G11: links, pipes, folders and other people's files are no segments."""
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base, "lease")
        folder.mkdir()
        (folder / segment_name("metrics", 1)).write_bytes(b"".join(map(framed, written, range(1000))))
        planted = folder / name
        secret = Path(base, "secret")
        secret.write_bytes(framed(b"secret\n", 0))
        match kind:
            case 0:
                planted.symlink_to(secret)
            case 1:
                os.mkfifo(planted)
            case 2:
                planted.mkdir()
            case 3:
                planted.write_bytes(noise)
            case 4:
                planted.symlink_to("/dev/zero")
        lines, _ = read_all(str(folder), "metrics", final=True)
        assert lines == written
        assert spools.next_step(str(folder)) >= 0
        assert spools.record_sizes(str(folder))[0].get("metrics", {}).get(1, 0) >= 0
        assert not spools.still_written(str(folder))


OPENED = Claim(
    at=1.0,
    wall_ms=1,
    protocol=PROTOCOL,
    verb="init",
    identity=Identity("boot", 1, 1, 1),
    job=Job(key="job"),
    target=Target("local", "/store"),
    project="demo",
    generated_id="g",
)


def story(count: int) -> list[LifecycleEntry]:
    """An opening, remarks that can be told apart, and an end."""
    noted = [Noted(at=2.0 + number, wall_ms=number, text=f"n{number}") for number in range(count)]
    return [OPENED, *noted, Closed(at=1e6, wall_ms=1)]


@fuzz(60, count=st.integers(0, 20), changes=damages)
def test_a_damaged_lifecycle_stream_gives_the_entries_that_are_whole(
    count: int, changes: list[Damage]
) -> None:
    """R1: what is whole takes effect, in order, each once; the reader does not fall."""
    entries = story(count)
    data = damaged(b"".join(framed(encode_entry(each), n) for n, each in enumerate(entries)), changes)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, segment_name("lifecycle", 1)).write_bytes(data)
        tail = spools.LifecycleTail(folder)
        found = tail.read()
        assert tail.read() == []
    assert [number for number, _ in found] == [*range(1, len(found) + 1)]
    assert all(entry in entries for _, entry in found if not isinstance(entry, Unreadable))


@fuzz(40, count=st.integers(2, 12), where=st.integers(0, 1 << 16), length=st.integers(1, 3))
def test_entries_behind_damage_keep_their_numbers(count: int, where: int, length: int) -> None:
    """R1: a coordinator that reads the stream anew takes no entry for one it knows."""
    entries = story(count)
    frames = [framed(encode_entry(each), n) for n, each in enumerate(entries)]
    gone = range(where % (count + 1), min(where % (count + 1) + length, count + 1))
    data = b"".join(b"\0" * len(frame) if n in gone else frame for n, frame in enumerate(frames))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, segment_name("lifecycle", 1)).write_bytes(data)
        found = dict(spools.LifecycleTail(folder).read())
    readable = {number: each for number, each in found.items() if not isinstance(each, Unreadable)}
    assert readable == {n + 1: each for n, each in enumerate(entries) if n not in gone}


@fuzz(60, line=plain_json.map(as_json) | st.binary(max_size=200), label=texts)
def test_lines_that_are_no_records_are_left_to_the_backend(line: bytes, label: str) -> None:
    """G6: a frame may hold anything; looking for names and steps in it does not raise."""
    with tempfile.TemporaryDirectory() as folder:
        for stream in ("metrics", "data", "console"):
            Path(folder, segment_name(stream, 1)).write_bytes(framed(line or b"x", 0))
        assert 0 <= spools.next_step(folder) < 2**63
    for kind in ("metrics", "data", "console", "files"):
        found = contents(kind, [line])
        msgspec.json.encode(found)
    renamed("metrics", [line], {"a": None})
    renamed("data", [line], {"a": None})
    numbered([line], 1, label)


def test_a_huge_length_costs_no_memory() -> None:
    """G11: a header may say anything; what is read is bounded by what a frame may have."""
    head = b"\xf8\xc1\xff\xfe" + b"\0" * 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, segment_name("metrics", 1))
        path.write_bytes((head + b"\xff\xff\xff\xff" + b"\0" * 4) * 50 + framed(b"whole\n", 0))
        os.truncate(path, 1 << 32)  # sparse
        tracemalloc.start()
        cut = read_cut(folder, "metrics", 1, 0)
        last_record(folder, "metrics")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert cut.lines == (b"whole\n",)
    assert peak < 8 * MAX_PAYLOAD
