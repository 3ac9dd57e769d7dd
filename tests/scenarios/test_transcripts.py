"""Long stories as transcripts, in `stories/`; `PLUTO_DIST_REWRITE=1` writes down what happens now."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scenarios.stage import Stage

STORIES = sorted((Path(__file__).parent / "stories").glob("*.txt"))


def played(text: str) -> str:
    """The transcript as it goes now: comments, blank lines and commands stay."""
    stage, lines = Stage(), []
    for line in text.splitlines():
        if line.startswith("> "):
            lines += [line, *(f"    {told}" for told in stage.play(line[2:].split("#")[0]))]
        elif not line.startswith("    "):
            lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", STORIES, ids=[path.stem for path in STORIES])
def test_story(path: Path) -> None:
    """G1, G2, G7, G9, G10, G12: the transcript says which."""
    expected = path.read_text()
    found = played(expected)
    if "PLUTO_DIST_REWRITE" in os.environ:
        path.write_text(found)
    assert found == expected
