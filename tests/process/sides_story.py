"""A training with everything beside it, and trouble all the time: one story, in any size.

A trainer logs its checkpoints as artifacts and hands them over; two evals share them, one of which is killed
with a checkpoint in its hands and started again; an uploader ships a watched folder. Storage answers with
errors, slowly, not at all, or cuts connections in the middle of a file, and the coordinator is killed again
and again. `told` says what must be true when all have ended.

In the suite with tens of megabytes; `python -m tests.chaos.sides` plays it with gigabytes, by the clock.
"""

from __future__ import annotations

import json
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pluto_dist.backend.ledger import entries, read_notes
from pluto_dist.core.rules.shipment import Addressed
from tests.process.harness import Script, look, wait_until
from tests.process.served import Served

TRAINER = """
    import hashlib, pathlib

    def save(path, size):
        path.parent.mkdir(exist_ok=True)
        content = os.urandom(size)
        partial = path.with_suffix(".partial")
        partial.write_bytes(content)
        partial.rename(path)
        return hashlib.sha256(content).hexdigest()

    each, checkpoint_bytes, sample_bytes = map(int, sys.argv[1:])
    run = pluto.init(run_id="job", quiet=True)
    tell("up")
    step = 0
    while hear() == "more":
        for step in range(step, step + each):
            path = pathlib.Path(f"models/step{step}.pt")
            digest = save(path, checkpoint_bytes)
            log(run, {"loss": 1 / (step + 1)}, step)
            run.log({"model": pluto.Artifact(path)}, step)
            run.checkpoint(path, step, sha256=digest)
            sample = save(pathlib.Path(f"samples/step{step}.bin"), sample_bytes)
            tell_json("saved", [digest, sample])
        step += 1
        tell("handed", step)
    run.finish()
"""
EVAL = """
    import hashlib

    run = pluto.attach("job", label=sys.argv[1], quiet=True)
    tell("up")
    for checkpoint in run.checkpoints(group="evals"):
        with open(checkpoint.path, "rb") as file:
            right = hashlib.file_digest(file, "sha256").hexdigest() == checkpoint.info["sha256"]
        tell_json("took", [checkpoint.number, checkpoint.step, right])
        if sys.argv[2] == "dies":
            hear()
            os.kill(os.getpid(), signal.SIGKILL)
        log(run, {"right": float(right)}, checkpoint.step)
"""
STORAGE = {"service": "storage", "method": "PUT"}


@dataclass(frozen=True)
class Size:
    """Of the story: so many rounds of so many checkpoints, and the bytes of their files."""

    rounds: int
    each: int
    checkpoint: int
    sample: int


@dataclass
class Kill:
    """A death of the coordinator: when, and which objects it knew to be stored."""

    since: float
    until: float
    stored: frozenset[str]


@dataclass
class Story:
    """The story on a node; `play` tells it to its end.

    Args:
        due: whether the coordinator is to be killed now; asked with how many uploads there were since the
            last time.
        paced: each round waits until it is due; else the trainer runs ahead of the uploads.
    """

    served: Served
    size: Size
    due: Callable[[int], bool]
    paced: bool
    kills: list[Kill] = field(default_factory=list)
    _stored: set[str] = field(default_factory=set)
    _seen: int = 0

    def play(self) -> list[str]:
        """Everybody comes, works in trouble, and ends; what is not as it has to be."""
        served, size = self.served, self.size
        served.set(PLUTO_DIST_HEARTBEAT_S="0.2")
        served.server.waive("6.3.2", text="/files*")  # what was saved last may arrive behind the status
        served.server.waive("6.3.5", text="*PUT /*")
        served.server.waive("6.3.4", text="second presign*")  # the answer was lost with its coordinator
        served.server.waive("6.3.4", text="presigned, never*")
        (served.base / "samples").mkdir()
        self.trainer = served.start(
            TRAINER, *map(str, (size.each, size.checkpoint, size.sample)), name="trainer"
        )
        self.trainer.expect("up")
        watch = ["upload", "job", "--watch", str(served.base / "samples"), "--pattern", "*.bin"]
        self.uploader = served.start(f"from pluto_dist.cli.main import app; app({watch!r})", name="uploader")
        first = self._evals(("eval-a", "dies"), ("eval-b", "lives"))
        self._trouble()
        self._more()
        first[0].expect("took")
        self._kill()
        first[0].say()
        self.evals = [*first, *self._evals(("eval-a", "lives"))]
        for _ in range(size.rounds - 1):
            self._more()
            if self.paced:
                wait_until(self._is_due, "uploads")
            self._kill_if_due()
        self.trainer.say("end")
        everybody = [self.trainer, self.uploader, *self.evals]
        while not all(each.gone for each in everybody):
            wait_until(lambda: self._is_due() or all(each.gone for each in everybody), "progress")
            self._kill_if_due()
        self.served.back()
        return [
            finding for check in (self._ends, self._looks, self._files, self._puts) for finding in check()
        ]

    def _evals(self, *which: tuple[str, str]) -> list[Script]:
        found = [self.served.start(EVAL, *each, name=each[0]) for each in which]
        for each in found:
            each.expect("up")
        return found

    def _more(self) -> None:
        self.trainer.say("more")
        self.trainer.expect("handed")

    def _trouble(self) -> None:
        add = self.served.server.add_fault
        for fault in (
            {"kind": "status", "status": 503, "probability": 0.2, "count": 3 * self.size.rounds},
            {"kind": "cut", "probability": 0.2, "count": 2 * self.size.rounds},
            {"kind": "reset", "when": "after", "probability": 0.1, "count": self.size.rounds},
            {"kind": "latency", "seconds": 0.3, "probability": 0.2, "count": 2 * self.size.rounds},
            {"kind": "expired_url", "probability": 0.05, "count": self.size.rounds},
        ):
            add(**STORAGE, **fault)

    # --- the coordinator dies ---------------------------------------------------------------------

    def _is_due(self) -> bool:
        return self.due(len(self._uploads()) - self._seen)

    def _kill_if_due(self) -> None:
        if self._is_due():
            self._kill()

    def _kill(self) -> None:
        since = time.time()
        self.served.kill_coordinator()
        self._stored |= self._known_as_stored()
        self.kills.append(Kill(since, time.time(), frozenset(self._stored)))
        self._seen = len(self._uploads())

    def _known_as_stored(self) -> set[str]:
        """File names of objects that a coordinator has noted as stored."""
        found = set()
        for path in look(self.served.home, "spool/leases/*/blobs/*.sent"):
            names: dict[int, str] = {}
            for note in read_notes(path):
                if isinstance(note, Addressed) and note.slot.url:
                    names[note.object] = _name(urlsplit(note.slot.url).path)
                elif isinstance(note, Addressed) and note.slot.done:
                    found.add(names[note.object])
        for run in look(self.served.store, "runs/*"):
            found |= {each.file_name for each in entries(run)}
        return found

    def _uploads(self) -> list[dict[str, Any]]:
        """Requests that stored an object, whether or not their answer arrived."""
        found = self.served.server.requests()
        return [each for each in found if (each["method"], each["status"]) == ("PUT", 200)]

    # --- what must be true ------------------------------------------------------------------------

    def _ends(self) -> list[str]:
        codes = [each.wait() for each in (self.trainer, self.uploader, *self.evals)]
        found = [] if codes == [0, 0, -signal.SIGKILL, 0, 0] else [f"exit codes {codes}"]
        status = self.served.ended_remotely("job")["status"]
        return found + ([] if status == "COMPLETED" else [f"the Run is {status}"])

    def _looks(self) -> list[str]:
        """Each checkpoint at least once, in order per member but for what the dead one had; G3."""
        looks = [_told(each, "took") for each in self.evals]
        left = looks[0][-1][0]
        found = [f"not what was saved: {each}" for one in looks for each in one if not each[2]]
        found += [f"no order: {each}" for one in looks for each in one if each[1] != each[0] - 1]
        for one in looks:
            rising = [number for number, *_ in one if number != left]
            found += [] if rising == sorted(set(rising)) else [f"numbers of a member: {rising}"]
        missing = {*range(1, len(self._saved) + 1)} - {number for one in looks[1:] for number, *_ in one}
        found += [f"nobody has done {missing}"] if missing else []
        return found + self.served.missing("job")

    def _files(self) -> list[str]:
        """The right content under each name and step, once."""
        rows = self.served.server.files(self.served.remote("job")["id"])
        wanted = {
            (name, step): [digest]
            for step, pair in enumerate(self._saved)
            for name, digest in zip(("model", "samples"), pair, strict=True)
        }
        stored = self.served.server.objects()
        there: dict[tuple[str, int], list[str]] = defaultdict(list)
        for key in {row["object_key"]: row for row in rows}:
            row = next(each for each in rows if each["object_key"] == key)
            if key in stored:
                there[row["log_name"], row["step"]].append(stored[key]["sha256"])
        listed = json.loads(self.served.cli("artifacts", "job", "--json"))
        told = {(each["name"], each["step"]): [each["sha256"]] for each in listed}
        return _difference("stored", dict(there), wanted) + _difference("listed", told, wanted)

    def _puts(self) -> list[str]:
        """Nothing is sent again that was taken, as far as its sender can know.

        It knows what has been answered; a coordinator that comes later knows what was noted before the death
        of the one before.
        """
        answered = defaultdict(list)
        for each in self._uploads():
            if each["outcome"] == "answered":
                answered[_name(each["path"])].append(each)
        found = []
        for name, puts in answered.items():
            for kill in self.kills:
                again = [each for each in puts if each["at"] > kill.until]
                if name in kill.stored and again:
                    found.append(f"{name} was noted as stored, and is sent again after a death: {again}")
            for one, other in pairwise(puts):
                if not any(each.until >= one["at"] and each.since <= other["at"] for each in self.kills):
                    found.append(f"{name} is sent twice by one coordinator: {one}, {other}")
        return found

    @property
    def _saved(self) -> list[list[str]]:
        return _told(self.trainer, "saved")

    def summary(self) -> str:
        """What it was like."""
        uploads = Counter(_name(each["path"]) for each in self._uploads())
        size = sum(path.stat().st_size for path in self.served.base.glob("[ms]*s/*"))
        faults = Counter(each["fault"] for each in self.served.server.requests() if each["fault"])
        return (
            f"{len(self._saved)} checkpoints, {size >> 20} MiB of files, {len(self.kills)} coordinators "
            f"killed, {dict(faults)}; {len(uploads)} objects, {uploads.total() - len(uploads)} stored again "
            "because their answer was lost"
        )


def _name(path: str) -> str:
    return unquote(Path(path).name)


def _told(script: Script, word: str) -> list[list[Any]]:
    return [json.loads(line[len(word) :]) for line in script.lines if line.startswith(f"{word} ")]


def _difference(what: str, found: dict[Any, Any], wanted: dict[Any, Any]) -> list[str]:
    keys = sorted(found.keys() | wanted.keys())
    differ = [key for key in keys if found.get(key) != wanted.get(key)]
    return [f"{what} as {key}: {found.get(key)}, not {wanted.get(key)}" for key in differ]
