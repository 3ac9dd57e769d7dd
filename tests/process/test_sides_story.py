"""The sides of a training at work, all at once and in trouble."""

from __future__ import annotations

from tests.process.served import Served
from tests.process.sides_story import Size, Story

MOST_DEATHS = 7


def test_checkpoints_are_looked_at_and_files_arrive_once_whatever_dies(served: Served) -> None:
    """G3, G6, G12, G13, R14: 30 MB; the coordinator dies after each third upload."""
    size = Size(rounds=5, each=2, checkpoint=2 << 20, sample=1 << 20)
    story = Story(served, size, lambda uploads: uploads >= 3 and len(story.kills) < MOST_DEATHS, paced=True)
    assert story.play() == [], story.summary()
    assert len(story.kills) >= size.rounds
