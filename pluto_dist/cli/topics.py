"""Hand-over of a Run for people: its topics, their newest items and their readers (R14)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import typer

from pluto_dist.cli.console import clock, print_table
from pluto_dist.core.values.document import ReaderShown, TopicShown
from pluto_dist.core.values.topics import CHECKPOINTS, ItemShown

NUMBERS = ("NUMBER", "STEP", "DONE", "BEHIND")
READERS = 10


class _Checkpoint(msgspec.Struct):
    step: int
    path: str
    info: msgspec.Raw = msgspec.Raw(b"")


def print_topics(topics: dict[str, TopicShown], *, whole: bool) -> None:
    """Prints topics, checkpoints first: the newest items of each, and its readers."""
    for name in sorted(topics, key=lambda name: (name != CHECKPOINTS, name)):
        topic = topics[name]
        fold = f", the newest {len(topic.latest)}" if len(topic.latest) < topic.last else ""
        typer.echo(f"\n{name if name == CHECKPOINTS else f'topic {name}'}: {topic.last}{fold}")
        if name == CHECKPOINTS:
            print_table(
                ("NUMBER", "AT", "STEP", "PATH", "INFO"), map(_checkpoint, topic.latest), right=NUMBERS
            )
        else:
            print_table(("NUMBER", "AT", "BY", "PAYLOAD"), map(_item, topic.latest), right=NUMBERS)
        _print_readers(topic.readers, whole=whole)


def _print_readers(readers: tuple[ReaderShown, ...], *, whole: bool) -> None:
    """Prints the readers of a topic, those that are behind first."""
    if not readers:
        typer.echo("nobody has looked at them yet")
        return
    listed = sorted(readers, key=lambda reader: -reader.behind)[: None if whole else READERS]
    print_table(("WHO LOOKS", "DONE", "BEHIND", "AT WORK"), map(_reader, listed), right=NUMBERS)
    if len(listed) < len(readers):
        typer.echo(f"… {len(readers) - len(listed)} more; --all has them")


def _item(item: ItemShown) -> Sequence[object]:
    return item.number, clock(item.at_ms), item.by, item.payload


def _checkpoint(item: ItemShown) -> Sequence[object]:
    """A checkpoint as cells; one whose payload is cut in the document is shown as text."""
    try:
        found = msgspec.json.decode(item.payload, type=_Checkpoint)
    except msgspec.MsgspecError:
        return item.number, clock(item.at_ms), None, item.payload, None
    return item.number, clock(item.at_ms), found.step, found.path, bytes(found.info).decode()


def _reader(reader: ReaderShown) -> Sequence[object]:
    at_work = (f"{number} by {label}" for number, label in reader.at_work.items())
    who = f"{reader.name} (group)" if reader.group else reader.name
    return who, reader.done, reader.behind, ", ".join(at_work)
