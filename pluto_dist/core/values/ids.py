"""Identities: of processes, jobs and Runs; and the ranges of all numbers that come from outside.

Everything here is a value or a rule about values; nothing looks at the machine.

Numbers arrive from other processes and from files, and have to fit everywhere they may go: MessagePack and
the server end at 64 bits, pids at 32. A number out of range is refused where it is decoded, so that no code
behind the decoder has to check it again.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

import msgspec

# One more, the next automatic step, is still a 64-bit integer everywhere, signed ones included.
MAX_STEP: Final = 2**63 - 2

Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Pid = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]

# Everything that a decoder raises for bytes that it does not like: msgspec's errors and a bad UTF-8 are
# ValueErrors, too deep a nesting is not.
UNREADABLE: Final = (ValueError, RecursionError)


def step_behind(step: int) -> int:
    """The step that comes next; a record that was not written by this package may claim any."""
    return min(step, MAX_STEP) + 1


Role = Literal["owner", "worker", "side"]

DEFAULT_PROJECT = "pluto"  # of a caller that names none

DISPLAY_ID = re.compile(r"^[A-Z0-9]{1,4}-\d+$")  # the official client's classification of a run id
LEASE_ID = re.compile(r"^[0-9a-f]{16,32}\Z")  # also a folder name, so nothing else is let through


class Identity(msgspec.Struct, frozen=True):
    """Which process, for all time (R2).

    A pid alone is reused; pid and start time within one boot and pid namespace are not. The nonce tells an
    `exec` from the process that was there before it.

    Attributes:
        boot_id: the kernel's random id of this boot.
        pid_ns: inode of the pid namespace, 0 where the platform has none.
        pid: process id as the process itself sees it.
        start: start time in clock ticks since boot (field 22 of /proc/<pid>/stat), as an integer.
        nonce: random hex, new for every program that runs in the process.
        host: host name, for people only.
    """

    boot_id: str
    pid_ns: Count
    pid: Pid
    start: Count
    nonce: str = ""
    host: str = ""

    def same_process(self, other: Identity) -> bool:
        """Whether both are one kernel process, whatever program it runs."""
        return (self.boot_id, self.pid_ns, self.pid, self.start) == (
            other.boot_id,
            other.pid_ns,
            other.pid,
            other.start,
        )


class Scheduled(msgspec.Struct, frozen=True):
    """A job of a scheduler that keeps its number when it is put back into the queue.

    Attributes:
        job: scheduler, cluster and number.
        restarts: how often it has been put back.
    """

    job: str
    restarts: Count = 0

    def again(self, before: Scheduled | None) -> bool:
        """Whether this is a later start of the same job."""
        return before is not None and before.job == self.job and before.restarts < self.restarts


class Job(msgspec.Struct, frozen=True):
    """One launch of one program, as one of its processes sees it (R4).

    Attributes:
        key: what all ranks of the launch share, over restarts; two launches never share it.
        rank: global rank, None for a plain process.
        local_rank: rank on this node.
        world_size: how many ranks the launcher announced.
        node_rank: which node of the job this is (GROUP_RANK), 0 for one node.
        attempt: restart count of the launcher, 0 for the first.
        max_restarts: how many restarts the launcher may make in all.
        launcher: the nearest ancestor without rank variables, if the job has ranks.
        shared_id: id that all nodes of the launch know (R12), None if there is none.
        launch: tells this launch from an earlier one of the same Run, on all nodes alike; "" if nothing does.
        nodes: how many nodes the job spans, 1 if nothing says otherwise.
        given_id: what torchrun was given as `--rdzv-id` and has replaced by an id of its own; "" otherwise.
        scheduled: the job of a scheduler in which it was launched, None outside of any.
    """

    key: str
    rank: Count | None = None
    local_rank: Count | None = None
    world_size: Count | None = None
    node_rank: Count = 0
    attempt: Count = 0
    max_restarts: Count = 0
    launcher: Identity | None = None
    shared_id: str | None = None
    launch: str = ""
    nodes: int = 1
    given_id: str = ""
    scheduled: Scheduled | None = None


class RunRef(msgspec.Struct, frozen=True):
    """A caller's id of a Run: exactly one field is set."""

    id: Whole | None = None
    display_id: str | None = None
    external_id: str | None = None

    def __str__(self) -> str:
        return str(self.id if self.id is not None else self.display_id or self.external_id)


def classify_run_id(value: int | str) -> RunRef:
    """Numeric, display or external id, by the official client's rule.

    Raises:
        ValueError: the value is empty, negative or longer than the server takes (255 characters).
    """
    if not isinstance(value, str):
        if isinstance(value, bool) or value <= 0:
            raise ValueError("the run_id is no id; numeric ids are whole numbers from 1 on")
        if value >= 2**63:
            raise ValueError(f"the run_id is out of range; numeric ids are 1 to {2**63 - 1}")
        return RunRef(id=value)
    text = value.strip()
    if not text:
        raise ValueError("run_id is empty; leave it out to get a new Run")
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(f"run_id {text[:100]!r} has a NUL or half a character; use plain UTF-8 text")
    if text.isascii() and text.isdigit():
        if len(text) > 19 or not 0 < int(text) < 2**63:  # 19 digits are enough, and int() takes 4,300 at most
            raise ValueError(f"the run_id is out of range; numeric ids are 1 to {2**63 - 1}")
        return RunRef(id=int(text))
    if DISPLAY_ID.match(text):
        return RunRef(display_id=text)
    if len(text) > 255:
        raise ValueError(f"run_id has {len(text)} characters; the limit is 255")
    return RunRef(external_id=text)


def display_prefix(project: str) -> str:
    """The letters before the number in `MMP-42`, by the server's rule.

    One word gives its first three characters; several give their initials, padded from the last word to
    three and cut to four; an empty name gives `RUN`.
    """
    words = [word for word in re.split(r"[-_\s.]+", project) if word]
    if not words:
        return "RUN"
    if len(words) == 1:
        return words[0][:3].upper()
    initials = "".join(word[0] for word in words)
    padding = words[-1][1 : 1 + max(0, 3 - len(initials))]
    return (initials + padding)[:4].upper()
