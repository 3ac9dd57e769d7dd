"""The document of a Run: what `show --json` prints, what the store keeps, and what a later coordinator reads.

One format for all three. Keys that people and scripts may rely on are the fields of `Document`; everything
below `restore` is for the next coordinator and may change with `format`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pluto_dist.core.book import History, Points
from pluto_dist.core.foreign import UNREADABLE
from pluto_dist.core.ids import Role
from pluto_dist.core.records import (
    AttemptEnd,
    EndReason,
    Failure,
    LeaseState,
    Point,
    Run,
    RunEvent,
    SeriesOwner,
)
from pluto_dist.core.requests import Status

FORMAT = 1


class ForkShown(msgspec.Struct, frozen=True):
    """Which Run this one continues.

    Attributes:
        run_id: numeric id of the parent.
        step: the step after which this Run begins.
    """

    run_id: int
    step: int | None


class VerdictShown(msgspec.Struct, frozen=True):
    """How the Run ended.

    Attributes:
        status: the terminal status.
        reason: for people.
        first_failure: what began the end, null if nothing failed.
    """

    status: Status
    reason: str
    first_failure: Failure | None


class LeaseShown(msgspec.Struct, frozen=True, kw_only=True):
    """One lease; instants are epoch milliseconds.

    Attributes:
        lease_id: its id, also the name of its folder in the spool.
        role: what its process may do.
        label: what people call the process.
        participant: whose series they are, over restarts.
        rank: global rank, null for a plain process or a side.
        pid, host: of the process.
        epoch: of the ownership under which it was granted.
        attempt: which start of the job.
        state: `waiting`, `active`, `ended` or `refused`.
        granted_at: when it got its role.
        last_seen_at: when its process last spoke.
        ended_at: when it ended.
        end_reason: `finished`, `closed`, `exited`, `died`, `superseded`, `refused` or `gave_up`.
        delivered: records that the backend has accepted.
        written: records that the process has written.
        last_step: its highest step, null before the first.
        rejected: values that `log()` left out.
        dropped: records lost to a full disk or quota.
        heartbeat_s: how often its process speaks; a longer silence makes it suspect.
        last_logged_at: when the coordinator last saw something new of it.
        cursors: delivered bytes by stream and segment.
        launcher: it is `pluto-dist run`, and its console is that of the command.
        fences: stream -> (segment, offset) from where on the records are those of `attempt<n>` (R7); all of
            a stream that is missing. None for a lease that no newer attempt has replaced.
    """

    lease_id: str
    role: Role
    label: str
    participant: str
    rank: int | None
    pid: int
    host: str
    epoch: int
    attempt: int
    state: LeaseState
    granted_at: int | None
    last_seen_at: int | None
    ended_at: int | None
    end_reason: EndReason | None
    delivered: int
    written: int
    last_step: int | None
    rejected: int
    dropped: int
    heartbeat_s: float = 5.0
    last_logged_at: int | None = None
    launcher: bool = False
    cursors: dict[str, dict[int, int]] = {}
    fences: dict[str, tuple[int, int]] | None = None


class Restore(msgspec.Struct, frozen=True):
    """For the next coordinator only."""

    run: Run
    series: dict[str, SeriesOwner]
    steps: dict[str, int]
    side_configs: dict[str, msgspec.Raw]


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A Run; instants are epoch milliseconds.

    Attributes:
        format: version of the document.
        key: the coordinator's own id, also the folder's name in the store.
        id: numeric id, null while the backend has not given one.
        display_id: for people, e.g. `MMP-42`.
        run_id: the caller's id, or a generated one.
        project: where it is.
        name: for people.
        status: as on the server.
        phase: inner state.
        mode: `local` or `pluto`.
        url: of its page on the server.
        config: merged.
        side_configs: configs of sides, by label.
        tags: in the order in which they came.
        created_at: when it was made.
        ended_at: when it ended, null while it has not.
        resumed: whether it existed before its owner opened it.
        provisional: whether the server has not answered yet.
        fork: the Run that it continues.
        epoch: number of owners so far.
        attempt: which start of the job, 0 for the first.
        attempts: how earlier attempts ended.
        leases: all that were granted.
        summary: last value, step and count by series.
        points: number of points in all series.
        verdict: its end, null while there is none.
        reported: whether the backend has accepted the terminal status.
        pending: bytes in the spool that are not delivered.
        rejected: values and records that were not taken.
        first_reject: which was the first, and why.
        repeats: rows that may be on the server twice.
        dropped: records lost to a full disk or quota.
        trouble: why something does not go on, "" if all is well.
        series: names that several participants use: name -> participant -> final name.
        events: its history, for people.
        restore: for the next coordinator only; `show --json` leaves it out.
        relay: what this node is called in a Run that another node owns; such a document has no verdict.
    """

    format: int
    key: str
    id: int | None
    display_id: str | None
    run_id: str
    project: str
    name: str
    status: Status
    phase: str
    mode: Literal["local", "pluto"]
    url: str
    config: msgspec.Raw
    side_configs: dict[str, msgspec.Raw]
    tags: tuple[str, ...]
    created_at: int
    ended_at: int | None
    resumed: bool
    provisional: bool
    fork: ForkShown | None
    epoch: int
    attempt: int
    attempts: tuple[AttemptEnd, ...]
    leases: tuple[LeaseShown, ...]
    summary: dict[str, Point]
    points: int
    verdict: VerdictShown | None
    reported: bool
    pending: int
    rejected: int
    first_reject: str
    repeats: int
    dropped: int
    trouble: str
    series: dict[str, dict[str, str]]
    events: tuple[RunEvent, ...]
    restore: Restore
    relay: str = ""
    expected: VerdictShown | None = None


class Papers(msgspec.Struct, frozen=True):
    """What a document gives back to a coordinator that takes the Run over."""

    run: Run
    series: dict[str, SeriesOwner]
    steps: dict[str, int]
    sides: dict[str, bytes]
    history: History
    points: Points
    leases: tuple[LeaseShown, ...]


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Document)
_leases_decoder = msgspec.json.Decoder(tuple[LeaseShown, ...])


def read(body: bytes) -> Document:
    """Reads a document.

    Raises:
        ValueError: it is none, or of a newer format.
    """
    try:
        found = _decoder.decode(body)
    except UNREADABLE as error:
        raise ValueError(f"no document of a Run: {error}") from error
    if found.format > FORMAT:
        raise ValueError(f"document has format {found.format}; this version reads up to {FORMAT}")
    return found


def restore(body: bytes) -> Papers:
    """What the next coordinator needs of a stored document.

    Raises:
        ValueError: as `read`.
    """
    found = read(body)
    kept = found.restore
    sides = {label: bytes(config) for label, config in kept.side_configs.items()}
    history = History(found.events, _encoder.encode(found.leases))
    old = (kept.run, kept.series, kept.steps)
    return Papers(*old, sides, history, Points(found.key, found.summary), found.leases)
