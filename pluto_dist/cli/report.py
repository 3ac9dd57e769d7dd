"""A Run's document for people: header, verdict, leases, summary, tags, config, events, counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import typer

from pluto_dist.backend.local.store import Store
from pluto_dist.cli.console import clock, now_ms, print_table, printable, since, span
from pluto_dist.core.rules.verdict import server_differs
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.records import Failure, RunEvent

EVENTS = 20
CONFIG_LINES = 40
TRACEBACK_LINES = 12
LEASE_COLUMNS = (
    *("ROLE", "LABEL", "RANK", "PID", "HOST", "EPOCH", "ATTEMPT", "AGE", "SEEN", "STEP", "WRITTEN"),
    *("DELIVERED", "STATE"),
)
NUMBERS = ("RANK", "PID", "EPOCH", "ATTEMPT", "STEP", "WRITTEN", "DELIVERED", "COUNT", "LAST")


def print_run(document: Document, store: str, remark: str) -> None:
    """Prints the whole report."""
    _section(_header(document, store))
    if remark:
        typer.echo(f"\nnote: {remark}")
    _section(_verdict(document))
    typer.echo("\nleases")
    _leases(document.leases, now_ms())
    typer.echo("\nsummary" if document.summary else "\nno points yet")
    _summary(document)
    _section(_series(document))
    _section(_config(document))
    _section(_events(document.events))
    _section(_files(document, store))
    _section(_counts(document))


def failure_lines(failure: Failure) -> Iterator[str]:
    """Who failed first, and how."""
    rank = (
        f", rank {failure.rank}"
        if failure.rank is not None and failure.label != f"rank{failure.rank}"
        else ""
    )
    yield (
        f"first failure: {failure.label} ({failure.role}{rank}, pid {failure.pid} on {failure.host}, "
        f"attempt {failure.attempt}) at {clock(failure.at)}"
    )
    yield f"  {_how(failure)}"
    lines = failure.traceback.rstrip().splitlines()
    yield from (f"  {line}" for line in lines[-TRACEBACK_LINES:])


def _how(failure: Failure) -> str:
    oom = ", out of memory (the kernel's OOM killer)" if failure.oom else ""
    if failure.kind == "exception":
        return f"{failure.type}: {failure.message}"
    if failure.kind == "exit":
        return f"exited with code {failure.exit_code}{oom}"
    if failure.kind == "signal":
        return f"killed by {failure.signal}{oom}"
    return f"vanished: nobody saw how it ended{oom}"


def _section(lines: Iterator[str]) -> None:
    found = [printable(line) for line in lines]
    if found:
        typer.echo("\n" + "\n".join(found))


def _header(document: Document, store: str) -> Iterator[str]:
    yield f"{document.display_id or document.run_id}  {document.name}  (project {document.project})"
    phase = f" ({document.phase})" if document.phase not in ("", "ended", document.status.lower()) else ""
    yield f"  status   {document.status}{phase}"
    differs = server_differs(document.server_status, document.refusals)
    if differs:
        yield f"  but      {differs}"
    yield f"  since    {clock(document.created_at)}{_until(document)}"
    yield f"  run_id   {document.run_id}" + (f", id {document.id}" if document.id is not None else "")
    yield f"  where    {f'{document.mode}, {document.url}' if document.url else f'{document.mode}, {store}'}"
    if document.fork is not None:
        yield f"  fork of  {document.fork.run_id} from step {document.fork.step}"
    if document.attempts:
        yield f"  attempt  {document.attempt} (after {len(document.attempts)} that ended)"
    if document.tags:
        yield f"  tags     {', '.join(document.tags)}"
    if document.provisional:
        yield "  the server has not answered yet; everything is kept on disk"


def _until(document: Document) -> str:
    if document.ended_at is None:
        return f" ({since(document.created_at, now_ms())})"
    return f", until {clock(document.ended_at)} ({span((document.ended_at - document.created_at) / 1000)})"


def _verdict(document: Document) -> Iterator[str]:
    for end in document.attempts:
        yield f"attempt {end.attempt}: {end.status}: {end.reason}"
        if end.first_failure is not None:
            yield from failure_lines(end.first_failure)
    if document.verdict is not None:
        yield f"verdict: {document.verdict.status}: {document.verdict.reason}"
        if document.verdict.first_failure is not None:
            yield from failure_lines(document.verdict.first_failure)


def _leases(leases: tuple[LeaseShown, ...], at_ms: int) -> None:
    rows = [
        (
            lease.role,
            lease.label,
            lease.rank,
            lease.pid,
            lease.host,
            lease.epoch,
            lease.attempt,
            since(lease.granted_at, at_ms),
            since(lease.last_seen_at, at_ms),
            lease.last_step,
            lease.written,
            lease.delivered,
            lease.state if lease.end_reason is None else lease.end_reason,
        )
        for lease in leases
    ]
    print_table(LEASE_COLUMNS, rows, right=NUMBERS)


def _summary(document: Document) -> None:
    if document.summary:
        rows = [
            (name, point.last, point.step, point.count) for name, point in sorted(document.summary.items())
        ]
        print_table(("SERIES", "LAST", "STEP", "COUNT"), rows, right=NUMBERS)


def _series(document: Document) -> Iterator[str]:
    for name, others in sorted(document.series.items()):
        for participant, final in sorted(others.items()):
            yield f"series {name}: {participant} logs it too, as {final}"


def _config(document: Document) -> Iterator[str]:
    if bytes(document.config) != b"{}":
        yield "config"
        yield from _object(document.config)
    for label, config in document.side_configs.items():
        yield f"config of {label}"
        yield from _object(config)


def _object(body: msgspec.Raw) -> Iterator[str]:
    lines = msgspec.json.format(bytes(body), indent=2).decode().splitlines()[1:-1]
    yield from lines[:CONFIG_LINES]
    if len(lines) > CONFIG_LINES:
        yield f"  … {len(lines) - CONFIG_LINES} more lines; --json has all"


def _events(events: tuple[RunEvent, ...]) -> Iterator[str]:
    if events:
        yield f"events (last {EVENTS} of {len(events)})" if len(events) > EVENTS else "events"
    for event in events[-EVENTS:]:
        yield f"  {clock(event.at_ms)}  {event.name}{_detail(event.detail)}"


def _detail(detail: Mapping[str, str]) -> str:
    return "".join(f"  {key}={value}" for key, value in detail.items())


def _files(document: Document, store: str) -> Iterator[str]:
    folder = Store(Path(store)).run(document.key) / "files"
    if folder.is_dir():
        yield f"files in {folder}"


def _counts(document: Document) -> Iterator[str]:
    yield (
        f"{document.points} points; pending {document.pending} bytes, rejected {document.rejected}, "
        f"repeats {document.repeats}, dropped {document.dropped}"
    )
    if document.first_reject:
        yield f"first rejected: {document.first_reject}"
    if document.trouble:
        yield f"trouble: {document.trouble}"
    if document.verdict is not None and not document.reported:
        yield "the final status has not been accepted yet"
