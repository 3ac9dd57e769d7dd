"""Random histories of one logged file or folder: written to, deleted, uploaded by coordinators that die.

Real files, the real rules and the real uploader; the server and object storage are a page of code, which
knows what has reached them. What may never happen is said in `History.check`.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from pluto_dist.backend import ledger
from pluto_dist.backend.pluto.exchange import Answer, Broken
from pluto_dist.backend.pluto.files import Files, Row
from pluto_dist.core.rules import shipment
from pluto_dist.core.rules.shipment import MANIFEST, Manifest
from pluto_dist.core.values.backend import BackendRun, Batch, Delivered, Outcome, Rejected
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.spool import sources
from pluto_dist.spool.blobs import Blobs
from pluto_dist.spool.file_lines import FileLine, encode_line, located
from pluto_dist.spool.sources import found_in

LIMIT, PIECE, READ = 100, 60, 25  # bytes: of one request, of a part, of one read
MOST_TRIES = 400


class KilledError(BaseException):
    """The coordinator is gone; what is not on the disk or at the server is lost."""


class History:
    """One of them.

    Args:
        folder: empty, for this history.
        seed: of all chances.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.chance = random.Random(seed)
        self.base = folder
        self.lease = folder / "spool" / "leases" / "a"
        self.lease.mkdir(parents=True)
        self.asked: Counter[str] = Counter()
        self.unheard: Counter[str] = Counter()  # answers that nobody has got, by object
        self.objects: dict[str, bytes] = {}
        self.stored: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.touched: set[str] = set()  # files that were changed in a way that their keeping does not bear
        self.rough = self.chance.choice([0.0, 0.02, 0.3])
        self.refusing = self.chance.choice([0.0, 0.05, 0.5])
        self.clock = 1
        self.outcome: Outcome | None = None
        self.line = self._logged()

    def play(self) -> None:
        """Until it is delivered or refused."""
        target = Target(
            mode="pluto", store=str(self.base / ".pluto"), url_api="a", url_ingest="i", url_py="p"
        )
        run = BackendRun("key", target, 1, "p", "n")
        (line,) = located([encode_line(self.line)], str(self.lease))
        batch = Batch(
            lease_id="a", stream="files", kind="files", segment=1, start=0, end=1, folder="", lines=(line,),
            notes=str(self.lease / "blobs"),
        )  # fmt: skip
        with (
            mock.patch.multiple(shipment, PUT_LIMIT=LIMIT, PIECE=PIECE),
            mock.patch.object(sources, "PIECE", READ),
        ):
            files = self._coordinator()
            for _ in range(MOST_TRIES):
                self._life(0.04)
                try:
                    self.outcome = files.deliver(run, batch)
                except KilledError:
                    files = self._coordinator()
                if isinstance(self.outcome, Delivered | Rejected):
                    return
        raise AssertionError(f"neither delivered nor refused after {MOST_TRIES} tries: {self.outcome}")

    def check(self) -> None:
        """What holds in every history."""
        for name, body in self.objects.items():
            assert len(body) <= LIMIT or name.endswith(MANIFEST), f"{name} has {len(body)} bytes"
        for name, count in self.asked.items():
            assert count <= 1 + self.unheard[name] + min(1, self.refusals[name]), (
                f"{name} asked {count} times"
            )
        for name, count in self.stored.items():
            assert count <= 1 + self.unheard[name], f"{name} stored {count} times"
        manifest = self.objects.get(self.line.file_name + MANIFEST)
        if manifest is not None:
            for file in msgspec.json.decode(manifest, type=Manifest).files:
                whole = b"".join(self.objects.get(name, b"?") for name in file.objects)
                assert whole == self.logged[file.name], f"{file.name} is passed off as what it was"
                assert hashlib.sha256(whole).hexdigest() == file.sha256
        elif self.line.file_name in self.objects:
            assert self.objects[self.line.file_name] == self.logged[""], "it is passed off as what it was"
        done = isinstance(self.outcome, Delivered)
        assert done or self.touched, f"refused, although it was kept from what happened: {self.outcome}"
        assert done == bool(ledger.entries(self.base / ".pluto" / "runs" / "key"))
        if done:
            assert manifest is not None or self.line.file_name in self.objects

    # --- what happens ---------------------------------------------------------------------------------

    def _logged(self) -> FileLine:
        """A folder, or a file; copied, linked or referred to."""
        many, roomy = self.chance.random() < 0.5, self.chance.random() < 0.6
        self.sources = self.base / "made"
        self.sources.mkdir()
        for number in range(self.chance.randint(1, 4) if many else 1):
            size = self.chance.choice([0, 1, 30, LIMIT, LIMIT, LIMIT + 1, 250])
            self._write(self.sources / f"rank{number}.pt", self.chance.randbytes(size))
        blobs = Blobs(str(self.lease), str(self.base / "spool"), 1 << 20 if roomy else 0, copy_up_to=40)
        fields = ("f" * 32, "file-1", "pt", "ckpt", 1, 1)
        if many:
            found = found_in(str(self.sources))[0]
            self.logged = {file.name: Path(file.path).read_bytes() for file in found}
            with mock.patch("pluto_dist.spool.blobs.TIME_S", 1e9):
                parts = blobs.keep_all(found)
            self.kept = {part.name: "copy" if part.seen is None else part.linked for part in parts}
            return FileLine(*fields, log_type="ARTIFACT", parts=parts)
        path = self.sources / "rank0.pt"
        self.logged = {"": path.read_bytes(), "file-1": path.read_bytes()}
        blob = blobs.keep(str(path), "f" * 32)
        self.kept = {"rank0.pt": "copy" if blob.seen is None else blob.linked}
        return FileLine(
            *fields, file_size=blob.size, log_type="ARTIFACT",
            source=blob.source, seen=blob.seen, linked=blob.linked,
        )  # fmt: skip

    def _life(self, often: float) -> None:
        """The training goes on with its files, now and then."""
        if self.chance.random() > often:
            return
        name = self.chance.choice(sorted(self.kept))
        path, kept = self.sources / name, self.kept[name]
        if not path.exists():
            return
        how = self.chance.choice(["write", "write", "delete", "replace"])
        if how == "write":
            body = bytearray(path.read_bytes() or b"x")
            body[-1] ^= 1  # what is read last
            self._write(path, bytes(body))
        elif how == "delete":
            path.unlink()
        else:
            self._write(path.with_suffix(".new"), self.chance.randbytes(path.stat().st_size))
            path.with_suffix(".new").rename(path)
        if kept is False or (kept is True and how == "write"):
            self.touched.add(name)

    def _write(self, path: Path, body: bytes) -> None:
        """Each write in a tick of its own, as the limit of the identity wants it."""
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(body)
        self.clock += 1
        os.utime(path, ns=(self.clock, self.clock))

    def _coordinator(self) -> Files:
        files = Files(mock.Mock(), mock.Mock(put=self._put), wall=lambda: 0.0)
        files.presign = self._presign  # type: ignore[method-assign] # the server
        return files

    def _presign(self, run: BackendRun, rows: Sequence[Row]) -> Any:
        self._maybe_killed()
        for row in rows:
            self.asked[row.file_name] += 1
        try:
            self._maybe_killed()
        except KilledError:
            self.unheard.update(row.file_name for row in rows)
            raise
        return tuple(f"http://storage/{row.file_name}" for row in rows)

    def _put(self, url: str, pieces: Iterator[bytes], size: int) -> Answer | Broken:
        name = url.rpartition("/")[2]
        if self.chance.random() < self.refusing:
            self.refusals[name] += 1
            return Answer(status=403, body=b"<Code>AccessDenied</Code>")
        body = b""
        for piece in pieces:
            body += piece
            self._maybe_killed()
            self._life(self.rough)
            if self.chance.random() < 0.03:
                return Broken("partly", "reset")
        if len(body) != size:
            return Broken("partly", "incomplete")
        self.objects[name] = body
        self.stored[name] += 1
        try:
            self._maybe_killed()
        except KilledError:
            self.unheard[name] += 1
            raise
        return Answer(status=200, body=b"")

    def _maybe_killed(self) -> None:
        if self.chance.random() < 0.03:
            raise KilledError


def played(folder: Path, seed: int) -> str:
    """Plays one; what was wrong with it, "" if nothing."""
    history = History(folder, seed)
    try:
        history.play()
        history.check()
    except AssertionError as error:
        return repr(error)
    return ""
