"""Which files of a watched folder are complete."""

from __future__ import annotations

from pluto_dist.spool.sources import SETTLE_S, Arrivals, Look


def closed(state: int = 1) -> Look:
    return Look(state, written=False)


def test_a_file_is_taken_once_when_it_is_closed() -> None:
    """A second look, since some programs close a file between two writes."""
    arrivals = Arrivals()
    assert arrivals.look({"a": Look(1, written=True)}, 0.0) == []
    assert arrivals.look({"a": Look(2, written=True)}, 60.0) == []
    assert arrivals.waits()
    assert arrivals.look({"a": closed(3)}, 60.5) == []
    assert arrivals.look({"a": closed(3)}, 61.0) == ["a"]
    assert not arrivals.waits()
    assert arrivals.look({"a": closed(3)}, 90.0) == []


def test_a_file_that_is_open_is_never_complete_however_long_it_rests() -> None:
    arrivals = Arrivals()
    for now in (0.0, 1e3, 1e6):
        assert arrivals.look({"a": Look(1, written=True)}, now) == []
    assert arrivals.look({"a": Look(1, written=True)}, 1e7, last=True) == []


def test_where_nobody_can_say_who_writes_a_file_has_to_rest() -> None:
    arrivals = Arrivals()
    unknown = Look(1, written=None)
    assert arrivals.look({"a": unknown}, 0.0) == []
    assert arrivals.look({"a": Look(2, written=None)}, SETTLE_S) == []
    assert arrivals.look({"a": Look(2, written=None)}, 2 * SETTLE_S - 0.1, last=True) == []
    assert arrivals.look({"a": Look(2, written=None)}, 2 * SETTLE_S) == ["a"]


def test_a_file_that_is_written_again_is_another_one() -> None:
    """The trainer writes `latest.pt` after each epoch."""
    arrivals = Arrivals()
    arrivals.look({"latest": closed(1)}, 0.0)
    assert arrivals.look({"latest": closed(1)}, 1.0) == ["latest"]
    assert arrivals.look({"latest": closed(2)}, 2.0) == []
    assert arrivals.look({"latest": closed(2)}, 3.0) == ["latest"]


def test_only_a_state_that_was_not_taken_has_to_be_looked_at_closely() -> None:
    """A folder of thousands of files that are long uploaded."""
    arrivals = Arrivals({"a": 1})
    assert not arrivals.wants("a", 1)
    assert arrivals.wants("a", 2)
    assert arrivals.wants("b", 1)


def test_what_was_taken_before_a_restart_is_not_taken_again() -> None:
    arrivals = Arrivals({"a": 1, "b": 1})
    assert arrivals.look({"a": closed(1), "b": closed(2), "c": closed(1)}, 0.0) == []
    assert arrivals.look({"a": closed(1), "b": closed(2), "c": closed(1)}, 1.0) == ["b", "c"]


def test_at_the_end_what_is_closed_is_taken_at_once() -> None:
    assert Arrivals().look({"a": closed(), "b": Look(1, written=True)}, 0.0, last=True) == ["a"]


def test_a_file_that_was_deleted_and_comes_again_is_new() -> None:
    arrivals = Arrivals({"a": 1})
    arrivals.look({}, 0.0)
    arrivals.look({"a": closed(1)}, 1.0)
    assert arrivals.look({"a": closed(1)}, 2.0) == ["a"]
