"""Whatever becomes of a logged file, nobody has another content under its name, and nothing is sent twice."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pluto_dist.backend.ledger import Notes
from pluto_dist.core.rules import shipment
from pluto_dist.core.rules.shipment import Addressed, Shipment, Slot
from pluto_dist.spool import file_lines
from pluto_dist.spool.sources import Source
from tests.adapters.file_histories import played

SEEDS = 150
Patch = tuple[object, str, Any]


def never_compared() -> Patch:
    """A file is read as it is now."""
    return Source, "_compare", lambda self, fd: None


def compared_before_only() -> Patch:
    """A change in the middle of the upload is not noticed."""
    real = Source._compare

    def broken(self: Source, fd: int) -> None:
        if sys._getframe(1).f_code.co_name == "_opened":
            real(self, fd)

    return Source, "_compare", broken


def address_not_noted() -> Patch:
    """Another coordinator asks for it again."""
    real = Notes.add

    def broken(self: Notes, note: Any) -> None:
        if not (isinstance(note, Addressed) and note.slot.url):
            real(self, note)

    return Notes, "add", broken


def stored_not_noted() -> Patch:
    """Another coordinator sends it again."""
    real = Notes.add

    def broken(self: Notes, note: Any) -> None:
        if not (isinstance(note, Addressed) and note.slot.done):
            real(self, note)

    return Notes, "add", broken


def manifest_at_any_time() -> Patch:
    """A reader finds a manifest whose files are not there."""
    return Shipment, "_next", lambda self: self.left[::-1]


def never_split() -> Patch:
    """Storage refuses it after an hour."""

    def whole(size: int, limit: int, piece: int) -> Iterator[tuple[int, int]]:
        yield 0, size

    return shipment, "_cut", whole


def always_asked_again() -> Patch:
    """Storage that refuses makes a row each time."""
    return Slot, "refused", lambda self, now_s: Slot(renewed=True)


def link_not_used() -> Patch:
    """The user's file is read by its name, although a second link holds it."""
    real = file_lines.place_in
    return file_lines, "place_in", lambda folder, line: line.source or real(folder, line)


MUTANTS: tuple[Callable[[], Patch], ...] = (
    never_compared,
    compared_before_only,
    address_not_noted,
    stored_not_noted,
    manifest_at_any_time,
    never_split,
    always_asked_again,
    link_not_used,
)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_history_passes_off_a_content_or_sends_one_twice(seed: int, tmp_path: Path) -> None:
    """G3, G6, G12"""
    assert played(tmp_path, seed) == ""


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_broken_rule_is_noticed(mutant: Callable[[], Patch], tmp_path: Path) -> None:
    """A history that could not fail would say nothing."""
    where, name, broken = mutant()
    with mock.patch.object(where, name, broken):
        for seed in range(SEEDS):
            (tmp_path / f"{seed}").mkdir()
            if played(tmp_path / f"{seed}", seed):
                return
    raise AssertionError(f"{mutant.__name__}: {mutant.__doc__} No history of {SEEDS} notices.")
