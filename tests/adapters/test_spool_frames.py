"""Frames and `scan`: what is found again in damaged bytes, and what waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluto_dist.spool.frames import (
    DECLARE,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    MAGIC_WORD,
    MAX_PAYLOAD,
    RECORD,
    Cut,
    encode_declaration,
    encode_frame,
    scan,
)

streams = st.lists(st.text(max_size=60), min_size=1, max_size=12).map(
    lambda texts: [f"{n} {text}\n".encode() for n, text in enumerate(texts)]
)


def frames_of(lines: list[bytes]) -> list[bytes]:
    return [encode_frame(line, sequence=n) for n, line in enumerate(lines)]


def spans_of(frames: list[bytes]) -> list[tuple[int, int]]:
    spans, at = [], 0
    for frame in frames:
        spans.append((at, at + len(frame)))
        at += len(frame)
    return spans


@given(streams)
def test_scan_returns_the_payloads_in_order_and_all_bytes(lines: list[bytes]) -> None:
    data = b"".join(frames_of(lines))
    assert scan(data) == Cut(start=0, end=len(data), lines=tuple(lines))


@given(streams, st.integers(0, 5))
def test_offset_and_base_move_the_cut_and_nothing_else(lines: list[bytes], skip: int) -> None:
    frames = frames_of(lines)
    skip = min(skip, len(frames))
    offset = len(b"".join(frames[:skip]))
    cut = scan(memoryview(b"".join(frames)), offset, base=1000)
    assert (cut.start, cut.end) == (1000 + offset, 1000 + len(b"".join(frames)))
    assert cut.lines == tuple(lines[skip:])


@given(streams, st.data())
def test_frames_beside_changed_bytes_are_found_again(lines: list[bytes], data: st.DataObject) -> None:
    """Every frame that shares no byte with the damage is found, damage is never fatal, nothing is made up."""
    frames = frames_of(lines)
    original = b"".join(frames)
    at = data.draw(st.integers(0, len(original) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=40))
    damaged = (original[:at] + noise + original[at + len(noise) :])[: len(original)]
    untouched = [
        line
        for line, (begin, end) in zip(lines, spans_of(frames), strict=True)
        if damaged[begin:end] == original[begin:end]
    ]
    for final in (False, True):
        cut = scan(damaged, final=final)
        assert list(cut.lines) == untouched
    assert cut.end == len(damaged)
    assert cut.skipped == len(damaged) - sum(HEADER_BYTES + len(line) for line in untouched)


@given(streams, st.data())
def test_a_flipped_bit_costs_one_frame_and_is_counted(lines: list[bytes], data: st.DataObject) -> None:
    frames = frames_of(lines)
    bit = data.draw(st.integers(0, 8 * sum(map(len, frames)) - 1))
    damaged = bytearray(b"".join(frames))
    damaged[bit // 8] ^= 1 << bit % 8
    hit = next(n for n, (_, end) in enumerate(spans_of(frames)) if bit // 8 < end)
    cut = scan(damaged, final=True)
    assert list(cut.lines) == lines[:hit] + lines[hit + 1 :]
    assert (cut.damaged, cut.skipped) == (1, len(frames[hit]))


@given(streams, st.data())
def test_frames_around_inserted_bytes_are_found_again(lines: list[bytes], data: st.DataObject) -> None:
    """Foreign bytes between, before or inside of frames cost only a frame that they split."""
    frames = frames_of(lines)
    original = b"".join(frames)
    at = data.draw(st.integers(0, len(original)))
    foreign = data.draw(st.binary(min_size=1, max_size=40) | st.just(MAGIC) | st.just(bytes(300)))
    spans = spans_of(frames)
    whole = [line for line, (begin, end) in zip(lines, spans, strict=True) if not begin < at < end]
    cut = scan(original[:at] + foreign + original[at:], final=True)
    # Inserted bytes can equal those they displace; then the split frame is whole after all.
    assert list(cut.lines) in (whole, lines)


@given(streams, st.data())
def test_a_cut_off_tail_waits_and_is_read_when_it_has_grown(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(frames_of(lines))
    size = data.draw(st.integers(0, len(whole)))
    first = scan(whole[:size])
    assert first.damaged == 0
    assert first.torn == (first.end < size)
    assert not first.torn or first.end + first.needed > size
    second = scan(whole, first.end)
    assert first.lines + second.lines == tuple(lines)
    assert second.end == len(whole)


@given(streams, st.data())
def test_a_final_scan_gives_up_the_torn_tail_and_counts_it(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(frames_of(lines))
    size = data.draw(st.integers(0, len(whole)))
    waiting, given_up = scan(whole[:size]), scan(whole[:size], final=True)
    assert given_up.lines == waiting.lines
    assert given_up.end == size
    assert not given_up.torn
    assert given_up.skipped == size - waiting.end


def test_frames_behind_a_torn_one_are_found_without_waiting() -> None:
    """Another thread may append behind a short write; its records must not wait for the missing bytes."""
    torn, behind = encode_frame(b"a" * 1000)[:100], encode_frame(b"b\n")
    cut = scan(torn + behind)
    assert cut.lines == (b"b\n",)
    assert (cut.damaged, cut.skipped, cut.torn) == (1, 100, False)


def test_the_first_unfinished_frame_is_the_one_that_waits() -> None:
    cut = scan(encode_frame(b"a" * 1000)[:100] + encode_frame(b"b" * 1000)[:100])
    assert (cut.end, cut.torn, cut.damaged) == (0, True, 0)


def test_a_damaged_length_does_not_hold_up_what_follows() -> None:
    frame = bytearray(encode_frame(b"a\n"))
    frame[10] = 0x7F  # now 8 MiB minus a little
    cut = scan(bytes(frame) + encode_frame(b"b\n"))
    assert cut.lines == (b"b\n",)


def test_a_length_over_the_limit_is_damage_and_waits_for_nothing() -> None:
    header = HEADER.pack(MAGIC_WORD, 0, MAX_PAYLOAD + 1, 0)
    cut = scan(header)
    assert (cut.end, cut.torn, cut.damaged) == (HEADER_BYTES, False, 1)


def test_zeros_left_by_a_power_loss_are_skipped() -> None:
    data = encode_frame(b"a\n") + bytes(5000) + encode_frame(b"b\n")
    cut = scan(data)
    assert (cut.lines, cut.damaged, cut.skipped) == ((b"a\n", b"b\n"), 1, 5000)


def test_a_magic_followed_by_zeros_is_no_frame() -> None:
    """The page behind a header's first bytes was lost; an empty payload would have the checksum 0."""
    cut = scan(MAGIC + bytes(100), final=True)
    assert (cut.lines, cut.skipped) == ((), 104)


def test_limits_end_a_cut_between_frames() -> None:
    data = b"".join(frames_of([b"0123456789"] * 10))
    frame = HEADER_BYTES + 10
    assert len(scan(data, limit_frames=3).lines) == 3
    by_bytes = scan(data, limit_bytes=frame * 2 + 1)
    assert (len(by_bytes.lines), by_bytes.end, by_bytes.torn) == (3, frame * 3, False)


def test_declarations_count_as_frames_but_are_no_lines() -> None:
    declare = encode_frame(encode_declaration({"a": "METRIC"}), DECLARE)
    cut = scan(declare * 5, limit_frames=2)
    assert (cut.lines, cut.end) == ((), 2 * len(declare))


def test_the_first_declaration_of_a_name_counts() -> None:
    """As on the server: the first type wins."""
    data = encode_frame(encode_declaration({"a": "METRIC", "b": "TEXT"}), DECLARE)
    data += encode_frame(b"line\n", RECORD)
    data += encode_frame(encode_declaration({"a": "FILE", "c": "IMAGE"}), DECLARE)
    cut = scan(data)
    assert cut.declared == {"a": "METRIC", "b": "TEXT", "c": "IMAGE"}
    assert cut.lines == (b"line\n",)


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"[]",
        b'{"declare": {"a": 1}}',
        b'{"declare": {"": "METRIC"}}',
        b'{"other": {}}',
        b"\xff\xfe",
    ],
)
def test_an_unreadable_declaration_is_counted_and_harms_nothing(payload: bytes) -> None:
    cut = scan(encode_frame(payload, DECLARE) + encode_frame(b"line\n"))
    assert (cut.bad_declarations, cut.declared, cut.lines) == (1, {}, (b"line\n",))


def test_a_frame_of_an_unknown_kind_is_skipped_and_counted() -> None:
    cut = scan(encode_frame(b"new", 3) + encode_frame(b"line\n"))
    assert (cut.lines, cut.damaged) == ((b"line\n",), 1)


@given(st.binary(max_size=400) | st.lists(st.sampled_from([MAGIC, MAGIC[:2], b"\0", b"{}"])).map(b"".join))
def test_foreign_bytes_are_never_a_record(noise: bytes) -> None:
    cut = scan(noise, final=True)
    assert (cut.lines, cut.end, cut.skipped) == ((), len(noise), len(noise))


def test_no_payload_contains_the_magic() -> None:
    """None of its bytes occurs in UTF-8; resync rests on it."""
    for byte in MAGIC:
        with pytest.raises(UnicodeDecodeError):
            bytes([byte]).decode()
    assert not any(bytes([byte]) in chr(point).encode() for point in (0x10FFFF, 0x7FF) for byte in MAGIC)
