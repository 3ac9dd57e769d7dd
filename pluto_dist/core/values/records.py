"""Records: what the coordinator has to remember, one frozen struct for each table of the book.

Rules for editing: a record changes only by being replaced; whatever can be derived from records (the phase of
a Run, whether it is drained, the first failure) is derived and not stored. New fields need a default, so that
a database of an older version can be read.

Instants named `*_at` are CLOCK_BOOTTIME seconds, `*_ms` are epoch milliseconds. That clock starts anew with
each boot: `rebased_run` and `rebased_lease` move instants of an earlier boot before this one, in their order.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pluto_dist.core.values.backend import LogType, Reopened, Status, StreamKind, Want
from pluto_dist.core.values.engine import ClusterAddress
from pluto_dist.core.values.ids import Identity, Role, RunRef, Scheduled
from pluto_dist.core.values.lifecycle import Claim, Evidence, Fork, RankMetrics, Target

LeaseState = Literal["waiting", "active", "ended", "refused"]
Fault = Literal["", "failed", "stopped"]
EndReason = Literal["finished", "closed", "exited", "died", "superseded", "refused", "gave_up"]


class Now(msgspec.Struct, frozen=True):
    """The instant of an event; jitter is a random number in [0, 1) for backoff."""

    at: float
    wall_ms: int
    jitter: float = 0.5


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One failure of one process: what a person needs to look in the right place.

    Attributes:
        role, label, rank, host, pid, attempt: of the process.
        kind: how it ended; `vanished` where the cause is not known.
        type, message, traceback: of an exception; of an exit, `message` is the text that it was given.
        signal: name of a signal.
        exit_code: of an exit.
        oom: the kernel killed it for want of memory.
        at: epoch milliseconds; of a death, when the process was last known to live.
        found_at: when the death was found, if that was long after it; null otherwise.
        node: name of its node within a job of several, "" for one.
    """

    role: Role
    label: str
    rank: int | None
    host: str
    pid: int
    attempt: int
    kind: Literal["exception", "exit", "signal", "vanished"]
    type: str = ""
    message: str = ""
    signal: str = ""
    exit_code: int | None = None
    traceback: str = ""
    oom: bool = False
    at: int = 0
    found_at: int | None = None
    node: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """The final status with its reason. Frozen once persisted, except for a cancel or a take-over.

    Attributes:
        together: others that may have failed before `first_failure`: clocks of nodes differ by more than the
            time between them.
    """

    status: Status
    reason: str
    first_failure: Failure | None = None
    together: tuple[Failure, ...] = ()


class Prior(msgspec.Struct, frozen=True):
    """The end that a reopened Run had: put back if its new owner only closes (R6) or may not reopen it."""

    verdict: Verdict
    ended_ms: int | None = None
    job_key: str = ""
    attempt: int = 0


class Restoration(msgspec.Struct, frozen=True):
    """The end of another user's Run that our request has undone, kept until it is put back (R8)."""

    target: Target
    reopened: Reopened


class AttemptEnd(msgspec.Struct, frozen=True):
    """The end of an earlier attempt of the job.

    Attributes:
        attempt: its number, from 0.
        status: what the Run would have been.
        reason: for people.
        first_failure: what began its end.
    """

    attempt: int
    status: Status
    reason: str
    first_failure: Failure | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The authoritative Run.

    Attributes:
        key: the coordinator's own id, also the folder's name in the store.
        external_id: the caller's id, else a generated one; unique per target and project.
        asked: ids by which callers named the Run; they still mean it if the backend's ids differ.
        opening: the backend has been asked to create or reopen it and has not answered.
        provisional: granted although the backend has not answered yet.
        want: what the backend is asked for while it is opening.
        opener: lease of the claim for which the Run is opened.
        open_failures, open_since: tries of the backend's open so far, and since when.
        open_trouble: why the last try failed.
        asked_ms: when a request that changes something may have reached the backend first; 0 for never.
        found_running: it was RUNNING when this coordinator, which did not know it, took it up, and no cluster
            store could say whether another node's owner lives.
        fork: which Run the caller wants to continue; `fork_run_id` and `fork_step` are what the backend has.
        owner: lease that may finish; None before the first grant and while a new owner is awaited.
        epoch: number of the latest owner grant; members have this epoch, all others have no say at the end.
        start_epoch: its first epoch in the present start of the job, which may have several owners in turn.
        scheduled: the scheduler's job in which its latest owner ran, None outside of any.
        verdict: how the Run ended, None while it has not.
        forced: a person ended it by hand, which stands against everything else, a cancel on the server too.
        telling: a terminal status may have reached the backend.
        reported: the backend accepted the terminal status.
        ended_ms: when it ended, as far as that is known.
        found_ms: when its end was found, if that was long after it; 0 otherwise.
        server_status: the server's status, where it is not the one that was reported or is expected.
        refusals: requests that the server will not carry out -> its reason.
        pushed_tags: the tags that the backend has, None if unknown.
        untagged: tags to be removed on the backend that no process here has added.
        config_patch: JSON object that the backend has not got yet, b"" if none.
        steps: next automatic step by participant, as an earlier coordinator or the backend knows it.
        behind: lowest automatic step of owner and workers in a resumed Run, where it is not known which
            series belongs to which participant.
        next_line: number of the next console line.
        damaged: places in the spool where no record could be read.
        relay: name of this node in the Run, if another node has its owner (R12); "" on the owner's node.
            A relay delivers and sends heartbeats, and makes no verdict: the status is what the server says.
        cluster: the store that the nodes of its job share.
        topics_at: the store through which its processes on all nodes hand over to each other (R14).
        round: number there of the start of the job whose verdict it has taken, 0 if there is none; where the
            Run is taken up again, that one is over.
        speaks: this node had the seat when it was last seen to, so `pushed_tags`, `untagged` and
            `config_patch` are about the server; otherwise they are about the seat of another node.
        told: number of the last change of tags and config that this node has appended there.
        folded: changes of all nodes that are in tags and config, node -> number of the last one.
        part_of: key of the Run's first part, where there is no server and several nodes have parts (R12).
    """

    # What it is
    key: str
    target: Target
    project: str
    name: str
    external_id: str
    asked: tuple[RunRef, ...] = ()
    job_key: str
    created_ms: int
    boot_id: str
    id: int | None = None
    display_id: str | None = None
    url: str = ""

    # Its opening
    opening: bool = True
    provisional: bool = False
    resumed: bool = False
    want: Want = "create"
    opener: str = ""
    open_failures: int = 0
    open_since: float = 0.0
    open_trouble: str = ""
    asked_ms: int = 0
    found_running: bool = False
    prior: Prior | None = None
    fork: Fork | None = None
    fork_run_id: int | None = None
    fork_step: int | None = None

    # Its job and its owners
    owner: str | None = None
    epoch: int = 0
    start_epoch: int = 0
    attempt: int = 0
    max_restarts: int = 0
    launcher: Identity | None = None
    launcher_gone_at: float | None = None
    scheduled: Scheduled | None = None
    attempts: tuple[AttemptEnd, ...] = ()

    # Its end
    status: Status = "RUNNING"
    verdict: Verdict | None = None
    cancelled: bool = False
    forced: bool = False
    telling: bool = False
    reported: bool = False
    ended_ms: int | None = None
    found_ms: int = 0
    server_status: Status | None = None
    refusals: dict[str, str] = {}

    # Tags and config, and what the backend lacks of them
    tags: tuple[str, ...] = ()
    pushed_tags: tuple[str, ...] | None = None
    untagged: tuple[str, ...] = ()
    config_patch: bytes = b""

    # What was counted
    steps: dict[str, int] = {}
    behind: int = 0
    next_line: int = 1
    repeats: int = 0
    rejected: int = 0
    first_reject: str = ""
    damaged: int = 0

    # Its parts on other nodes
    relay: str = ""
    cluster: ClusterAddress | None = None
    topics_at: ClusterAddress | None = None
    round: int = 0
    speaks: bool = False
    told: int = 0
    folded: dict[str, int] = {}
    part_of: str = ""

    @property
    def decided_ms(self) -> int | None:
        """When the end was decided: found, or else happened."""
        return self.found_ms or self.ended_ms

    @property
    def ended(self) -> bool:
        """Whether the outcome is decided; only a new owner changes that."""
        return self.verdict is not None


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """What one process has in one Run: its role there, who it is, how it ended.

    What it does not protect: a process whose lease ended may still write into its spool, and those records
    are delivered. Only the status, tags and config are fenced, by `owner`, `epoch` and `attempt` of the Run.

    Attributes:
        opened: the claim, first entry of the lifecycle stream; without the rank where that was inherited.
        parent: lease of the process that started this one and whose Run this one has joined.
        namesake: another Run, whose launch was given the same id as this owner's; "" if there is none.
        left_over: who had started this side, which goes on although that process and the Run have ended.
        first_child: no other child had joined the parent's Run before.
        folded: how many entries of the lifecycle stream have taken effect.
        participant: the writer over restarts; empty until granted.
        by_exit: the interpreter's exit hook ended it, not a call of `finish()`.
        ended_ms: when it ended, as far as that is known.
        found_ms: when its end was found, if that was long after it; 0 otherwise.
        left_at: when its process wrote that it finishes or closes.
        stopped_at: when the parent sent the process a signal that ends it.
        stopped: when the process sent such a signal to children of its own, by pid.
        code_awaited: the process ended by the interpreter's exit, and only the kernel will know the code.
        refused: why the newest change of tags or config that could not be made was left out; "" if all were.
        removed: the folder is gone, everything in it was delivered.
        fences: where each stream stood when a newer attempt replaced this lease, stream -> (segment, offset);
            a missing stream came later; None until the streams were looked at.
    """

    # What it is
    lease_id: str
    folder: str
    opened: Claim
    parent: str = ""
    first_child: bool = False
    namesake: str = ""
    left_over: str = ""

    # Its role in the Run
    state: LeaseState = "waiting"
    run: str | None = None
    role: Role = "side"
    label: str = ""
    participant: str = ""
    epoch: int = 0
    attempt: int = 0
    asked_at: float = 0.0
    granted_at: float | None = None
    granted_ms: int | None = None

    # Its end
    ended_at: float | None = None
    ended_ms: int | None = None
    found_ms: int = 0
    end_reason: EndReason | None = None
    finish_code: int | None = None
    left_at: float | None = None
    stopped_at: float | None = None
    stopped: dict[str, float] = {}
    by_exit: bool = False
    code_awaited: bool = False
    error: tuple[str, str] | None = None
    evidence: tuple[Evidence, ...] = ()
    fault: Fault = ""

    # What was counted, and what is left of it
    folded: int = 0
    rejected: int = 0
    dropped: int = 0
    next_step: int = 0
    refused: str = ""
    removed: bool = False
    fences: dict[str, tuple[int, int]] | None = None

    @property
    def rank_metrics(self) -> RankMetrics:
        """The treatment of the lease's series (R7): the setting is a worker's, `reduce` that of all ranks."""
        asked = self.opened.rank_metrics
        if asked == "reduce":
            several = self.opened.job.world_size != 1
            return "reduce" if self.rank is not None and several else "auto"
        return asked if self.role == "worker" else "auto"

    @property
    def rank(self) -> int | None:
        """Global rank, None for a plain process or a side."""
        return self.opened.job.rank if self.role != "side" else None

    @property
    def identity(self) -> Identity:
        """The process that holds it."""
        return self.opened.identity

    @property
    def said(self) -> bool:
        """Whether the end of the process is explained; a request to stop that it ignored explains nothing."""
        return any(not item.ignored for item in self.evidence)

    @property
    def alive(self) -> bool:
        """Whether the process may still act under it."""
        return self.state in ("waiting", "active")

    @property
    def may_write(self) -> bool:
        """Whether records may still come; a superseded process goes on until it dies."""
        return self.alive or self.end_reason == "superseded"


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of one stream's delivery.

    Attributes:
        target: `run` for the Run's backend, `store` for the copy of undelivered records.
        offsets: delivered bytes of each segment that still exists.
        intent: (segment, start) of a request whose repeat would be seen; persisted before it is sent.
        tries: how many such requests may have been carried out, the one in flight included.
        left: segments of which the store has more than the disk since a power loss; for target `store` only.
        delivered: records accepted by the backend.
        passed: records that the cursor has passed, those set aside included.
        next_step: one more than the highest step delivered.
    """

    lease_id: str
    target: Literal["run", "store"]
    stream: str
    kind: StreamKind
    offsets: dict[int, int] = {}
    intent: tuple[int, int] | None = None
    tries: int = 0
    left: tuple[int, ...] = ()
    delivered: int = 0
    passed: int = 0
    next_step: int = 0


Positions = dict[str, dict[str, dict[int, int]]]  # lease -> stream -> segment -> offset


class Reduction(msgspec.Struct, frozen=True, kw_only=True):
    """How far the series of a node's ranks have been reduced to one (`rank_metrics="reduce"`).

    Kept under the lease of the node that the reduced series belong to.

    Attributes:
        read: up to where records were taken.
        behind: from where they are needed to begin anew, because their steps may still be corrected.
        out: (segment, offset) of the reduced stream, from where lines of those steps may stand.
        floors: highest step of each name that was given up: nothing corrects it any more.
        late: values left out because of that.
        over: nothing more will come, so nothing is held.
    """

    read: Positions = {}
    behind: Positions = {}
    out: tuple[int, int] = (0, 0)
    floors: dict[str, int] = {}
    late: int = 0
    over: bool = False


class SeriesOwner(msgspec.Struct, frozen=True):
    """One metric name in one Run (R7): which participant has the plain name, and the others that use it.

    Attributes:
        participant: who has the plain name, "" as long as only suffixed series exist.
        others: participants whose series has a suffix -> its final name.
        plain: for a suffixed series, the name under which its participant logs it; "" for a plain one.
        registered: the backend knows this name.
    """

    participant: str
    log_type: LogType
    others: dict[str, str] = {}
    plain: str = ""
    registered: bool = False


class Point(msgspec.Struct, frozen=True):
    """Latest state of a series.

    Attributes:
        last: the latest value; text in a series of texts.
        step: of that value.
        count: number of values.
    """

    last: float | str
    step: int
    count: int


class RunEvent(msgspec.Struct, frozen=True):
    """One line of a Run's history, for people.

    Attributes:
        at_ms: epoch milliseconds.
        name: what happened.
        detail: its particulars.
    """

    at_ms: int
    name: str
    detail: dict[str, str] = {}


LONG_S = 1e9


def rebased_run(run: Run, boot_id: str) -> Run:
    """A Run as a coordinator of another boot finds it."""
    return msgspec.structs.replace(
        run,
        boot_id=boot_id,
        launcher_gone_at=_shift(run.launcher_gone_at),
        open_since=run.open_since - LONG_S,
    )


def rebased_lease(lease: Lease) -> Lease:
    """A lease as a coordinator of another boot finds it."""
    evidence = tuple(
        msgspec.structs.replace(item, at=item.at - LONG_S, alive_until=_shift(item.alive_until))
        for item in lease.evidence
    )
    return msgspec.structs.replace(
        lease,
        asked_at=lease.asked_at - LONG_S,
        granted_at=_shift(lease.granted_at),
        ended_at=_shift(lease.ended_at),
        evidence=evidence,
    )


def _shift(at: float | None) -> float | None:
    return at - LONG_S if at is not None else None
