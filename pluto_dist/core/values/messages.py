"""Messages between a process and its coordinator: the wire protocol, MessagePack tagged by `t`.

`Sync` says "my lifecycle stream has this many entries". It is registration, heartbeat, and the nudge after
every entry, in one message that may be lost, repeated or reordered without harm, because the stream on disk
is what counts (R1). The coordinator answers with a `View`, and sends one unasked when something has changed
that the process should know. All other messages are questions and answers, for people and their scripts.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pluto_dist.core.values.backend import Status
from pluto_dist.core.values.ids import UNREADABLE, Count, Role, Whole
from pluto_dist.core.values.records import LeaseState
from pluto_dist.core.values.topics import GroupName, TopicName

PROTOCOL = 1
MAX_MESSAGE_BYTES = 1 << 20


class Message(msgspec.Struct, frozen=True, tag_field="t", kw_only=True):
    """Base of all messages."""


class Sync(Message, frozen=True, kw_only=True, tag="sync"):
    """A sign of life: the lifecycle stream of this lease has `entries` entries.

    Attributes:
        protocol: version of messages and entries.
        lease_id: of the process.
        folder: the lease's folder, absolute.
        entries: how many lines its lifecycle stream has.
        request: number of the request, echoed in the `View` that answers it; 0 for a plain heartbeat.
        key: API key of the Run's server, kept in memory only; "" for local Runs and once the coordinator
            has it.
    """

    protocol: Whole
    lease_id: str
    folder: str
    entries: Whole
    request: Whole = 0
    key: str = ""


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A Run as its participants see it.

    Attributes:
        key: the coordinator's own id.
        external_id: the caller's id, or a generated one.
        project, name, mode, status, phase, id, display_id, url, epoch, resumed, tags: as in the document.
        rejected: values left out by `log()` in processes that have ended, and records that the server
            refused.
        damaged: places in the spool where no record could be read.
        fork_run_id, fork_step: the Run that it continues, and the step after which it begins.
        points: number of points in all series.
        provisional: whether the server has not answered yet.
        found_running: it was RUNNING when this node took it up, so another node may own it too.
        cancelled: whether it was cancelled on the server.
        server_status: the server's status, where it differs from `status`.
        refusals: what the server will not take, with its reasons.
        owner: the owner, for people: label, pid, host; "" without a live owner.
        expected: the status that the Run will have, unless an exit code that is awaited says otherwise.
        reason: of its status, or of the expected one.
        relay: what this node is called in a Run that another node owns.
        hands_over: what is published goes to the other nodes, too.
    """

    key: str
    external_id: str
    project: str
    name: str
    mode: Literal["local", "pluto"]
    status: Status
    phase: str
    id: int | None = None
    display_id: str | None = None
    url: str = ""
    epoch: int = 0
    resumed: bool = False
    tags: tuple[str, ...] = ()
    rejected: int = 0
    damaged: int = 0
    fork_run_id: int | None = None
    fork_step: int | None = None
    points: int = 0
    provisional: bool = False
    found_running: bool = False
    cancelled: bool = False
    server_status: Status | None = None
    refusals: dict[str, str] = {}
    reason: str = ""
    owner: str = ""
    expected: Status | None = None
    relay: str = ""
    hands_over: bool = False


class View(Message, frozen=True, kw_only=True, tag="view"):
    """The state of one lease and its Run, as its process should know it.

    Attributes:
        generation: of the coordinator; a client that sees a new one hands over its key again.
        lease_id: of the process that is addressed.
        request: of the message that is answered, 0 for a view that was not asked for.
        state: of the lease.
        folded: how many lifecycle entries have taken effect.
        role, label, rank, participant, epoch, attempt: what was granted.
        error: (class name, message) of a refused claim.
        joined: pid of the parent whose Run this process joined as the first of its children; 0 otherwise.
        namesake: another Run whose launch was given the same `--rdzv-id` as this one; "" if there is none.
        given_id: that id.
        left_over: the rank that has started this side, which outlives it and the Run; "" if that is not so.
        run: the Run, null before the grant.
        next_step: first automatic step of this participant.
        last_out: no other owner or worker on this node is alive (R11).
        drained: everything that this process has to wait for at its end is safe (R11).
        pending: bytes not yet delivered.
        passed: records of this process that have been delivered or set aside.
        key_wanted: the coordinator has no API key for this Run.
        key_problem: why the server has refused the API key for a while, "" if it accepts it.
        trouble: why something does not go on.
        stuck: ranks that are stuck while others go on or wait for them, for people; "" if none is.
        refused: why this process's newest change of tags or config that could not be made was left out.
        relieved: for a launcher: a process below it records its own console, so the launcher need not.
        topics: the coordinator hands items over (R14); an older one does not.
    """

    generation: int
    lease_id: str
    request: int
    state: LeaseState
    folded: int
    role: Role = "side"
    label: str = ""
    rank: int | None = None
    participant: str = ""
    epoch: int = 0
    attempt: int = 0
    error: tuple[str, str] | None = None
    joined: int = 0
    namesake: str = ""
    given_id: str = ""
    left_over: str = ""
    run: RunView | None = None
    next_step: int = 0
    last_out: bool = False
    drained: bool = False
    pending: int = 0
    passed: int = 0
    key_wanted: bool = False
    key_problem: str = ""
    trouble: str = ""
    stuck: str = ""
    refused: str = ""
    relieved: bool = False
    topics: bool = False


class AskConfig(Message, frozen=True, kw_only=True, tag="ask_config"):
    """The Run's merged config."""

    request: Whole
    lease_id: str


class AskRuns(Message, frozen=True, kw_only=True, tag="ask_runs"):
    """All Runs that this coordinator knows."""

    request: Whole


class AskRun(Message, frozen=True, kw_only=True, tag="ask_run"):
    """The document of one Run; `run` is an id, display id, external id or key."""

    request: Whole
    run: str


class AskStatus(Message, frozen=True, kw_only=True, tag="ask_status"):
    """The coordinator itself."""

    request: Whole


class TakeItem(Message, frozen=True, kw_only=True, tag="take_item"):
    """The next item of a topic, for a loop of this process (R14).

    Answered when there is one, or when the Run is over and all items are done.

    Attributes:
        member: which loop of the process asks.
        entries: not before so many lifecycle entries have taken effect: they say what is done.
        group: that shares the topic; "" for this process's label, which has it alone.
        latest: only the newest one.
    """

    request: Whole
    lease_id: str
    topic: TopicName
    member: Count
    entries: Count
    group: GroupName = ""
    latest: bool = False


class HandOverKey(Message, frozen=True, kw_only=True, tag="key"):
    """An API key for Runs whose processes are gone; also asks to look at what `sync` has uploaded."""

    request: Whole
    key: str


class ForceFinish(Message, frozen=True, kw_only=True, tag="force_finish"):
    """A person takes the Run over with a new epoch and ends it; `force`: also if it lives or has ended."""

    request: Whole
    run: str
    status: Status
    force: bool = False


class ForgetRun(Message, frozen=True, kw_only=True, tag="forget_run"):
    """A person deletes a Run that has ended; `force`: also with what its backend has not taken."""

    request: Whole
    run: str
    force: bool = False


class StopCoordinator(Message, frozen=True, kw_only=True, tag="stop"):
    """Drain and exit; spooled records stay on disk."""

    request: Whole


class Answer(Message, frozen=True, kw_only=True, tag="answer"):
    """Answer to a question: one JSON document."""

    request: int
    body: bytes


class Refusal(Message, frozen=True, kw_only=True, tag="refusal"):
    """A request that could not be served; nothing was changed."""

    request: int
    error: str
    message: str


Question = (
    AskConfig
    | AskRuns
    | AskRun
    | AskStatus
    | TakeItem
    | HandOverKey
    | ForceFinish
    | ForgetRun
    | StopCoordinator
)
Request = Sync | Question
Reply = View | Answer | Refusal


def wrong_protocol(theirs: int) -> str:
    """Advice about a client of another version."""
    return (
        f"the client speaks protocol {theirs}, the coordinator {PROTOCOL}; run `pluto-dist coordinator stop` "
        "and start again, or use one version of pluto_dist everywhere"
    )


_encoder = msgspec.msgpack.Encoder()
_request_decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Message) -> bytes:
    """MessagePack."""
    return _encoder.encode(message)


def decode_request(payload: bytes) -> Request:
    """Reads what a client sent.

    Raises:
        ValueError: too large, not MessagePack, or no request of this protocol.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ValueError(f"message of {len(payload)} bytes; the limit is {MAX_MESSAGE_BYTES}")
    try:
        return _request_decoder.decode(payload)
    except UNREADABLE as error:
        raise ValueError(f"not a request of protocol {PROTOCOL}: {error}") from error


def decode_reply(payload: bytes) -> Reply:
    """Reads what the coordinator sent.

    Raises:
        ValueError: not MessagePack, or no reply of this protocol.
    """
    try:
        return _reply_decoder.decode(payload)
    except UNREADABLE as error:
        raise ValueError(f"not a reply of protocol {PROTOCOL}: {error}") from error
