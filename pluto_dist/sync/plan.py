"""The plan of an upload: Runs in one or several stores, parents of forks first, and how each ended.

It only reads files. How a Run ended is known from its document, also where the coordinator was killed before
it could write the verdict. Parts of one Run that several nodes have written are one item where one store has
them; a part that is alone is uploaded by itself, into the same Run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from pluto_dist.backend.local.store import Mark, Marks, Offsets, Store
from pluto_dist.core.rules.parts import grouped, together
from pluto_dist.core.rules.series import united
from pluto_dist.core.rules.verdict import status_report
from pluto_dist.core.values.backend import StatusReport
from pluto_dist.core.values.document import Document, VerdictShown, read
from pluto_dist.core.values.ids import classify_run_id
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.records import Verdict
from pluto_dist.errors import AmbiguousRunError, RunNotFoundError
from pluto_dist.sync.delivery import cursors_of, streams_of

UNSEEN = "its node went away before that was certain"


def ending_of(document: Document) -> StatusReport | None:
    """The terminal status with its reason and time, None for a Run that has not ended.

    A part of a node that does not own the Run has it as soon as the nodes have made one verdict.

    Without a verdict it is the end that the coordinator expected last: all members had ended, and it waited
        for
    an exit code or a restart. Only for Runs that have no coordinator any more.
    """
    run = document.restore.run
    if run.verdict is not None:
        return status_report(run)
    expected = document.expected if document.expected is not None else _expected_before(document)
    if expected is None:
        return None
    members = [lease for lease in document.leases if lease.role != "side" and lease.epoch == document.epoch]
    verdict = Verdict(expected.status, f"{expected.reason}; {UNSEEN}", expected.first_failure)
    ended_ms = max((lease.ended_at or 0 for lease in members), default=0)
    return status_report(msgspec.structs.replace(run, verdict=verdict, ended_ms=ended_ms))


def _expected_before(document: Document) -> VerdictShown | None:
    """The expected end in a document without that field: only a Run without a failure waits for codes."""
    members = [
        lease for lease in document.leases if lease.role != "side" and lease.attempt == document.attempt
    ]
    owner = next((lease for lease in reversed(members) if lease.role == "owner"), None)
    if owner is None or any(lease.end_reason not in ("finished", "closed") for lease in members):
        return None
    if owner.end_reason != "finished" or document.phase == "restarting":
        return None
    return VerdictShown("COMPLETED", "the owner finished", None)


def is_told(ending: StatusReport | None, mark: Mark) -> bool:
    """Whether the server has this very end, or a cancel in its place (R10)."""
    return (
        ending is not None and mark.status in (ending.status, "CANCELLED") and mark.ended_ms == ending.at_ms
    )


FRESH_S = 180.0  # the coordinator of a live Run writes its document once a minute (`ALIVE_S`)
STORE_NAME = ".pluto"

_log = logging.getLogger("pluto_dist")

State = Literal["upload", "up to date", "running", "unreadable", "elsewhere"]


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One Run of the plan, with what is to be done with it.

    Attributes:
        parent: key of the Run in this store that it continues.
        pending: bytes that the server lacks.
        why: reason of every state but `upload`.
    """

    store: Store
    document: Document
    mark: Mark
    state: State
    pending: int
    parent: str | None = None
    why: str = ""

    @property
    def key(self) -> str:
        """The Run's key."""
        return self.document.key


def stores_of(paths: Iterable[Path]) -> list[tuple[Store, str | None]]:
    """Stores that paths mean, each with the key of the Run if one Run's folder was named.

    Raises:
        RunNotFoundError: a path is no store.
    """
    return [_store_at(path) for path in paths]


def plan(
    store: Store,
    target: Target,
    names: Iterable[str] = (),
    *,
    force: bool = False,
    kept: Mapping[str, Document] | None = None,
) -> list[Item]:
    """The Runs of a store that are meant, and the parents that they need, in the order of uploading.

    Args:
        store: where to look.
        target: the server.
        names: keys, numbers, display ids or the callers' ids; none means all Runs.
        force: also Runs that look alive.
        kept: documents, as of now, of Runs that a live coordinator delivers.

    Raises:
        RunNotFoundError, AmbiguousRunError: a name does not mean one Run.
    """
    documents = {document.key: document for document in documents_of(store)}
    wanted = [_named(name, documents, store) for name in names] or list(documents)
    order: dict[str, None] = {}
    for key in wanted:
        order |= dict.fromkeys((*_ancestors(key, documents, store), key))
    kept = kept or {}
    return [
        _kept(store, target, kept[key])
        if key in kept and _is_meant_for(kept[key], target)
        else _item(store, documents[key], target, documents, force=force)
        for key in order
    ]


def first_mark(document: Document, target: Target) -> Mark:
    """The mark of a Run that was never uploaded from the store: what its coordinator has delivered."""
    mark = Mark(url_api=target.url_api, key_id=target.key_id, offsets=cursors_of(document))
    if document.mode == "local":
        first_line = document.restore.run.next_line if document.relay else 1
        return msgspec.structs.replace(mark, next_line=first_line)
    run = document.restore.run
    return msgspec.structs.replace(
        mark,
        id=document.id,
        display_id=document.display_id or "",
        url=document.url,
        project=document.project,
        external_id=document.run_id,
        next_line=run.next_line,
        registered=frozenset(name for name, owner in document.restore.series.items() if owner.registered),
        status=document.status if document.reported else None,
        ended_ms=document.ended_at if document.reported else None,
    )


def mark_of(store: Store, document: Document, target: Target) -> Mark | None:
    """What was noted of an upload to this server and with this key; None if nothing was.

    Where a part was uploaded before it was put together with others, what of it is there is known.

    Raises:
        ValueError: a mark cannot be read.
    """
    found = [mark for key in document.part_keys if (mark := Marks(store, key).of(target)) is not None]
    if not found:
        return None
    own = Marks(store, document.key).of(target)
    return with_parts(own if own is not None else first_mark(document, target), found)


def with_parts(mark: Mark, parts: Iterable[Mark]) -> Mark:
    """A mark that knows also what was uploaded of other parts of the Run: each lease is of one part."""
    parts = tuple(parts)
    furthest: Offsets = {}
    for offsets in (mark.offsets, *(part.offsets for part in parts)):
        for lease_id, streams in offsets.items():
            known = furthest.setdefault(lease_id, {})
            for stream, segments in streams.items():
                reached = known.setdefault(stream, {})
                for number, end in segments.items():
                    reached[number] = max(end, reached.get(number, 0))
    return msgspec.structs.replace(
        mark,
        offsets=furthest,
        series=united((mark.series, *(part.series for part in parts))),
        registered=mark.registered.union(*(part.registered for part in parts)),
    )


def is_shared(document: Document) -> bool:
    """Whether other stores may have parts of this Run, which was made without a server."""
    return document.mode == "local" and bool(document.part_of)


def _item(
    store: Store, document: Document, target: Target, documents: dict[str, Document], *, force: bool
) -> Item:
    try:
        mark = mark_of(store, document, target) or first_mark(document, target)
    except ValueError as error:
        return _unreadable(store, document, target, error)
    pending = sum(stream.pending(mark.offsets) for stream in streams_of(store, document))
    state, why = _state(store, document, mark, target, pending, force=force)
    ancestors = _ancestors(document.key, documents, store)
    return Item(
        store=store,
        document=document,
        mark=mark,
        state=state,
        why=why,
        pending=pending,
        parent=ancestors[-1] if ancestors else None,
    )


def _kept(store: Store, target: Target, now: Document) -> Item:
    """The item of a Run that a live coordinator has: only that may send its records and status (R3)."""
    state: State = "up to date" if now.reported and not now.pending else "running"
    why = f"this node's coordinator delivers it, and reports its end; it is {now.phase} now"
    return Item(
        store=store,
        document=now,
        mark=first_mark(now, target),
        state=state,
        why="" if state == "up to date" else why,
        pending=now.pending,
    )


def _unreadable(store: Store, document: Document, target: Target, error: ValueError) -> Item:
    why = f"{error}; delete that file to upload the Run from its beginning, repeats and all"
    mark = first_mark(document, target)
    return Item(store=store, document=document, mark=mark, state="unreadable", pending=0, why=why)


def _state(
    store: Store, document: Document, mark: Mark, target: Target, pending: int, *, force: bool
) -> tuple[State, str]:
    if document.mode == "pluto" and not _is_meant_for(document, target):
        home = document.restore.run.target.url_api
        return "elsewhere", f"it belongs to the server {home}; set PLUTO_URL_API to that address"
    ending = ending_of(document)
    if not pending and (is_told(ending, mark) or (ending is None and mark.id is not None)):
        return "up to date", ""
    if document.verdict is None and not force:
        written = (store.run(key) / "run.json" for key in document.part_keys)
        age = time.time() - max(path.stat().st_mtime for path in written)
        if age < FRESH_S:
            return "running", f"it runs: its coordinator wrote {age:.0f} s ago; sync it when it has ended"
        if document.mode == "local" and ending is None and not document.relay:
            return "running", (
                f"it has not ended and its coordinator has been silent for {age / 60:.0f} min; end it with "
                "`pluto-dist finish`, or pass --force to upload it as it is"
            )
    return "upload", ""


def _is_meant_for(document: Document, target: Target) -> bool:
    return document.mode == "pluto" and document.restore.run.target.url_api == target.url_api


def documents_of(store: Store) -> list[Document]:
    """Oldest first, one for each Run; what cannot be read does not hold up the others."""
    found = [_document(store, key) for key in store.keys()]  # noqa: SIM118 # no mapping
    runs = [together(parts) for parts in grouped(each for each in found if each is not None)]
    return sorted(runs, key=lambda each: each.created_at)


def _document(store: Store, key: str) -> Document | None:
    try:
        body = store.document(key)
        return read(body) if body is not None else None
    except (ValueError, OSError) as error:
        _log.warning("%s is left out: %s", store.run(key), error)
        return None


def _named(name: str, documents: dict[str, Document], store: Store) -> str:
    of_part = next((each.key for each in documents.values() if name in each.part_keys), None)
    if of_part is not None:
        return of_part
    ref = classify_run_id(name)
    found = [
        document.key
        for document in documents.values()
        if (document.id == ref.id if ref.id is not None else name in (document.display_id, document.run_id))
    ]
    if not found:
        raise RunNotFoundError(f"no Run {name!r} in the store {store.root}; `pluto-dist runs` lists them")
    if len(found) > 1:
        raise AmbiguousRunError(f"{name!r} means {len(found)} Runs in {store.root}: {', '.join(found)}")
    return found[0]


def _ancestors(key: str, documents: dict[str, Document], store: Store) -> list[str]:
    """Keys of the Runs that a local Run continues, the oldest first, as far as they are in this store."""
    line: list[str] = []
    document = documents[key]
    while document.mode == "local" and document.fork is not None:
        parent = store.key_of_id(document.fork.run_id)
        if parent is None or parent not in documents or parent in line:
            break
        line.insert(0, parent)
        document = documents[parent]
    return line


def _store_at(path: Path) -> tuple[Store, str | None]:
    path = path.expanduser().resolve()
    if (path / "run.json").is_file():
        return Store(path.parent.parent), path.name
    for root in (path, path / STORE_NAME):
        if (root / "runs").is_dir():
            return Store(root), None
    raise RunNotFoundError(f"{path} is no store and no Run's folder: it has neither runs/ nor run.json")
