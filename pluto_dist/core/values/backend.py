"""The backend: its interface, the requests to it, and the closed set of their outcomes.

A backend translates; it decides nothing. It keeps no state that must survive: cursors, names and statuses
belong to the coordinator. Its calls block, and run in the coordinator's worker threads. Each may be repeated
after a crash with the same arguments.

Every request ends as `Delivered`, `Retry`, `Rejected` or `Unknown`. Only `Delivered` moves a cursor.
`Unknown` is the honest answer where a request may or may not have been carried out; the kind of stream
decides whether it may be repeated (G6), not the backend. Retries wait longer after each failure
(`backoff_s`), so that a server that is down is asked ever more rarely.

Two implementations are shipped: `local` (the store) and `pluto` (the HTTP server). The contract suite in
`tests/adapters` runs against both and against the one in memory.
"""

from __future__ import annotations

from typing import Literal, Protocol, assert_never

import msgspec

from pluto_dist.core.values.ids import RunRef, Scheduled
from pluto_dist.core.values.lifecycle import Target


class Delivered(msgspec.Struct, frozen=True, tag="delivered"):
    """The backend accepted it."""


class Retry(msgspec.Struct, frozen=True, tag="retry"):
    """Certainly not carried out; may be sent again.

    Attributes:
        reason: for people.
        after_s: the earliest time for another try, if the backend said one.
        key_problem: the API key is the cause; everything waits until there is another one.
    """

    reason: str
    after_s: float | None = None
    key_problem: bool = False


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    """Will never be accepted as it is.

    Attributes:
        reason: for people.
        good: how many lines before the culprit are acceptable, if it was found before anything was sent;
            None if the backend said no, which may have taken some lines already.
    """

    reason: str
    good: int | None = None


class Unknown(msgspec.Struct, frozen=True, tag="unknown"):
    """The request may have been carried out: no answer, or one that breaks off."""

    reason: str


Outcome = Delivered | Retry | Rejected | Unknown


BACKOFF_FIRST_S = 0.5
BACKOFF_CAP_S = 30.0


def backoff_s(failures: int, jitter: float) -> float:
    """Seconds until the next try: between half and all of min(cap, first * 2 ** failures)."""
    ceiling = min(BACKOFF_CAP_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 16))
    return ceiling * (0.5 + jitter / 2)


Status = Literal["RUNNING", "COMPLETED", "FAILED", "TERMINATED", "CANCELLED"]
LogType = Literal[
    "METRIC", "IMAGE", "VIDEO", "AUDIO", "FILE", "TEXT", "ARTIFACT", "HISTOGRAM", "TABLE", "DATA"
]
Want = Literal["create", "resume", "either", "join"]
StreamKind = Literal["metrics", "data", "console", "files", "lifecycle"]


class OpenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Create a Run, or go on with one.

    Attributes:
        key: the coordinator's own id of the Run; folder name in the store.
        want: `create` makes a new Run and must not touch an existing one; `resume` reopens an existing one;
            `either` takes what there is (ids from the environment, shared ids of several nodes); `join` finds
            a Run that another node owns, and leaves it as it is.
        launch: tells the launch of a job of several nodes from an earlier one of the same Run; "" otherwise.
        scheduled: the scheduler's job of the caller; `create` goes on with what a former start has left.
        external_id: always set for `create` and `either`, so that a lost answer cannot make a second Run.
        id, display_id: for `resume` by number or display id.
        parent, fork_step: the Run that this one continues; the backend resolves the lineage.
        parent_record: the parent's document, if the coordinator has it; b"" otherwise.
        created_ms: when the Run was begun, which may be long before it is opened; None for now.
        system_metadata: JSON object, what is known of the machine, for a new Run.
        given_id: the `--rdzv-id` that torchrun was given and has replaced; "" otherwise. A new Run shows it.
        asked_s: seconds since a call for this may have reached the backend first; None if none has.
        shared: several nodes have parts of the Run; on a server `create` leaves one with this key as it is.
        part_of: key of the Run's first part, of which this is to be another one; then `id` and `display_id`
            are its ids, which the store takes as they are. "" otherwise.
    """

    key: str
    target: Target
    want: Want
    project: str
    name: str
    external_id: str | None = None
    id: int | None = None
    display_id: str | None = None
    tags: tuple[str, ...] = ()
    config: bytes = b"{}"
    parent: RunRef | None = None
    parent_record: bytes = b""
    fork_step: int | None = None
    created_ms: int | None = None
    updated_ms: int | None = None
    launch: str = ""
    scheduled: Scheduled | None = None
    system_metadata: bytes = b"{}"
    given_id: str = ""
    asked_s: float | None = None
    shared: bool = False
    part_of: str = ""


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a Run that exists, as the backend knows it.

    Attributes:
        series: last step by name, where records are known by their series (the server).
        participants: next step by participant, where they are known by that (the store).
        lines, last_line: how many console lines there are, and the highest of their numbers.
    """

    series: dict[str, int] = {}
    participants: dict[str, int] = {}
    lines: int = 0
    last_line: int = 0


class RunOpened(msgspec.Struct, frozen=True, kw_only=True, tag="opened"):
    """The Run is RUNNING on the backend.

    Attributes:
        project: the Run's true project; ingest must use this one.
        resumed: the Run existed before.
        was_status: the status it had before this call, None if new or not known.
        was_since_ms: since when it had that, epoch milliseconds; None if that is not known.
        tags, config: what the backend has now, None where it does not say.
        record: the stored document of a local Run, b"" otherwise.
        parent_config, parent_tags: what a fork may inherit.
        reached: how far a Run that existed has come.
        part_of: key of the Run's first part, where several nodes have parts; "" otherwise.
        namesake: a running Run of another machine whose launch was given the same id; "" if there is none.
    """

    id: int
    display_id: str
    project: str
    url: str
    resumed: bool
    name: str | None = None
    was_status: Status | None = None
    tags: tuple[str, ...] | None = None
    config: bytes | None = None
    created_ms: int | None = None
    fork_run_id: int | None = None
    fork_step: int | None = None
    record: bytes = b""
    parent_config: bytes = b"{}"
    parent_tags: tuple[str, ...] = ()
    reached: Reached = Reached()
    was_since_ms: int | None = None
    part_of: str = ""
    namesake: str = ""


class Reopened(msgspec.Struct, frozen=True):
    """An ended Run that a request of ours has set to RUNNING, with the status that it had.

    Attributes:
        since_ms: since when the Run had that status, None if that is not known.
    """

    id: int
    project: str
    status: Status
    since_ms: int | None


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The backend will not open the Run, and a repetition would not change that.

    Attributes:
        error: name of the class in `pluto_dist.errors`.
        reopened: an ended Run that the request has set to RUNNING and that has to be put back, None if none.
    """

    error: str
    message: str
    reopened: Reopened | None = None


class Unavailable(msgspec.Struct, frozen=True, tag="unavailable"):
    """No answer, or one that says "later"; the Run is provisional meanwhile.

    Attributes:
        absent: the backend answers, and has no such Run yet.
        untouched: nothing that this attempt did can have changed anything.
    """

    reason: str
    after_s: float | None = None
    absent: bool = False
    untouched: bool = False


OpenResult = RunOpened | Refused | Unavailable


class Uploaded(msgspec.Struct, frozen=True, kw_only=True):
    """What `sync` has uploaded of a Run, lease -> stream -> segment -> bytes, and the status it has sent."""

    offsets: dict[str, dict[str, dict[int, int]]]
    next_line: int
    external_id: str
    status: Status | None


class Told(Delivered, frozen=True, kw_only=True, tag="told"):
    """The backend accepted a control request, and says what it has now.

    Attributes:
        status: of the Run; another one than was reported if the backend ignored the report. None where it
            does not say.
        tags: of the Run; None where it does not say.
    """

    status: Status | None = None
    tags: tuple[str, ...] | None = None


class BackendRun(msgspec.Struct, frozen=True):
    """An open Run, as its backend needs it."""

    key: str
    target: Target
    id: int
    project: str
    name: str = ""


class TagsChange(msgspec.Struct, frozen=True):
    """Tags as this node wants them, and as it last knew them to be; None if it never knew.

    Attributes:
        removed: tags that are to go although this node never knew them: they were added elsewhere.
    """

    wanted: tuple[str, ...]
    base: tuple[str, ...] | None
    removed: tuple[str, ...] = ()


class Alert(msgspec.Struct, frozen=True):
    """What people are to be told by the server.

    Attributes:
        at_ms: when it was said, epoch milliseconds.
        title: a short line.
        body: what happened.
        level: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
        email: the server mails it to the members of the organization.
    """

    at_ms: int
    title: str
    body: str
    level: str
    email: bool = True


class SeatNote(msgspec.Struct, frozen=True):
    """Epoch of the seat that speaks for a Run of several nodes; written into its config before any status."""

    epoch: int


class StatusReport(msgspec.Struct, frozen=True):
    """A status with its reason.

    Attributes:
        metadata: a JSON object, or None to clear the old one.
        at_ms: since when, epoch milliseconds; 0 for now.
        force: replaces any status that the backend has, because a person asked for it.
    """

    status: Status
    metadata: bytes | None
    at_ms: int
    force: bool = False


class Names(msgspec.Struct, frozen=True):
    """Names of series, with what is logged under each; made known before their first delivery."""

    kinds: dict[str, LogType]


class ConfigPatch(msgspec.Struct, frozen=True):
    """A JSON object that is merged deeply into the config."""

    patch: bytes


class Revive(msgspec.Struct, frozen=True):
    """The FAILED that the server's monitor gives a Run that was silent for too long is taken back."""


Wanted = Names | TagsChange | ConfigPatch | Alert | SeatNote | Revive | StatusReport
ControlRequest = Wanted | Reopened
Operation = Literal["names", "tags", "config", "alert", "seat", "revive", "status", "put_back"]


def operation_of(request: ControlRequest) -> Operation:
    """The short name of a request, under which events and documents speak of it."""
    match request:
        case Names():
            return "names"
        case TagsChange():
            return "tags"
        case ConfigPatch():
            return "config"
        case Alert():
            return "alert"
        case SeatNote():
            return "seat"
        case Revive():
            return "revive"
        case StatusReport():
            return "status"
        case Reopened():
            return "put_back"
        case _:
            assert_never(request)


class Beat(msgspec.Struct, frozen=True):
    """Answer to a sign of life."""

    outcome: Outcome
    status: Status | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A cut of one segment of one stream; of metrics, several streams may go in one request.

    Attributes:
        lease_id, stream, segment: where it was cut.
        folder: of the segment's file.
        start, end: offsets in it; the local backend takes these bytes as they are, frames and all.
        lines: the payloads of the record frames there, each a request line with its newline, with names
            already replaced where a series has a suffix; the server's backend joins them.
        last: nothing follows for now.
        notes: folder in which a backend may note how far an upload is, "" for none.
        rate: bytes a second that the files of this lease may be uploaded with, 0 for as fast as it goes.
        parts: the batches, this one among them, whose lines are all in `lines`, in this order; only for a
            server, and only metrics.
    """

    lease_id: str
    stream: str
    kind: StreamKind
    segment: int
    start: int
    end: int
    folder: str
    lines: tuple[bytes, ...]
    last: bool = False
    notes: str = ""
    rate: int = 0
    parts: tuple[Batch, ...] = ()


class Backend(Protocol):
    """The interface; the module's docstring has its rules."""

    def open(self, request: OpenRequest) -> OpenResult:
        """Creates or reopens a Run."""
        ...

    def deliver(self, run: BackendRun, batch: Batch) -> Outcome:
        """Sends one batch; `Delivered` means all of it."""
        ...

    def register(self, run: BackendRun, names: dict[str, LogType]) -> Outcome:
        """Makes names known before their first delivery."""
        ...

    def report(self, run: BackendRun, report: StatusReport) -> Outcome:
        """Sets the status; `Told` says which one the backend has then: it may keep another.

        FAILED from the server's own monitor, for a Run that was silent for too long, is replaced.
        """
        ...

    def put_tags(self, run: BackendRun, change: TagsChange) -> Outcome:
        """Makes the tags those that are wanted; with a base only the difference from it is applied, so that
        changes by others stay. `Told` says what the tags are then.
        """
        ...

    def merge_config(self, run: BackendRun, patch: bytes) -> Outcome:
        """Merges a JSON object deeply into the config."""
        ...

    def alert(self, run: BackendRun, alert: Alert) -> Outcome:
        """Tells people; `Retry` means that nobody was told, and where that is not certain it is `Unknown`."""
        ...

    def beat(self, run: BackendRun) -> Beat:
        """Sends a heartbeat of the job; the answer says whether the Run was cancelled."""
        ...

    def revive(self, run: BackendRun) -> Outcome:
        """Takes back the FAILED that the server's monitor gives a Run that was silent for too long.

        Any other end stays as it is; `Told` says which it is.
        """
        ...

    def seat_epoch(self, run: BackendRun) -> int | Outcome:
        """The highest epoch of a seat that has spoken for the Run, 0 for none; why that is not known."""
        ...

    def put_back(self, reopened: Reopened) -> Outcome:
        """Ends a Run again as it had ended before our request reopened it, unless it is in use since."""
        ...

    def close(self) -> None:
        """Gives back connections."""
        ...


KINDS: dict[str, StreamKind] = {
    "metrics": "metrics",
    "data": "data",
    "console": "console",
    "files": "files",
}


def kind_of(stream: str) -> StreamKind | None:
    """Kind of a stream; a forked child's chain is `<kind>.p<pid>`. None for the lifecycle."""
    return KINDS.get(stream.partition(".")[0])
