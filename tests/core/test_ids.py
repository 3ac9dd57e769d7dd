"""Names of things: what a run id is, and the letters before the number."""

from __future__ import annotations

import pytest

from pluto_dist.core.values.ids import LEASE_ID, RunRef, classify_run_id, display_prefix
from tests.core.builders import identity


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, RunRef(id=7)),
        ("7", RunRef(id=7)),
        (" 20240601 ", RunRef(id=20240601)),
        ("MMP-42", RunRef(display_id="MMP-42")),
        ("JOB-7", RunRef(display_id="JOB-7")),
        ("A1-0", RunRef(display_id="A1-0")),
        ("TOOLONG-1", RunRef(external_id="TOOLONG-1")),
        ("mmp-42", RunRef(external_id="mmp-42")),
        ("MMP-42a", RunRef(external_id="MMP-42a")),
        ("-7", RunRef(external_id="-7")),
        ("7.0", RunRef(external_id="7.0")),
        ("٣", RunRef(external_id="٣")),
        ("x" * 255, RunRef(external_id="x" * 255)),
    ],
)
def test_classification(value: int | str, expected: RunRef) -> None:
    """The official client's rule: all digits, display id, anything else."""
    assert classify_run_id(value) == expected


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", "empty"),
        ("  ", "empty"),
        (0, "from 1 on"),
        (2**63, "out of range"),
        ("x" * 256, "256 characters; the limit is 255"),
    ],
)
def test_what_is_no_id(value: int | str, words: str) -> None:
    """The error has the value, the limit and the way out."""
    with pytest.raises(ValueError, match=words):
        classify_run_id(value)


@pytest.mark.parametrize(
    ("project", "prefix"),
    [
        ("demo", "DEM"),
        ("my-ml-project", "MMP"),
        ("my_project", "MPR"),
        ("ab", "AB"),
        ("a", "A"),
        ("one.two three-four_five", "OTTF"),
        ("", "RUN"),
        ("--", "RUN"),
        ("проект é/x", "ПÉ/"),
    ],
)
def test_display_prefix(project: str, prefix: str) -> None:
    """The server's rule, with the recorded examples."""
    assert display_prefix(project) == prefix


@pytest.mark.parametrize("name", ["0" * 15, "0" * 33, "g" * 16, "../" + "0" * 16, "0" * 16 + "\n", "A" * 16])
def test_what_is_no_lease_id(name: str) -> None:
    """G11: it is also a folder's name."""
    assert not LEASE_ID.match(name)


def test_one_process_whatever_it_runs() -> None:
    """R2: the nonce and the host say nothing about the process."""
    one, other = identity(7), identity(7)
    assert one.same_process(other)
    assert not one.same_process(identity(8))
