"""Backend `local`: Runs in the store, without a server.

Names, tags, config and status are in the Run's document, which the coordinator writes anyway, so the calls
that would send them have nothing to do here. What is left is opening Runs and copying records.

A fork continues the Run that `resolve` finds, by the server's rule: while the named parent is itself a fork
and the step lies in what it inherited, the parent's parent is meant.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from pluto_dist.backend import ledger
from pluto_dist.backend.ledger import Entry
from pluto_dist.backend.local import files
from pluto_dist.backend.local.store import Store
from pluto_dist.core.rules.kinship import goes_on_in_queue
from pluto_dist.core.values.backend import (
    Alert,
    BackendRun,
    Batch,
    Beat,
    Delivered,
    LogType,
    OpenRequest,
    OpenResult,
    Outcome,
    Reached,
    Refused,
    Rejected,
    Reopened,
    Retry,
    RunOpened,
    StatusReport,
    TagsChange,
    Unavailable,
)
from pluto_dist.core.values.document import Document, read
from pluto_dist.core.values.ids import RunRef, display_prefix
from pluto_dist.spool.batches import next_step
from pluto_dist.spool.file_lines import read_line
from pluto_dist.spool.frames import segment_name
from pluto_dist.spool.sources import ChangedError

JOIN_AGAIN_S = 2.0  # a Run that is not there yet is looked for again


class LocalBackend:
    """The `Backend` of one store.

    Args:
        store: absolute path of the store folder.
    """

    def __init__(self, store: Path) -> None:
        self._store = Store(store)

    def open(self, request: OpenRequest) -> OpenResult:
        """Creates or finds a Run; an existing one is not touched by `create`."""
        try:
            return self._open(request)
        except LineageError as error:
            return Refused("ForkError", str(error))
        except ValueError as error:
            return Refused(
                "ClaimError",
                f"the store {self._store.root} has a Run {_ref(request)} that cannot be read ({error}); "
                "move its folder out of runs/, or use another run_id",
            )
        except OSError as error:
            return Unavailable(f"the store {self._store.root} cannot be used: {error}")

    def deliver(self, run: BackendRun, batch: Batch) -> Outcome:
        """Takes a cut of a segment, and before it the files that it names; repeating it changes nothing."""
        try:
            if batch.kind == "files":
                refused = self._keep(run, batch)
                if refused is not None:
                    return refused
            segment = Path(batch.folder, segment_name(batch.stream, batch.segment))
            self._store.take_segment(run.key, batch.lease_id, segment, batch.start, batch.end)
        except OSError as error:
            return Retry(f"the store {self._store.root} cannot take it: {error}")
        return Delivered()

    def _keep(self, run: BackendRun, batch: Batch) -> Rejected | None:
        entries: list[Entry] = []
        for index, line in enumerate(batch.lines):
            try:
                kept = files.keep(self._store, run.key, line)
            except ChangedError as error:
                return Rejected(str(error), good=index)
            if kept is None:
                return Rejected(f"there is no such file: {line[:200]!r}", good=index)
            fields = read_line(line)
            if kept.id and fields is not None and fields.log_type in ledger.LISTED:
                entries.append(msgspec.structs.replace(kept, lease_id=batch.lease_id))
        ledger.add(self._store.run(run.key), entries)
        return None

    def register(self, run: BackendRun, names: dict[str, LogType]) -> Outcome:
        return Delivered()

    def report(self, run: BackendRun, report: StatusReport) -> Outcome:
        return Delivered()

    def put_tags(self, run: BackendRun, change: TagsChange) -> Outcome:
        return Delivered()

    def merge_config(self, run: BackendRun, patch: bytes) -> Outcome:
        return Delivered()

    def alert(self, run: BackendRun, alert: Alert) -> Outcome:
        return Delivered()

    def beat(self, run: BackendRun) -> Beat:
        return Beat(Delivered())

    def seat_epoch(self, run: BackendRun) -> int | Outcome:
        """0: a store has one writer, so there are no seats to tell apart."""
        return 0

    def revive(self, run: BackendRun) -> Outcome:
        return Delivered()

    def put_back(self, reopened: Reopened) -> Outcome:
        return Delivered()

    def close(self) -> None:
        """Does nothing: no file is held open."""

    def _open(self, request: OpenRequest) -> OpenResult:
        if request.part_of:
            return self._part(request)
        opened = self._whole(request)
        if not request.shared or not isinstance(opened, RunOpened):
            return opened
        found = read(opened.record) if opened.record else None
        key = found.key if found is not None else request.key
        first = found.part_of if found is not None and found.part_of else key
        self._store.add_part(opened.project, request.external_id or key, key)
        return msgspec.structs.replace(opened, part_of=first)

    def _part(self, request: OpenRequest) -> OpenResult:
        """Another node's part of a Run that has its ids from the store of the node that made it (R12).

        What this store has of the Run already, also of a coordinator that is gone, says how far it has come.
        """
        project, external = request.project, request.external_id or request.key
        parts = [
            read(body) for key in self._store.parts(project, external) if (body := self._store.document(key))
        ]
        ours = any(part.key == request.key for part in parts)
        if request.want == "create" and request.scheduled is None and not ours:
            return Refused(
                "RunExistsError",
                f"a Run with run_id {external!r} exists in project {project!r} ({request.display_id}); "
                "another node has made it, and nothing was changed. Pass resume=True to go on with it, or "
                "choose another run_id",
            )
        steps: dict[str, int] = {}
        for part in parts:
            for participant, step in self._steps(part).items():
                steps[participant] = max(step, steps.get(participant, 0))
        self._store.add_part(project, external, request.key, request.id)
        return RunOpened(
            id=request.id or 0,
            display_id=request.display_id or "",
            project=project,
            url="",
            resumed=True,
            name=request.name,
            reached=Reached(participants=steps),
            part_of=request.part_of,
        )

    def _whole(self, request: OpenRequest) -> OpenResult:
        key = self.find(_ref(request), request.project)
        found = self._store.document(key) if key is not None else None
        if request.want == "join":
            return self._joined(request, found)
        if found is None:
            if request.want == "resume":
                return Refused("RunNotFoundError", self._not_found(request))
            return self._create(request)
        reopened = self._reopened(read(found), found)
        if request.want != "create":
            return reopened
        if key != request.key:
            document = read(found)
            if goes_on_in_queue(request.scheduled, document.restore.run.scheduled, document.status):
                return reopened
            return Refused("RunExistsError", _exists(document, self._store.root))
        return msgspec.structs.replace(reopened, resumed=False)  # the answer to the first call was lost

    def _joined(self, request: OpenRequest, found: bytes | None) -> OpenResult:
        """Joins a Run that has ended; a live one is written by its own coordinator, wherever that is."""
        if found is None:
            return Unavailable(self._not_found(request), JOIN_AGAIN_S, absent=True)
        document = read(found)
        if document.verdict is None:
            return Unavailable(f"Run {document.run_id} has not ended, and is not of this node", JOIN_AGAIN_S)
        return self._reopened(document, found)

    def _create(self, request: OpenRequest) -> OpenResult:
        external = request.external_id or request.key
        holder = self._store.claim_external(request.project, external, request.key)
        if holder != request.key:  # another process was faster
            return self._open(request)
        parent = None
        if request.parent is not None:
            parent = resolve(lambda ref: self._document(request, ref), request.parent, request.fork_step or 0)
        number = self._store.take_number(request.project, request.key)
        return RunOpened(
            id=number,
            display_id=f"{display_prefix(request.project)}-{number}",
            project=request.project,
            url="",
            resumed=False,
            name=request.name,
            fork_run_id=parent.id if parent is not None else None,
            fork_step=request.fork_step if parent is not None else None,
            parent_config=bytes(parent.config) if parent is not None else b"{}",
            parent_tags=parent.tags if parent is not None else (),
        )

    def find(self, ref: RunRef, project: str) -> str | None:
        """Key of the Run that an id means; external ids are unique per project, display ids should be."""
        if ref.id is not None:
            return self._store.key_of_id(ref.id)
        if ref.display_id is not None:
            prefix, _, number = ref.display_id.rpartition("-")
            if display_prefix(project) == prefix:
                return self._store.key_of_number(project, int(number))
            keys = [
                self._store.key_of_number(name, int(number))
                for name in self._store.projects()
                if display_prefix(name) == prefix
            ]
            return next((key for key in keys if key is not None), None)
        return self._store.key_of_external(project, ref.external_id or "")

    def _reopened(self, found: Document, record: bytes) -> RunOpened:
        return RunOpened(
            id=found.id or 0,
            display_id=found.display_id or "",
            project=found.project,
            url=found.url,
            resumed=True,
            name=found.name,
            was_status=found.status,
            tags=found.tags,
            config=bytes(found.config),
            created_ms=found.created_at,
            record=record,
            reached=Reached(participants=self._steps(found)),
        )

    def _steps(self, found: Document) -> dict[str, int]:
        """Next steps by participant, from document and streams: after a SIGKILL the document may be older."""
        owners = {lease.lease_id: lease.participant for lease in found.leases}
        steps: dict[str, int] = {}
        for folder in self._store.streams(found.key):
            participant = owners.get(folder.name)
            if participant is not None:
                steps[participant] = max(steps.get(participant, 0), next_step(str(folder)))
        return steps

    def _document(self, request: OpenRequest, ref: RunRef) -> Document | None:
        """A parent's document: the coordinator's own if it sent one, which is newer than the store's."""
        if ref == request.parent and request.parent_record:
            return read(request.parent_record)
        key = self.find(ref, request.project)
        body = self._store.document(key) if key is not None else None
        return read(body) if body is not None else None

    def _not_found(self, request: OpenRequest) -> str:
        return (
            f"no Run {_ref(request)} in project {request.project!r} of the store {self._store.root}; "
            "`pluto-dist runs` lists what there is"
        )


def _ref(request: OpenRequest) -> RunRef:
    return RunRef(id=request.id, display_id=request.display_id, external_id=request.external_id)


def _exists(found: Document, root: Path) -> str:
    return (
        f"a Run with run_id {found.run_id!r} exists in project {found.project!r} of the store {root} "
        f"({found.display_id}, {found.status}); nothing was changed. Pass resume=True to go on with it, "
        "attach() to log beside it, or choose another run_id"
    )


MAX_HOPS = 10  # as on the server


class LineageError(ValueError):
    """The parent of a fork is unknown, or has not reached the step."""


def resolve(find: Callable[[RunRef], Document | None], ref: RunRef, step: int) -> Document:
    """The Run that owns `step` in the line of `ref`.

    Raises:
        LineageError: the parent is unknown, or has not reached the step.
    """
    parent = find(ref)
    if parent is None:
        raise LineageError(f"fork_run_id {ref}: there is no such Run in this project")
    for _ in range(MAX_HOPS):
        if parent.fork is None or parent.fork.step is None or step > parent.fork.step:
            break
        ancestor = find(RunRef(id=parent.fork.run_id))
        if ancestor is None:
            break
        parent = ancestor
    reached = max((point.step for point in parent.summary.values()), default=0)
    if reached and step > reached:
        raise LineageError(
            f"fork_step {step} is beyond the last step of {parent.display_id}, which is {reached}"
        )
    return parent
