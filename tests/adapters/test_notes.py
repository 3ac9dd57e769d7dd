"""Notes of an upload, and the list of a Run's artifacts: appended, read by whoever comes next (G12)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pluto_dist.backend import ledger
from pluto_dist.backend.ledger import Entry, Notes, digest_of, read_notes
from pluto_dist.backend.pluto.files import Pace
from pluto_dist.core.rules.shipment import Addressed, Hashed, ManifestFile, Sent, Slot

SOME = [Hashed(0, "ab"), Addressed(0, Slot("http://u?sig=1", 5.0)), Sent(0, 7), Addressed(0, Slot(done=True))]


def test_another_process_finds_what_was_noted_and_passes_over_a_torn_end(tmp_path: Path) -> None:
    """G11: nobody else can read an address."""
    first = Notes(str(tmp_path / "blobs"), "a" * 32)
    for note in SOME:
        first.add(note)
    path = tmp_path / "blobs" / f"{'a' * 32}.sent"
    assert path.stat().st_mode & 0o777 == 0o600
    with path.open("ab") as file:
        file.write(b'{"note":"addressed","obj')
    second = Notes(str(tmp_path / "blobs"), "a" * 32)
    assert second.all() == SOME
    assert read_notes(tmp_path / "gone") == []


@pytest.mark.parametrize("where", [("", "a" * 32), ("/nowhere", "")])
def test_without_a_folder_notes_last_as_long_as_their_holder(where: tuple[str, str]) -> None:
    notes = Notes(*where)
    for note in SOME:
        notes.add(note)
    assert notes.all() == SOME


def test_a_note_that_the_disk_does_not_take_counts_as_long_as_its_holder_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G6: else every try asks for another address, and each is seen at the server."""
    notes = Notes(str(tmp_path), "a" * 32)
    notes.add(SOME[0])
    with monkeypatch.context() as full:
        full.setattr(os, "write", _no_room)
        notes.add(SOME[1])
    assert notes.all() == SOME[:2]
    notes.add(SOME[3])
    assert [each for each in notes.all() if isinstance(each, Addressed)][-1] == SOME[3]
    assert read_notes(tmp_path / f"{'a' * 32}.sent") == [SOME[0], SOME[3]]


def _no_room(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def entry(number: int, **more: object) -> Entry:
    fields = {"id": f"{number}", "name": "ckpt", "file_name": f"f{number}", "step": number, "time": 1}
    return Entry(**(fields | {"size": 3, "sha256": "aa", "where": "store"} | more))  # type: ignore[arg-type]


def test_an_artifact_that_is_delivered_again_is_listed_once_and_where_it_is_last(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "key"
    assert ledger.entries(run) == []
    ledger.add(run, [entry(1), entry(2)])
    ledger.add(run, [])
    with (run / "artifacts.jsonl").open("ab") as file:
        file.write(b'torn{"id":\n{"id":"3","of a later version":1}\n')
    ledger.add(run, [entry(1, where="server")])
    assert ledger.entries(run) == [entry(1, where="server"), entry(2)]


def test_the_checksum_of_a_folder_is_of_its_files_and_not_of_their_places() -> None:
    here = (ManifestFile("a", 1, "aa"), ManifestFile("b", 2, "bb"))
    there = (ManifestFile("a", 1, "aa", ("s.00000-a",)), ManifestFile("b", 2, "bb", ("s.00001-b",)))
    assert digest_of(here) == digest_of(there)
    assert digest_of(here) != digest_of((ManifestFile("a", 1, "ab"), here[1]))


def test_all_uploads_together_keep_to_the_rate() -> None:
    """Ten pieces of 100 bytes by two threads at 100 bytes a second take ten seconds."""
    now, waits = [0.0], list[float]()

    def pause(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    pace = Pace(lambda: now[0], pause)
    one, two = (pace.limited(iter([b"x" * 100] * 5), 100) for _ in range(2))
    for _ in range(5):
        assert next(one) == next(two) == b"x" * 100
    assert now[0] == pytest.approx(9.0)  # the first piece need not wait
    assert list(pace.limited(iter([b"x"] * 3), 0)) == [b"x"] * 3
    assert len(waits) == 10
