"""Entries of a lifecycle stream: what a process asks for, what it changes, and how it ends.

The stream is the truth (R1). A process writes an entry into its own spool first; the message over the socket
after it says only that there is something to read. A lost or repeated message therefore changes nothing, and
neither does the death of the coordinator. Entries are JSON, tagged by `entry`.

Times: `at` is seconds of CLOCK_BOOTTIME (comparable between the processes of one boot), `wall_ms` is epoch
milliseconds and for people only.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from pluto_dist.core.values.engine import ClusterAddress
from pluto_dist.core.values.ids import UNREADABLE, Count, Identity, Job, Pid, Role, RunRef, Seconds, Whole
from pluto_dist.core.values.topics import GroupName, TopicName
from pluto_dist.errors import ArgumentError

Console = Literal["auto", "wrap", "fd", "off"]
Patience = Annotated[float, msgspec.Meta(ge=0.1, le=1e9)]  # shorter ones would keep the coordinator busy
WHY_LIMIT = 500  # characters; what is wrong with an entry may quote it
RankMetrics = Literal["auto", "suffix", "rank0", "reduce"]
EvidenceKind = Literal["exception", "exit", "signal", "vanished"]


class Entry(msgspec.Struct, frozen=True, tag_field="entry", kw_only=True):
    """Base of all entries.

    Attributes:
        at: seconds of CLOCK_BOOTTIME.
        wall_ms: epoch milliseconds, for people only.
    """

    at: float
    wall_ms: Whole


class Fork(msgspec.Struct, frozen=True):
    """Which Run this one continues, and from which step.

    Attributes:
        parent: the other Run.
        step: the last step that is taken over.
        inherit_config: the parent's config is the base of this Run's.
        inherit_tags: the parent's tags are taken over.
    """

    parent: RunRef
    step: Count
    inherit_config: bool = True
    inherit_tags: bool = False


class Target(msgspec.Struct, frozen=True):
    """The destination of records. Two Runs with different targets never mix.

    Attributes:
        mode: `local` (the store) or `pluto` (the HTTP server).
        store: absolute path of the store folder.
        url_api, url_ingest, url_py, url_app: base URLs of the server, empty in local mode.
        key_id: short digest that tells API keys apart; never the key.
    """

    mode: Literal["local", "pluto"]
    store: str
    url_api: str = ""
    url_ingest: str = ""
    url_py: str = ""
    url_app: str = ""
    key_id: str = ""


class Origin(msgspec.Struct, frozen=True):
    """The process and its code, for the page of a Run that it opens.

    Attributes:
        known: JSON object in the form of the server's `systemMetadata`, without secrets.
        folder: where the process runs; the state of the code there is added.
        search_path: of its imports; the packages there are added.
    """

    known: msgspec.Raw = msgspec.Raw(b"{}")
    folder: str = ""
    search_path: tuple[str, ...] = ()


class Claim(Entry, frozen=True, kw_only=True, tag="opened"):
    """First entry of every lease: which process asks for which Run, in what role, with what config and tags.

    Attributes:
        protocol: version of entries and messages; a coordinator refuses those it does not know.
        verb: `init` may create and own a Run, `attach` only joins one.
        identity: of the process.
        job: which launch the process belongs to, and its rank.
        target: where records are to go.
        project: where a new Run goes.
        name: of a new Run.
        label: what people call the process.
        wanted: the role that the caller insists on, None for the one that fits (R5).
        run: the Run that is meant, None for a new one or the job's.
        run_from_env: the id came from the environment, so an existing Run is joined and not refused.
        generated_id: id of a new Run if the caller has named none.
        fork: the Run that a new one continues.
        tags: the caller's tags at init.
        config: JSON object, the caller's config at init.
        resume: the caller wants to go on with an existing Run.
        ancestors: parent first; tells children of a rank from ranks.
        parents: ancestors whose program the process is a part of (started by `multiprocessing`, or forked),
            parent first.
        again: the process has finished a Run before that an `init()` of its own had opened.
        via: how the process got its handle: by the call itself; by a second import of its parent's main
            module, which makes the call; or as a handle that another process opened.
        heir_of: lease of the process from which this one was forked to go on as a daemon.
        lent_by_ray: the process is a worker of Ray, for a task or an actor; "" if it is none.
        notebook: the process is a notebook's kernel; its end is no `finish()`.
        wait_s: how long the caller waits for the backend before the Run is provisional.
        retention_segments: newest segments of each stream that stay in the spool after their delivery.
        heartbeat_s: how often the process sends a heartbeat when nothing happens.
        stuck_after_s: a rank that writes nothing for so long while others do is reported.
        launcher: the process is `pluto-dist run`: it owns the Run for the command that it starts, and logs
            nothing but that command's console.
        launched_by: lease of the `pluto-dist run` that started the process.
        project_lent: the project is that of the `pluto-dist run` above, and was not named by the caller.
        rank_metrics: what becomes of the series of ranks (R7).
        reduce: which statistic of which names, where ranks are reduced: `loss=mean,tokens=sum`.
        console: how the process captures its own output.
        system_metrics_s: seconds between samples of the node while the process is an owner or worker, 0 for
            none.
        upload_rate: bytes a second that its files may be uploaded with, 0 for as fast as it goes.
        sides_limit: how many sides its Run may have at a time, if it is the owner.
        patience_s: how long its caller waits for the Run, if it attaches; 0 in claims of older versions.
        cluster: the store that the nodes of the job share, null without one.
        topics_at: the store through which processes of all nodes hand over to each other, null without one.
        origin: for the page of a new Run, None where nothing about the machine is to be recorded.
    """

    protocol: Whole
    verb: Literal["init", "attach"]
    identity: Identity
    job: Job
    target: Target
    project: str
    name: str | None = None
    label: str | None = None
    wanted: Role | None = None
    run: RunRef | None = None
    run_from_env: bool = False
    generated_id: str
    resume: bool = False
    fork: Fork | None = None
    tags: tuple[str, ...] = ()
    config: msgspec.Raw = msgspec.Raw(b"{}")
    ancestors: tuple[Identity, ...] = ()
    parents: tuple[Identity, ...] = ()
    again: bool = False
    via: Literal["call", "import", "handle"] = "call"
    heir_of: str = ""
    notebook: bool = False
    lent_by_ray: Literal["", "task", "actor"] = ""
    wait_s: Seconds = 10.0
    retention_segments: Count = 2
    heartbeat_s: Seconds = 5.0
    stuck_after_s: Patience = 600.0
    launcher: bool = False
    launched_by: str = ""
    project_lent: bool = False
    rank_metrics: RankMetrics = "auto"
    reduce: str = ""
    console: Console = "off"
    system_metrics_s: Seconds = 0.0
    upload_rate: Annotated[int, msgspec.Meta(ge=0)] = 0
    sides_limit: Annotated[int, msgspec.Meta(ge=1)] = 1000
    patience_s: float = 0.0
    cluster: ClusterAddress | None = None
    topics_at: ClusterAddress | None = None
    origin: Origin | None = None


class Evidence(Entry, frozen=True, kw_only=True, tag="evidence"):
    """Evidence about the job from the end of a process (R9).

    Attributes:
        kind: how the process ended; `vanished` is a death of unknown cause.
        type: class name of the exception.
        message: of the exception, or the text that `sys.exit` was given.
        communication: an exception that peers raise when another rank died (connection reset, NCCL, gloo).
        signal: name of the signal, e.g. `SIGKILL`.
        exit_code: the code of `sys.exit` or of the zombie.
        traceback: last lines of the exception's traceback.
        alive_until: latest instant at which the process was known to live; `at` where the process itself
            wrote the entry.
        found_ms: when the end was found, epoch milliseconds, if that was long after `wall_ms`; else 0.
        oom: the cgroup's memory.events named an OOM kill at that time.
        ignored: a request to stop that the process does not follow; it counts only if the process is then
            killed.
        command_pid: pid of the command that the process launched and that the evidence is about, 0 for the
            process itself; such evidence counts only if no participant's own says more.
    """

    kind: EvidenceKind
    type: str = ""
    message: str = ""
    communication: bool = False
    signal: str = ""
    exit_code: Whole | None = None
    traceback: str = ""
    alive_until: float | None = None
    found_ms: Whole = 0
    oom: bool = False
    ignored: bool = False
    command_pid: Pid = 0


class Finished(Entry, frozen=True, kw_only=True, tag="finished"):
    """`finish()`: for the owner the end of the Run, for a worker "this rank is done".

    Attributes:
        code: explicit verdict of the owner.
        at_exit: written by the interpreter's exit hook, which does not know the exit code: the verdict waits
            until the process is gone and the kernel has said it (R9).
        by_exit: the end of the process made this entry, not a call of `finish()`.
    """

    code: Whole | None = None
    at_exit: bool = False
    by_exit: bool = False


class Closed(Entry, frozen=True, kw_only=True, tag="closed"):
    """`close()`: the lease ends, the Run's status is left alone.

    Attributes:
        gave_up: an exception has left the `init()` that waited for the Run, so nobody goes on with it.
    """

    gave_up: bool = False


class TagsAdded(Entry, frozen=True, kw_only=True, tag="tags_added"):
    """`add_tags()`.

    Attributes:
        tags: to be added.
    """

    tags: tuple[str, ...]


class TagsRemoved(Entry, frozen=True, kw_only=True, tag="tags_removed"):
    """`remove_tags()`.

    Attributes:
        tags: to be removed.
    """

    tags: tuple[str, ...]


class ConfigUpdated(Entry, frozen=True, kw_only=True, tag="config_updated"):
    """`update_config()`.

    Attributes:
        patch: JSON object that is merged deeply.
    """

    patch: msgspec.Raw


class Counted(Entry, frozen=True, kw_only=True, tag="counted"):
    """Totals of what `log()` left out or lost so far; a later entry replaces an earlier one.

    Attributes:
        rejected: keys left out because their value cannot be logged.
        first_reject: the first of these keys, and the reason.
        dropped: records lost to a full disk or quota.
        next_step: the automatic step that would come next.
    """

    rejected: Count = 0
    first_reject: str = ""
    dropped: Count = 0
    next_step: Count = 0


class ChildStopped(Entry, frozen=True, kw_only=True, tag="child_stopped"):
    """The process is about to end a child by a signal: the child's death is intended, and no failure."""

    pid: Pid
    signal: str


class Noted(Entry, frozen=True, kw_only=True, tag="noted"):
    """An event that is no evidence: an exception in a thread, a warning.

    Attributes:
        text: name of the event in the Run's history.
        detail: its particulars.
    """

    text: str
    detail: dict[str, str] = {}


class Alerted(Entry, frozen=True, kw_only=True, tag="alerted"):
    """`alert()`: people should see it.

    Attributes:
        title: a short line.
        message: what happened.
        level: `DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`.
        email: the server mails it.
        remote: the server gets it at all.
        more: alerts of this title that the process has held back since the last one.
    """

    title: str
    message: str
    level: str
    email: bool = True
    remote: bool = True
    more: Count = 0


class Published(Entry, frozen=True, kw_only=True, tag="published"):
    """`publish()` and `checkpoint()`: something that other processes of the Run may want to take (R14).

    Attributes:
        topic: under which they ask for it.
        payload: any JSON, of at most 64 KiB.
    """

    topic: TopicName
    payload: msgspec.Raw


class ItemDone(Entry, frozen=True, kw_only=True, tag="item_done"):
    """A subscriber is through with an item: it took the next one, or called `done()` (R14).

    Attributes:
        topic: of the item.
        number: of the item.
        group: for which it was taken; "" for the label's own.
    """

    topic: TopicName
    number: Count
    group: GroupName = ""


class Unsubscribed(Entry, frozen=True, kw_only=True, tag="unsubscribed"):
    """A subscriber left its loop: what it took and is not through with is given again (R14).

    Attributes:
        topic: of the subscription.
        member: which loop of the process it was.
        group: for which it took items; "" for the label's own.
    """

    topic: TopicName
    member: Count
    group: GroupName = ""


class Unreadable(msgspec.Struct, frozen=True):
    """A line of the stream that is no entry of this version: a newer client's, or a damaged one.

    It keeps its place in the stream, because entries are counted: a process waits until all of its entries
    have been taken, this one included.
    """

    why: str


LifecycleEntry = (
    Claim
    | Evidence
    | Finished
    | Closed
    | TagsAdded
    | TagsRemoved
    | ConfigUpdated
    | Counted
    | ChildStopped
    | Noted
    | Alerted
    | Published
    | ItemDone
    | Unsubscribed
)

_decoder: msgspec.json.Decoder[LifecycleEntry] = msgspec.json.Decoder(LifecycleEntry)
_object = msgspec.json.Decoder(dict[str, object])
_encoder = msgspec.json.Encoder()


def encode_entry(entry: LifecycleEntry) -> bytes:
    """One line of JSON with its newline; decoded once here, so that the coordinator is sure to read it.

    Raises:
        ArgumentError: a field is not what it has to be.
    """
    try:
        line = _encoder.encode(entry)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ArgumentError(f"no {type(entry).__name__} entry can be written: {error}") from error
    again = decode_entry(line)
    if isinstance(again, Unreadable):
        raise ArgumentError(f"no {type(entry).__name__} entry can be written: {again.why}")
    return line + b"\n"


def decode_entry(payload: bytes) -> LifecycleEntry | Unreadable:
    """Reads one line; a line that is no valid entry comes back as `Unreadable` with the reason."""
    try:
        entry = _decoder.decode(payload)
        if isinstance(entry, Claim | ConfigUpdated):
            _object.decode(entry.config if isinstance(entry, Claim) else entry.patch)
        return entry
    except UNREADABLE as error:
        return Unreadable(str(error)[:WHY_LIMIT])
