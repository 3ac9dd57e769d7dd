"""Runs of the store to a server, one after the other (`pluto-dist sync`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from pluto_dist.backend.local import files
from pluto_dist.backend.local.store import Mark, Marks
from pluto_dist.core.rules.parts import whole
from pluto_dist.core.values.backend import Backend
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.errors import ForkError, KeyRefusedError, PlutoDistError
from pluto_dist.spool.frames import segment_name
from pluto_dist.sync.delivery import RetryPolicy, file_bytes, streams_of
from pluto_dist.sync.plan import Item, first_mark, mark_of
from pluto_dist.sync.upload import Parent, SyncClaim, Upload

PATIENCE_S = 120.0


State = Literal["upload", "uploaded", "up to date", "skipped", "failed"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result for one Run.

    Attributes:
        id, display_id: in the store; `server_id` and `server_display_id` on the server.
        records: how many the server has got by syncs.
        repeats: data and console rows that it may have got twice.
        damaged: places in the store where no record could be read.
    """

    key: str
    run_id: str
    project: str
    id: int | None
    display_id: str | None
    state: State
    why: str = ""
    server_id: int | None = None
    server_display_id: str = ""
    url: str = ""
    status: str | None = None
    records: int = 0
    repeats: int = 0
    rejected: int = 0
    damaged: int = 0


class Planned(Result, frozen=True, kw_only=True):
    """The expected result for one Run; bytes of records, and of the files that they name."""

    pending: int
    file_bytes: int


Sees = Callable[[Mark, str], bool]
Progress = Callable[[Item, int], None]


class Sync:
    """Uploads planned Runs.

    Args:
        backend: of the server.
        target: the server.
        sees: whether this server, with this key, has the Run (by our key) of a mark that another key made.
        patience_s: how long to go on without any answer.
        progress: called with the bytes of each batch.
    """

    def __init__(
        self,
        backend: Backend,
        target: Target,
        sees: Sees,
        *,
        patience_s: float = PATIENCE_S,
        progress: Progress | None = None,
    ) -> None:
        self._backend = backend
        self._target = target
        self._sees = sees
        self._patience_s = patience_s
        self._progress = progress or (lambda *_: None)
        self._server_ids: dict[str, int | None] = {}

    def all(self, items: Iterable[Item]) -> list[Result]:
        """One result for each; a Run that fails does not hold up the others.

        Raises:
            KeyRefusedError: no Run can be uploaded with this key.
        """
        return [self._one(item) for item in items]

    def _one(self, item: Item) -> Result:
        self._server_ids[item.key] = item.mark.id
        if item.state == "up to date":
            return _result(item, item.mark, "up to date")
        if item.state != "upload":
            return _result(item, item.mark, "skipped", item.why)
        try:
            mark = self._upload(item)
        except KeyRefusedError:
            raise
        except (PlutoDistError, OSError, ValueError) as error:
            return _result(item, self._mark(item), "failed", str(error))
        self._server_ids[item.key] = mark.id
        return _result(item, mark, "uploaded", self._remark(item, mark))

    def _upload(self, item: Item) -> Mark:
        with SyncClaim(item.store.run(item.key)) as claim:
            upload = Upload(
                self._backend,
                self._target,
                item.store,
                item.document,
                self._mark(item),
                RetryPolicy(self._patience_s, claim.keep),
                lambda done: self._progress(item, done),
            )
            upload.run(self._parent(item))
            if item.document.mode == "pluto":
                drop_delivered(item, upload.mark)
            return upload.mark

    def _parent(self, item: Item) -> Parent | None:
        """The parent of a fork, which was uploaded before; if that failed, so does the fork."""
        if item.parent is None:
            return None
        number = self._server_ids.get(item.parent)
        if number is None:
            raise ForkError(f"its parent {item.parent} is not on the server; mend that one first")
        return Parent(number, item.store.document(item.parent) or b"")

    def _mark(self, item: Item) -> Mark:
        """The mark to go on from, also after the API key was replaced by another of the same organization."""
        known = mark_of(item.store, item.document, self._target)
        if known is not None:
            return known
        for other in Marks(item.store, item.key).all():
            here = other.url_api == self._target.url_api and other.id is not None
            if here and self._sees(other, whole(item.document)):
                return msgspec.structs.replace(other, key_id=self._target.key_id)
        return first_mark(item.document, self._target)

    def _remark(self, item: Item, mark: Mark) -> str:
        fork = item.document.fork
        if item.document.mode == "local" and fork is not None and item.parent is None:
            return f"its parent, Run {fork.run_id}, is not in this store: uploaded without lineage"
        if mark.server_status not in (None, mark.status):
            return f"it ended {mark.status}; the server says {mark.server_status}, and keeps that"
        return ""


def drop_delivered(item: Item, mark: Mark) -> None:
    """Removes copies of records that the server has now."""
    for stream in streams_of(item.store, item.document):
        done = stream.offsets_in(mark.offsets)
        for number, size in stream.segments.items():
            if done.get(number, 0) >= size:
                name = segment_name(stream.name, number)
                files.remove_segment(item.store, item.key, stream.lease.lease_id, name)


def planned(item: Item) -> Planned:
    """What would be done."""
    state: State = item.state if item.state in ("upload", "up to date") else "skipped"
    shown = _result(item, item.mark, state, item.why)
    size = file_bytes(streams_of(item.store, item.document), item.mark.offsets) if item.pending else 0
    return Planned(**msgspec.structs.asdict(shown), pending=item.pending, file_bytes=size)


def _result(item: Item, mark: Mark, state: State, why: str = "") -> Result:
    document = item.document
    return Result(
        key=document.key,
        run_id=document.run_id,
        project=document.project,
        id=document.id if document.mode == "local" else None,
        display_id=document.display_id if document.mode == "local" else None,
        state=state,
        why=why,
        server_id=mark.id,
        server_display_id=mark.display_id,
        url=mark.url,
        status=mark.server_status or mark.status,
        records=mark.records,
        repeats=mark.repeats,
        rejected=mark.rejected,
        damaged=mark.damaged,
    )
