"""Entries that no client of ours writes are refused where they are decoded."""

from __future__ import annotations

import pytest

from pluto_dist.core.values.ids import MAX_STEP, step_behind
from pluto_dist.core.values.lifecycle import Noted, Unreadable, decode_entry, encode_entry
from pluto_dist.core.values.messages import View, encode

HEAD = b'{"at":1,"wall_ms":1,'
REFUSED = {
    "half a character": HEAD + b'"entry":"noted","text":"\xff"}',
    "nested without end": HEAD + b'"entry":"config_updated","patch":' + b"[" * 99_999 + b"]" * 99_999 + b"}",
    "a config that is no object": HEAD + b'"entry":"config_updated","patch":[1]}',
    "a config that is no UTF-8": HEAD + b'"entry":"config_updated","patch":{"a":"\xff"}}',
    "a step of 65 bits": HEAD + b'"entry":"counted","next_step":18446744073709551616}',
    "a negative count": HEAD + b'"entry":"counted","dropped":-1}',
    "an endless code": HEAD + b'"entry":"finished","code":' + b"9" * 400 + b"}",
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_entry_that_nobody_could_carry_on_is_refused(name: str) -> None:
    """G12: each of these once ended the coordinator, and the next one that read it."""
    assert isinstance(decode_entry(REFUSED[name]), Unreadable)


def test_what_is_written_is_read() -> None:
    """The rules above leave our own entries alone."""
    entry = Noted(at=1.0, wall_ms=1, text="\0", detail={"run": "x", "lease": "y"})
    assert decode_entry(encode_entry(entry)) == entry


@pytest.mark.parametrize("step", [-1, 0, MAX_STEP, MAX_STEP + 1, 2**64 - 1, 10**40])
def test_the_step_behind_any_step_can_be_sent(step: int) -> None:
    """log(step=2**64 - 1) once gave a next step that no message can carry."""
    view = View(generation=1, lease_id="a", request=0, state="active", folded=0, next_step=step_behind(step))
    assert encode(view)
