"""`python -m tests.simulation.net --against REVISION`: whether a pure move has changed what the code does.

Plays 300 fixed histories and all scenarios here and in a worktree of the other revision, and compares hashes
of what was said: every effect of the core, the transcripts, what the database and the store keep in the end.
Kinds of effects are numbered in the order in which they first appear, and fields are taken by position: a
module, a class or a field may be renamed, but a value, an order, or the text of a record on disk may not.

`--write FILE` keeps the hashes of this tree, `--check FILE` compares with them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

import pluto_dist
from tests.scenarios.stage import Stage
from tests.simulation.plan import make_plan
from tests.simulation.world import World

SEEDS = range(1, 301)
SHOWN = 10  # so many differences are named
ROOT = Path(__file__).parents[2]
STORIES = ROOT / "tests" / "scenarios" / "stories"


class Record:
    """The hash of one history."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._kinds: dict[type, int] = {}

    @property
    def digest(self) -> str:
        """Of everything until now."""
        return self._hash.hexdigest()[:24]

    def effect(self, effect: object) -> None:
        """One effect, or the name of a place between two of them."""
        self.text("effect", *self._said(effect))

    def text(self, *what: object) -> None:
        """Anything that has a `repr` without names of code."""
        self._hash.update(repr(what).encode() + b"\n")

    def _said(self, value: object) -> Iterator[object]:
        if isinstance(value, msgspec.Struct):
            yield self._kinds.setdefault(type(value), len(self._kinds))
            for name in value.__struct_fields__:
                yield from self._said(getattr(value, name))
        elif isinstance(value, dict):
            yield "{"
            for key, each in value.items():
                yield from self._said(key)
                yield from self._said(each)
            yield "}"
        elif isinstance(value, set | frozenset):
            yield sorted(map(repr, value))
        elif isinstance(value, list | tuple):
            yield "["
            for each in value:
                yield from self._said(each)
            yield "]"
        else:
            yield value


class RecordedWorld(World):
    """A simulated history with its record."""

    def __init__(self, seed: int) -> None:
        self.record = Record()
        super().__init__(make_plan(seed))

    def boundary(self, what: object) -> None:
        """Every effect passes here before it is carried out."""
        self.record.effect(what)
        super().boundary(what)


def of_history(seed: int) -> str:
    """The hash of one simulated history."""
    world = RecordedWorld(seed)
    try:
        world.run()
    except Exception as error:  # noqa: BLE001 # a violation is something that is said, too
        world.record.text("violation", type(error).__name__)
    for line in world.transcript:
        world.record.text(re.sub(r"is killed at [A-Z]\w+", "is killed at an effect", line))
    world.record.text(sorted(world.counts.items()), sorted(world.database.state.items()))
    world.record.text(sorted(world.store.documents.items()))
    return world.record.digest


def of_story(path: Path) -> str:
    """The hash of one scenario."""
    stage, record = Stage(), Record()
    stage.world.observers.append(record.effect)
    for line in path.read_text().splitlines():
        if line.startswith("> "):
            record.text(line, stage.play(line[2:].split("#")[0]))
    record.text(sorted(stage.world.saves.items()), sorted(stage.world.documents.items()))
    return record.digest


def hashes() -> dict[str, str]:
    """All of them, by name."""
    found = {f"story {path.stem}": of_story(path) for path in sorted(STORIES.glob("*.txt"))}
    return found | {f"seed {seed}": of_history(seed) for seed in SEEDS}


def hashes_of(revision: str) -> dict[str, str]:
    """Those of another revision, by its own copy of this tool."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ("git", "-C", str(ROOT), "worktree")
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            there = [sys.executable, "-m", "tests.simulation.net", "--write", "-"]
            done = subprocess.run(there, cwd=tree, check=True, stdout=subprocess.PIPE, text=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def compare(expected: dict[str, str], found: dict[str, str]) -> int:
    """Prints what differs; 1 if anything does."""
    names = [*expected, *(name for name in found if name not in expected)]
    different = [name for name in names if expected.get(name) != found.get(name)]
    for name in different[:SHOWN]:
        print(f"{name}: {expected.get(name)} -> {found.get(name)}")
    print(f"{len(names)} histories, {len(different)} different")
    return int(bool(different))


def main() -> int:
    """1 if something is said differently."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.net", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--against", metavar="REVISION", help="compare with this one")
    what.add_argument(
        "--check", metavar="FILE", type=Path, help="compare with hashes that were written before"
    )
    what.add_argument("--write", metavar="FILE", help="write the hashes of this tree; - is standard output")
    options = parser.parse_args()
    assert Path(pluto_dist.__file__).is_relative_to(ROOT), "another tree's package would be looked at"
    if options.write is not None:
        text = json.dumps(hashes(), indent=1)
        sys.stdout.write(text) if options.write == "-" else Path(options.write).write_text(text)
        return 0
    if options.check is not None:
        return compare(json.loads(options.check.read_text()), hashes())
    return compare(hashes_of(options.against), hashes())


if __name__ == "__main__":
    sys.exit(main())
