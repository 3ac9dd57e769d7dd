"""The lifecycle stream of a lease, as the coordinator reads it from disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from pluto_dist.client.lease_files import LeaseFiles
from pluto_dist.coordinator.spools import LifecycleTail
from pluto_dist.core.values.lifecycle import Noted, Unreadable

BAD = {
    "an entry of a newer version": b'{"entry":"promoted","at":1.0,"wall_ms":1}\n',
    "a value of the wrong type": b'{"entry":"noted","at":1.0,"wall_ms":1,"text":5}\n',
    "no JSON": b"\xff\xfe not json\n",
    "nested without an end": b'{"entry":"noted","detail":' + b"[" * 5000 + b"\n",
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_a_line_that_is_no_entry_keeps_its_place(tmp_path: Path, line: bytes) -> None:
    """R1: numbers go on behind it, so that nobody waits for an entry that never comes."""
    files = LeaseFiles(tmp_path, segment_bytes=1 << 20, quota_bytes=None)
    files.say(Noted(at=0.0, wall_ms=0, text="before"))
    files.lifecycle.append(line)
    files.say(Noted(at=0.0, wall_ms=0, text="after"))
    read = LifecycleTail(str(files.folder)).read()
    assert [number for number, _ in read] == [1, 2, 3]
    assert isinstance(read[1][1], Unreadable)
    assert read[1][1].why
    assert [entry.text for _, entry in read if isinstance(entry, Noted)] == ["before", "after"]
