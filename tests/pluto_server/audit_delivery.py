"""Client defects in what is delivered: 6.3.1 to 6.3.4 and 6.3.9."""

from collections.abc import Iterable
from typing import TypeAlias

from .defects import Defect
from .metrics import Conflict, RunKey
from .objects import Grant
from .rows import DataRow, FileRow, LogRow
from .state import State
from .status import is_terminal
from .wire import Request

_LEAST_MS = 10**11  # smaller epoch values are seconds, not milliseconds
_FUTURE_MS = 5_000  # clocks of one machine differ by less

_RowKey: TypeAlias = tuple[RunKey, DataRow | LogRow]


class DeliveryAudit:
    """Looks at every accepted ingest request, presign and upload. Call under the state's lock."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._rows: dict[_RowKey, int] = {}
        self._presigned: dict[tuple[RunKey, str, str, int], tuple[int, Grant]] = {}
        self._without_put: set[str] = set()

    def accepted(self, request: Request, key: RunKey, names: Iterable[str], times: Iterable[int]) -> None:
        """An ingest or presign request was taken for this run, these names and times."""
        named = tuple(sorted(set(names)))
        self._address(request, key, named)
        self._ended(request, key, named)
        self._times(request, key, named, times)

    def conflicts(self, request: Request, key: RunKey, conflicts: Iterable[Conflict]) -> None:
        """Points whose step had another value before: one finding a name."""
        by_name: dict[str, list[Conflict]] = {}
        for conflict in conflicts:
            by_name.setdefault(conflict.name, []).append(conflict)
        for name, found in by_name.items():
            first = found[0]
            text = (
                f"{name!r} has two values at {len(found)} step(s), first at step {first.step}: "
                f"{first.before} and {first.after}"
            )
            self._add(request, "6.3.3", text, key, (name,))

    def rows(self, request: Request, key: RunKey, rows: Iterable[DataRow | LogRow]) -> None:
        """Data and console rows: a row whose first delivery was answered must not come again."""
        repeats = []
        for row in rows:
            earlier = self._rows.get((key, row))
            if earlier is not None and (earlier == request.id or self._state.journal.knows_answer(earlier)):
                repeats.append(row)
            self._rows[key, row] = request.id
        if repeats:
            names = {row.log_name if isinstance(row, DataRow) else row.log_type for row in repeats}
            text = f"{len(repeats)} row(s) delivered before, first {repeats[0]}"
            self._add(request, "6.3.4", text, key, tuple(sorted(names)))

    def presigned(self, request: Request, key: RunKey, row: FileRow, grant: Grant) -> None:
        """A URL was given out; asking again needs a reason: no answer, a refusal, or an expired URL."""
        what = (key, row.log_name, row.file_name, row.step)
        earlier = self._presigned.get(what)
        self._presigned[what] = (request.id, grant)
        if earlier is None:
            return
        request_id, old = earlier
        has_url = request_id == request.id or self._state.journal.knows_answer(request_id)
        if has_url and not old.refused and old.expires_ms > self._state.now_ms():
            text = f"second presign of file {row.file_name!r} of {row.log_name!r} at step {row.step}"
            self._add(request, "6.3.4", text, key, (row.log_name,))

    def uploaded(self, request: Request, grant: Grant, size: int) -> None:
        """A PUT arrived."""
        if size != grant.declared_size:
            text = f"PUT of {size} bytes for a file declared with {grant.declared_size}: {grant.key}"
            defect = Defect("6.3.4", text, grant.run_id, (grant.log_name,), request.id, self._state.now_ms())
            self._state.defects.add(defect)

    def check(self) -> None:
        """What only shows when the client is done: URLs that were asked for and not used."""
        grants = self._state.objects.put_grants()
        used = {(grant.key, grant.step) for grant in grants if grant.uploads}
        for grant in grants:
            if (grant.key, grant.step) in used or grant.signature in self._without_put:
                continue
            self._without_put.add(grant.signature)
            text = f"presigned, never uploaded: {grant.key} at step {grant.step}"
            now_ms = self._state.now_ms()
            self._state.defects.add(Defect("6.3.4", text, grant.run_id, (grant.log_name,), None, now_ms))

    def _address(self, request: Request, key: RunKey, names: tuple[str, ...]) -> None:
        tenant, project, run_id = key
        header = request.headers.get("x-run-id", "")
        run = self._state.book.run(tenant, run_id)
        if not header.strip().isdigit():
            self._add(
                request, "6.3.1", f"X-Run-Id {header!r} is not a number, data went to run 0", key, names
            )
        elif run is None:
            self._add(request, "6.3.1", f"X-Run-Id {run_id} names no run of {tenant}", key, names)
        elif run.project.name != project:
            text = f"run {run_id} is in project {run.project.name!r}, X-Project-Name says {project!r}"
            self._add(request, "6.3.1", text, key, names)

    def _ended(self, request: Request, key: RunKey, names: tuple[str, ...]) -> None:
        run = self._state.book.run(key[0], key[2])
        entry = self._state.journal.get(request.id)
        given_up = entry is not None and entry.outcome is not None
        if run is not None and is_terminal(run.status) and not given_up:
            self._add(request, "6.3.2", f"{request.path} for run {run.id}, which is {run.status}", key, names)

    def _times(self, request: Request, key: RunKey, names: tuple[str, ...], times: Iterable[int]) -> None:
        known = list(times)
        if not known:
            return
        latest = self._state.now_ms() + _FUTURE_MS
        if min(known) < _LEAST_MS:
            self._add(request, "6.3.9", f"time {min(known)} looks like seconds, not milliseconds", key, names)
        elif max(known) > latest:
            ahead = (max(known) - latest + _FUTURE_MS) / 1000
            self._add(request, "6.3.9", f"time {max(known)} is {ahead} s in the future", key, names)

    def _add(self, request: Request, kind: str, text: str, key: RunKey, names: tuple[str, ...]) -> None:
        self._state.defects.add(Defect(kind, text, key[2], names, request.id, self._state.now_ms()))
