"""What `pluto-dist upload --watch` leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from pluto_dist.cli.upload import folder_left_alone


@pytest.mark.parametrize(
    ("pattern", "taken", "left_alone"),
    [
        ("*", ["step1.pt"], "step2"),
        ("*.pt", ["step1.pt"], ""),
        ("**/*", ["step1.pt", "step2/rank0.pt"], ""),
        ("*/", [], "step2"),
        ("nothing*", [], ""),
    ],
)
def test_a_folder_that_fits_and_is_not_taken_is_named(
    tmp_path: Path, pattern: str, taken: list[str], left_alone: str
) -> None:
    """A sharded checkpoint is not passed over in silence."""
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "step2").mkdir()
    for name in ("step1.pt", "step2/rank0.pt"):
        (tmp_path / name).write_bytes(b"x")
    fitting = sorted(tmp_path.glob(pattern))
    found = folder_left_alone(fitting, [str(tmp_path / name) for name in taken])
    assert found == (str(tmp_path / left_alone) if left_alone else "")
