"""The decoders of the wire protocol: any bytes give a message or a ValueError, at little cost."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st

from pluto_dist.core.values.messages import (
    MAX_MESSAGE_BYTES,
    AskRun,
    Message,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode,
)
from tests.fuzz.budget import fuzz
from tests.fuzz.values import kinds_of, wire


def packable(value: Any) -> Any:
    """MessagePack has integers of 64 bits only."""
    if isinstance(value, bool) or not isinstance(value, int | list | dict):
        return value
    if isinstance(value, int):
        return max(-(2**63), min(2**64 - 1, value))
    if isinstance(value, list):
        return [packable(each) for each in value]
    return {key: packable(each) for key, each in value.items()}


requests = st.one_of([wire(kind) for kind in kinds_of(Request)])
replies = st.one_of([wire(kind) for kind in kinds_of(Reply)])
packed = (requests | replies).map(lambda value: msgspec.msgpack.encode(packable(value)))
edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "insert", "repeat"]), st.integers(0, 1 << 16), st.binary(max_size=6)
    ),
    max_size=4,
)


def mutated(payload: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """The bytes after some damage."""
    for how, where, data in changes:
        at = where % (len(payload) + 1)
        match how:
            case "flip" if at < len(payload):
                payload = payload[:at] + bytes([payload[at] ^ (1 << (where % 8))]) + payload[at + 1 :]
            case "cut":
                payload = payload[:at]
            case "insert":
                payload = payload[:at] + data + payload[at:]
            case "repeat":
                payload = payload[:at] + payload[at // 2 :]
    return payload


def understood(payload: bytes) -> list[Message]:
    """What the two decoders make of it; nothing but ValueError comes out of them."""
    found: list[Message] = []
    for decode in (decode_request, decode_reply):
        try:
            found.append(decode(payload))
        except ValueError:
            continue
    return found


@fuzz(80, payload=st.binary(max_size=300))
def test_random_bytes_are_a_message_or_a_value_error(payload: bytes) -> None:
    """G11."""
    understood(payload)


@fuzz(160, payload=packed, changes=edits)
def test_damaged_messages_are_a_message_or_a_value_error(
    payload: bytes, changes: list[tuple[str, int, bytes]]
) -> None:
    """G11: what is still understood can be sent on."""
    for message in understood(mutated(payload, changes)):
        assert decode_any(encode(message)) == message


def decode_any(payload: bytes) -> Message:
    """A request or a reply."""
    try:
        return decode_request(payload)
    except ValueError:
        return decode_reply(payload)


HEADS = {
    "array32": b"\xdd\xff\xff\xff\xff",
    "map32": b"\xdf\xff\xff\xff\xff",
    "str32": b"\xdb\xff\xff\xff\xff",
    "bin32": b"\xc6\xff\xff\xff\xff",
    "ext32": b"\xc9\xff\xff\xff\xff\x01",
    "nested arrays": b"\x91" * (MAX_MESSAGE_BYTES // 2),
    "nested maps": b"\x81\xa1t" * 100_000,
    "map of arrays": b"\x81\xa1t" + b"\x91" * 500_000,
    "a huge text where the tag stands": b"\x81\xa1t\xdb\x7f\xff\xff\xff" + b"x" * 1000,
    "many keys": b"\xdf\x00\x01\x00\x00" + b"\xa1a\xc0" * 0x10000,
}


@pytest.mark.parametrize("name", HEADS)
def test_announced_lengths_and_depths_cost_nothing(name: str) -> None:
    """G11: four gigabytes are not reserved because somebody says so; depth is an error and no crash."""
    tracemalloc.start()
    assert understood(HEADS[name]) == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MAX_MESSAGE_BYTES


def test_the_size_limit_is_checked_before_anything_is_read() -> None:
    """G11."""
    with pytest.raises(ValueError, match=str(MAX_MESSAGE_BYTES)):
        decode_request(encode(AskRun(request=1, run="x" * MAX_MESSAGE_BYTES)))
