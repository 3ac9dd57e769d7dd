"""Records of one Run to the server, stream by stream, with the mark kept up to date."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import msgspec

from pluto_dist.backend.interface import Backend, Batch
from pluto_dist.backend.local import files
from pluto_dist.backend.local.marks import Mark, Marks
from pluto_dist.backend.local.store import Store
from pluto_dist.core.outcomes import Delivered, Outcome, Rejected, Retry, Unknown
from pluto_dist.core.requests import BackendRun, StreamKind
from pluto_dist.node.batches import contents, renamed
from pluto_dist.sync.console import next_lines
from pluto_dist.sync.names import Names
from pluto_dist.sync.patience import Patience
from pluto_dist.sync.source import BATCH_FILES, BATCH_LINES, Stream, next_piece

Progress = Callable[[int], None]  # bytes that are done


class Delivery:
    """Sends what stands behind the mark's cursors.

    Attributes:
        mark: where it stands; on disk.

    Args:
        backend: of the server.
        run: the Run there.
        store: where it is here.
        marks: keeps the mark.
        mark: where to begin.
        names: of its series.
        patience: how long to try.
        progress: told of each batch.
    """

    def __init__(
        self,
        backend: Backend,
        run: BackendRun,
        store: Store,
        marks: Marks,
        mark: Mark,
        names: Names,
        patience: Patience,
        progress: Progress,
    ) -> None:
        self._backend = backend
        self._run = run
        self._store = store
        self._marks = marks
        self._names = names
        self._patience = patience
        self._progress = progress
        self.mark = mark

    def all(self, streams: Sequence[Stream]) -> None:
        """Everything of these streams.

        Raises:
            PlutoDistError: the server was away for too long, or refuses the key.
        """
        for stream in streams:
            if stream.kind != "console":
                self._stream(stream)
        self._console([stream for stream in streams if stream.kind == "console"])

    def _stream(self, stream: Stream) -> None:
        most = BATCH_FILES if stream.kind == "files" else BATCH_LINES
        limit, careful_until = most, (-1, -1)
        while (piece := next_piece(stream, stream.offsets_in(self.mark.offsets), limit)) is not None:
            lines = self._final(stream.kind, piece.participant, piece.cut.lines)
            end = (piece.segment, piece.cut.end)
            outcome = self._send(stream, lines)
            if isinstance(outcome, Rejected) and len(piece.cut.lines) > 1:
                limit, careful_until = smaller(stream.kind, outcome, len(lines)), end
                continue
            refused = isinstance(outcome, Rejected)
            if isinstance(outcome, Rejected):
                self._set_aside(stream, piece.cut.lines, outcome.reason)
            if stream.kind == "metrics" or end >= careful_until:
                limit = min(most, limit * 2) if end < careful_until else most
            self._change(
                offsets=stream.moved(self.mark.offsets, *end),
                records=self.mark.records + (0 if refused else len(lines)),
                in_flight=0,
            )
            self._progress(len(piece.cut.raw))

    def _console(self, streams: Sequence[Stream]) -> None:
        limit = BATCH_LINES
        while (taken := next_lines(streams, self.mark.offsets, self.mark.next_line, limit)) is not None:
            lines = taken.lines
            outcome = self._send(streams[0], lines)
            if isinstance(outcome, Rejected) and len(lines) > 1:
                limit = smaller("console", outcome, len(lines))
                continue
            refused = isinstance(outcome, Rejected)
            if isinstance(outcome, Rejected):
                self._set_aside(streams[0], taken.lines, outcome.reason)
            limit = BATCH_LINES if limit > 1 or refused else 1
            self._change(
                offsets=taken.offsets,
                next_line=self.mark.next_line + len(lines),
                records=self.mark.records + (0 if refused else len(lines)),
                in_flight=0,
            )
            self._progress(sum(map(len, lines)))

    def _final(self, kind: StreamKind, participant: str, lines: tuple[bytes, ...]) -> tuple[bytes, ...]:
        logged = contents(kind, lines).names
        known = self._names.final(participant, logged)
        unregistered = self._names.unregistered(self.mark.registered)
        if unregistered:
            # Settled on disk before the first line goes out, so that the next sync gives the same names.
            self._change(series=self._names.series)
            self._patience.ask(lambda: self._backend.register(self._run, unregistered))
            self._change(registered=self.mark.registered | set(unregistered))
        if kind == "files":
            lines = tuple(files.located(self._store, self._run.key, line) for line in lines)
        return lines if all(name == known[name] for name in logged) else renamed(kind, lines, known)

    def _send(self, stream: Stream, lines: tuple[bytes, ...]) -> Delivered | Rejected:
        if not lines:
            return Delivered()
        batch = Batch(
            lease_id=stream.lease.lease_id,
            stream=stream.name,
            kind=stream.kind,
            segment=0,
            start=0,
            raw=b"",
            lines=lines,
        )

        if stream.kind == "metrics":
            return self._patience.ask(lambda: self._backend.deliver(self._run, batch))
        return self._patience.ask(lambda: self._with_intent(batch))

    def _with_intent(self, batch: Batch) -> Outcome:
        """One try, after writing down that it will be made; the mark is changed again by who knows more."""
        rows = len(batch.lines)
        self._change(in_flight=rows)
        outcome = self._backend.deliver(self._run, batch)
        if isinstance(outcome, Retry):
            self._change(in_flight=0)
        elif isinstance(outcome, Unknown):
            self._change(in_flight=0, repeats=self.mark.repeats + rows)
        return outcome

    def _set_aside(self, stream: Stream, lines: tuple[bytes, ...], reason: str) -> None:
        for line in lines:
            if stream.kind == "files":
                located = files.located(self._store, self._run.key, line)
                files.set_aside(self._store, self._run.key, located)
            record = {
                "reason": reason,
                "lease_id": stream.lease.lease_id,
                "stream": stream.name,
                "record": line.decode("utf-8", "replace").rstrip("\n"),
            }
            self._store.set_aside(self._run.key, json.dumps(record).encode() + b"\n")
        first = self.mark.first_reject or f"{stream.lease.label}, {stream.name}: {reason}"
        self._change(rejected=self.mark.rejected + len(lines), first_reject=first)

    def _change(self, **fields: object) -> None:
        self.mark = self._marks.put(msgspec.structs.replace(self.mark, **fields))


def smaller(kind: StreamKind, refused: Rejected, lines: int) -> int:
    """How many lines the next request has, to find the culprit without sending a good row twice."""
    if refused.good is not None:
        return refused.good or 1
    return lines // 2 if kind == "metrics" else 1
