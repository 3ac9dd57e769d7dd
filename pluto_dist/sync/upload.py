"""Upload of one Run from the store to a server: claimed, created, filled, ended; each step once.

The mark is written after each request that changed something, and before each one whose repeat would be seen.
A Run that is RUNNING on the server without heartbeats is marked FAILED there within minutes, for good; so it
gets them from its first moment until its status is sent.

Of a Run of several nodes each store may have a part (`core/rules/parts.py`). The part that comes first makes
the Run; all others find it, by its external id and by the key that all parts have in common. The first one
that knows the verdict of all nodes ends it, once: the others see by its time that it is the same end. Tags
and config come from the owner's part.

One sync at a time works on a Run, without locks, because the store may be on a network filesystem: a claim is
a file that only one process can create. `Heart` sends heartbeats while a Run is uploaded: to the server, and,
by touching the claim, to other syncs.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from pluto_dist.backend.local.store import Mark, Marks, Store, create_exclusively
from pluto_dist.core.rules.participants import line_behind
from pluto_dist.core.rules.parts import whole
from pluto_dist.core.rules.series import Names
from pluto_dist.core.values.backend import (
    Backend,
    BackendRun,
    Delivered,
    OpenRequest,
    OpenResult,
    Outcome,
    Refused,
    Rejected,
    RunOpened,
    TagsChange,
    Told,
    Unavailable,
)
from pluto_dist.core.values.document import Document
from pluto_dist.core.values.ids import UNREADABLE, Identity, RunRef
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.errors import MachineError, RunExistsError, ServerRefusedError
from pluto_dist.host.identity import own_identity
from pluto_dist.host.liveness import watch
from pluto_dist.sync.delivery import Delivery, Progress, RetryPolicy, Stream, streams_of
from pluto_dist.sync.plan import ending_of, is_shared, is_told

STALE_S = 120.0
TOUCH_S = 20.0


class SyncBusyError(MachineError):
    """Another sync works on this Run."""


class _Holder(msgspec.Struct, frozen=True):
    identity: Identity
    nonce: str


class SyncClaim:
    """A sync's claim of one Run, held in a `with` block.

    A file with the identity of its holder, touched while it works. It is stale when its holder is known to be
    dead, or when it was not touched for `STALE_S`; the process that renames a stale one away may create the
    next.

    Limit: a holder that sleeps for longer than `STALE_S` (a suspended laptop, a hung mount) and wakes up
    finds the claim gone before its next request, but a request in flight is not called back. Hosts whose
    clocks differ from the file server's by more than a minute may judge wrongly.

    Args:
        folder: of the Run.

    Raises:
        SyncBusyError: from `__enter__`: another sync holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "sync" / "claim"
        self._mine = msgspec.json.encode(_Holder(own_identity(), os.urandom(8).hex()))
        self._touched = 0.0

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(3):
            if create_exclusively(self._path, self._mine.decode()):
                return self
            self._clear_if_stale()
        raise SyncBusyError(f"another sync took {self._path} in this instant; try again")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_mine():
            self._path.unlink(missing_ok=True)

    def keep(self) -> None:
        """Touches the claim; to be called before each request.

        Raises:
            SyncBusyError: the claim was lost, and another sync goes on.
        """
        now = time.monotonic()
        if now < self._touched + TOUCH_S:
            return
        if not self._is_mine():
            raise SyncBusyError(f"this sync was silent for too long and another one took over ({self._path})")
        os.utime(self._path)
        self._touched = now

    def _is_mine(self) -> bool:
        try:
            return self._path.read_bytes() == self._mine
        except FileNotFoundError:
            return False

    def _clear_if_stale(self) -> None:
        try:
            holder = _holder(self._path.read_bytes())
            age = time.time() - self._path.stat().st_mtime
        except FileNotFoundError:
            return
        if age < STALE_S and not _is_dead(holder):
            raise SyncBusyError(
                f"a sync of pid {holder.pid} on {holder.host} works on this Run since {age:.0f} s or less "
                f"({self._path}); it counts as dead after {STALE_S:g} s without a sign"
            )
        grave = self._path.with_name(f"claim.{os.urandom(4).hex()}")
        try:
            self._path.rename(grave)
        except FileNotFoundError:  # another sync was faster
            return
        grave.unlink()


def _holder(claim: bytes) -> Identity:
    """The holder; an unknown one for a claim that cannot be read, of which only the file's age counts."""
    try:
        return msgspec.json.decode(claim, type=_Holder).identity
    except UNREADABLE:
        return Identity("unknown", 0, 0, 0, host="an unknown host")


def _is_dead(holder: Identity) -> bool:
    """Whether the holder is certainly dead; False for a process of another host."""
    seen = watch(holder)
    try:
        return seen.check() == "dead"
    finally:
        seen.close()


BEAT_S = 20.0  # the server forgets a Run 150 s after its last one and stores at most one each 30 s


class Heart:
    """Heartbeats, in a thread of its own, while the `with` block runs; the first before it begins.

    Args:
        backend, run: receivers of the heartbeats.
        keep: touches the claim on the Run; its loss is noticed with the next request.
    """

    def __init__(self, backend: Backend, run: BackendRun, keep: Callable[[], None]) -> None:
        self._backend = backend
        self._keep = keep
        self._run = run
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pluto-heart", daemon=True)

    def __enter__(self) -> Self:
        self._backend.beat(self._run)
        self._thread.start()
        return self

    def stop(self) -> None:
        """No beat comes after this returns; call it before the Run is ended."""
        self._done.set()
        self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            with suppress(SyncBusyError, OSError):
                self._keep()
            self._backend.beat(self._run)


LAST_QUESTIONS = 3  # before a status the server is asked for a cancel, so often at most


class Parent(msgspec.Struct, frozen=True):
    """A Run that another one continues: its number on the server, and its document."""

    id: int
    record: bytes


class Upload:
    """Uploads one Run; the caller holds its claim.

    Attributes:
        mark: how far it is; on disk.

    Args:
        backend: of the server.
        target: the server.
        store: where the Run is.
        document: the Run's.
        mark: where to go on.
        policy: how long to try.
        progress: called with the size of each batch.
    """

    def __init__(
        self,
        backend: Backend,
        target: Target,
        store: Store,
        document: Document,
        mark: Mark,
        policy: RetryPolicy,
        progress: Progress,
    ) -> None:
        self._backend = backend
        self._target = target
        self._store = store
        self._document = document
        self._marks = Marks(store, document.key)
        self._policy = policy
        self._progress = progress
        self._ending = ending_of(document)
        self.mark = mark

    def run(self, parent: Parent | None) -> None:
        """Uploads everything that the server lacks.

        Args:
            parent: the Run that this one continues.

        Raises:
            PlutoDistError: the server refused the Run, or was away for too long.
        """
        self._put_back()
        if self.mark.in_flight:  # an earlier sync died in a request: its rows may be there already (G6)
            self._change(repeats=self.mark.repeats + self.mark.in_flight, in_flight=0)
        streams = streams_of(self._store, self._document)
        if self._document.relay and self._document.mode == "pluto":
            self._join()
            self._deliver(streams)
            return
        if is_shared(self._document) and not self.knows_the_end and self._is_ended_by_another_part(parent):
            self._deliver(streams)
            self._describe()
            ending = self._ending
            if ending is not None:
                self._change(status=ending.status, ended_ms=ending.at_ms)
            return
        if self.knows_the_end:  # what sides wrote after it may follow, but nothing opens the Run again
            self._deliver(streams)
            return
        self._open(parent)
        with Heart(self._backend, self._there, self._policy.before) as heart:
            self._deliver(streams)
            self._describe()
            heart.stop()  # no heartbeat may follow the status
            self._end()

    @property
    def knows_the_end(self) -> bool:
        """Whether the server has this very end."""
        return is_told(self._ending, self.mark)

    @property
    def papers(self) -> str:
        """Digest of tags and config."""
        papers = (self._document.tags, self._document.config)
        return hashlib.sha256(msgspec.json.encode(papers)).hexdigest()[:16]

    @property
    def _there(self) -> BackendRun:
        mark = self.mark
        target = msgspec.structs.replace(self._target, store=str(self._store.root))
        return BackendRun(self._document.key, target, mark.id or 0, mark.project, self._document.name)

    # --- steps ----------------------------------------------------------------------------------------

    def _open(self, parent: Parent | None) -> None:
        if self.mark.id is None:
            self._create(parent)
        elif self.mark.status is not None:  # it was taken up again here after the server had got its end
            request = msgspec.structs.replace(self._request("", None), want="resume", id=self.mark.id)
            self._opened(self._policy.open(lambda: self._backend.open(request)))
            self._change(status=None, ended_ms=None)
        else:
            self._must(lambda: self._backend.revive(self._there))

    def _is_ended_by_another_part(self, parent: Parent | None) -> bool:
        """Finds or makes the Run; whether it has ended there, by this very end or a later one."""
        if self.mark.id is None:
            self._create(parent)
        request = msgspec.structs.replace(self._request("", None), want="join", id=self.mark.id)
        there = self._policy.open(lambda: self._backend.open(request))
        if there.was_status in (None, "RUNNING"):
            return False
        now = self._must(lambda: self._backend.revive(self._there))  # its monitor may have been impatient
        if isinstance(now, Told) and now.status == "RUNNING":
            return False
        if self._ending is not None and (there.was_since_ms or 0) < self._ending.at_ms:
            self._change(status=there.was_status)  # of an earlier start of the job: it is taken up again
            return False
        self._change(server_status=there.was_status)
        return True

    def _join(self) -> None:
        """Finds a Run of another node on the server: that node makes it and sends its status (R12)."""
        if self.mark.id is None:
            request = msgspec.structs.replace(self._request(self._document.run_id, None), want="join")
            self._opened(self._policy.open(lambda: self._backend.open(request)))
            self._change(external_id=self._document.run_id, papers=self.papers)

    def _create(self, parent: Parent | None) -> None:
        names = dict.fromkeys((self.mark.external_id or self._document.run_id, self._own_name()))
        for external in names:
            request = self._request(external, parent)
            try:
                opened = self._policy.open(lambda: self._attempt(request))  # noqa: B023 # called at once
            except RunExistsError:
                self._put_back()
                if external == self._own_name():
                    raise
                continue  # a Run of another place has this id: the data is kept, under an id of its own
            self._opened(opened)
            self._change(external_id=external)
            if opened.resumed:  # another part has made it
                behind = line_behind(opened.reached, self.mark.next_line)
                self._change(next_line=behind)
            else:
                self._change(papers=self.papers, tags=self._document.tags)
            return

    def _attempt(self, request: OpenRequest) -> OpenResult:
        """One try to open; the mark says before that it is made, and after it what it has reopened."""
        now_ms = time.time_ns() // 1_000_000
        asked_s = max(0, now_ms - self.mark.asked_ms) / 1000 if self.mark.asked_ms else None
        if asked_s is None:
            self._change(asked_ms=now_ms)
        result = self._backend.open(msgspec.structs.replace(request, asked_s=asked_s))
        untouched = isinstance(result, Unavailable) and result.untouched
        if untouched or isinstance(result, Refused | RunOpened):
            self._change(asked_ms=0, reopened=result.reopened if isinstance(result, Refused) else None)
        return result

    def _put_back(self) -> None:
        """Ends a Run again that a request of this sync, or of an earlier one, has reopened."""
        reopened = self.mark.reopened
        if reopened is not None:
            self._policy.ask(lambda: self._backend.put_back(reopened))
            self._change(reopened=None)

    def _own_name(self) -> str:
        suffix = f"-{whole(self._document)[-6:]}"
        return self._document.run_id[: 255 - len(suffix)] + suffix

    def _request(self, external: str, parent: Parent | None) -> OpenRequest:
        document, fork = self._document, self._document.fork
        return OpenRequest(
            key=whole(document),
            target=self._target,
            want="create",
            shared=is_shared(document),
            project=document.project,
            name=document.name,
            external_id=external or None,
            tags=document.tags,
            config=bytes(document.config),
            parent=RunRef(id=parent.id) if parent is not None else None,
            parent_record=parent.record if parent is not None else b"",
            fork_step=fork.step if fork is not None and parent is not None else None,
            created_ms=document.created_at,
            system_metadata=self._metadata(),
        )

    def _metadata(self) -> bytes:
        try:
            return self._store.metadata(self._document.key)
        except OSError:  # a page without the machine is no reason to hold up the Run
            return b"{}"

    def _opened(self, opened: RunOpened) -> None:
        self._change(id=opened.id, display_id=opened.display_id, url=opened.url, project=opened.project)

    def _deliver(self, streams: list[Stream]) -> None:
        names = Names(self._document, self.mark.series)
        delivery = Delivery(
            self._backend,
            self._there,
            self._store,
            self._marks,
            self.mark,
            names,
            self._policy,
            self._progress,
        )
        try:
            delivery.all(streams)
        finally:
            self.mark = delivery.mark

    def _describe(self) -> None:
        """Sends tags and config, if they have changed since they were sent; another node's part has none."""
        if self.mark.papers == self.papers or self._document.relay:
            return
        change = TagsChange(self._document.tags, self.mark.tags)
        self._must(lambda: self._backend.put_tags(self._there, change))
        self._must(lambda: self._backend.merge_config(self._there, bytes(self._document.config)))
        self._change(papers=self.papers, tags=self._document.tags)

    def _end(self) -> None:
        ending = self._ending
        if ending is None:
            return
        if self._is_cancelled():
            self._change(status="CANCELLED", ended_ms=ending.at_ms)
            return
        told = self._must(lambda: self._backend.report(self._there, ending))
        now = told.status if isinstance(told, Told) else None
        self._change(status=ending.status, ended_ms=ending.at_ms, server_status=now)

    def _is_cancelled(self) -> bool:
        """Whether the server has a cancel that is not known here (R10); the status waits only a moment."""
        if self._document.restore.run.forced:
            return False
        for _ in range(LAST_QUESTIONS):
            self._policy.before()
            beat = self._backend.beat(self._there)
            if isinstance(beat.outcome, Delivered):
                return beat.status == "CANCELLED"
        return False

    def _must(self, request: Callable[[], Outcome]) -> Delivered:
        outcome = self._policy.ask(request)
        if isinstance(outcome, Rejected):
            raise ServerRefusedError(f"the server refuses Run {self._document.run_id!r}: {outcome.reason}")
        return outcome

    def _change(self, **fields: object) -> None:
        self.mark = self._marks.put(msgspec.structs.replace(self.mark, **fields))
