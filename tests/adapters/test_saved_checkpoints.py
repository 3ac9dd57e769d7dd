"""What a framework's checkpoints become: handed over, artifacts, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pluto_dist.errors import ArgumentError
from pluto_dist.integrations.source import Checkpoints


class Calls:
    """A Run that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def checkpoint(self, path: str, step: int, **info: object) -> None:
        self.told.append(("handed", path, step, info))

    def log(self, data: dict[str, Any], step: int) -> None:
        for name, artifact in data.items():
            self.told.append((name, artifact.source, step, artifact.annotations))


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("hand-over", ("handed", "{path}", 3, {"best": True})),
        ("upload", ("checkpoint", "{path}", 3, '{"best":true}')),
        (None, None),
    ],
)
def test_a_checkpoint_is_told_once_however_many_names_it_has(
    wanted: str | None, told: tuple[Any, ...] | None, tmp_path: Path
) -> None:
    """`last.ckpt` is a copy of what was saved just before."""
    run, path = Calls(), str(tmp_path / "epoch=1.ckpt")
    saved = Checkpoints(wanted)
    saved.saved(run, path, 3, best=True)  # type: ignore[arg-type] # what is called of a Run
    saved.saved(run, str(tmp_path / "last.ckpt"), 3, copy=True, best=False)  # type: ignore[arg-type]
    saved.saved(run, "", 4)  # type: ignore[arg-type]
    expected = [] if told is None else [tuple(path if each == "{path}" else each for each in told)]
    assert run.told == expected


def test_another_word_is_refused_with_those_that_are_meant() -> None:
    with pytest.raises(ArgumentError, match='"hand-over".*"upload"'):
        Checkpoints("uplaod")
