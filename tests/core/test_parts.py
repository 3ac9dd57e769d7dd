"""Parts of a Run that several nodes have written, put together (R12)."""

from __future__ import annotations

import msgspec

from pluto_dist.core.rules.parts import grouped, together
from pluto_dist.core.rules.series import FinalNames
from pluto_dist.core.values.document import Document
from pluto_dist.core.values.records import Point, RunEvent, SeriesOwner, Verdict
from tests.adapters import documents

ENDED = Verdict("FAILED", "node0 was lost")


def owners(key: str = "a", owned_at: int = 1000, **more: object) -> Document:
    return documents.document(documents.lease("l" + key, granted_at=owned_at), key=key, **more)


def others(key: str = "b", **more: object) -> Document:
    lease = documents.lease("l" + key, "rank2", relay="node1")
    return documents.document(lease, key=key, part_of="a", relay="node1", **more)


def test_parts_are_grouped_by_the_key_that_they_share() -> None:
    stranger = owners("z")
    first, second = grouped([others(), stranger, owners()])
    assert [part.key for part in first] == ["a", "b"]
    assert second == (stranger,)
    assert together(second) is stranger


def test_the_part_whose_owner_came_last_speaks_for_the_run() -> None:
    """The job was started again on another machine, which has a store of its own."""
    later = owners("c", 5000, part_of="a", tags=("new",))
    run = together(grouped([owners(tags=("old",)), others(), later])[0])
    assert (run.key, run.tags, run.parts) == ("c", ("new",), ("c", "a", "b"))


def test_an_end_that_only_another_part_knows_is_the_runs_end() -> None:
    """G7: the owner's node was lost, so its part says RUNNING for ever."""
    ended = others(status="FAILED", verdict=ENDED, ended_ms=9000, round=1)
    run = together(grouped([owners(), ended])[0])
    assert (run.status, run.ended_at) == ("FAILED", 9000)
    assert (run.restore.run.verdict, run.restore.run.round) == (ENDED, 1)


def test_the_end_of_an_earlier_start_is_not_the_end_of_a_run_that_goes_on() -> None:
    ended = others(status="FAILED", verdict=ENDED, ended_ms=9000, round=1)
    run = together(grouped([owners(round=1), ended])[0])
    assert (run.status, run.verdict) == ("RUNNING", None)


def test_everything_that_is_counted_is_the_sum() -> None:
    mine = owners(summary={"loss": Point(1.0, 5, 6)}, events=(RunEvent(2, "opened"),))
    theirs = others(
        summary={"loss": Point(3.0, 7, 8), "loss/rank2": Point(2.0, 5, 6)}, events=(RunEvent(1, "opened"),)
    )
    run = together(grouped([theirs, mine])[0])
    assert run.summary == {"loss": Point(3.0, 7, 14), "loss/rank2": Point(2.0, 5, 6)}
    assert run.points == 20
    assert run.events == (RunEvent(1, "opened", {"node": "node1"}), RunEvent(2, "opened"))
    assert [lease.participant for lease in run.leases] == ["owner", "rank2"]


def test_names_are_those_of_the_part_that_settled_them() -> None:
    """R7: also of records that no coordinator has delivered: the other node's processes have suffixes."""
    known = {
        "loss": SeriesOwner("", "METRIC", {"rank2": "loss/rank2"}),
        "loss/rank2": SeriesOwner("rank2", "METRIC", plain="loss"),
    }
    run = together(grouped([owners(), others(series=known)])[0])
    names = FinalNames(run)
    assert [names.of("owner", name) for name in ("loss", "new")] == ["loss", "new"]
    assert [names.of("rank2", name) for name in ("loss", "new")] == ["loss/rank2", "new/rank2"]


def test_a_document_without_the_new_fields_is_read() -> None:
    """Formats stay readable: what an earlier version wrote has one part."""
    plain = msgspec.json.decode(msgspec.json.encode(owners()), type=dict[str, msgspec.Raw])
    old = {name: value for name, value in plain.items() if name not in ("part_of", "parts")}
    read = msgspec.json.decode(msgspec.json.encode(old), type=Document)
    assert (read.part_of, read.part_keys) == ("", ("a",))
