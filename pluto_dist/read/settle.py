"""Settling by a reader: whether a Run's processes live, and a verdict where no coordinator made one (G7).

When the coordinator and all processes of a node are killed together, nothing is left that could make a
verdict, and the store would say RUNNING for ever. Therefore a command that only looks starts the coordinator
of the node if leases are left in its spool and none runs, and waits until it has made the verdicts. Where
that is not allowed, because the coordinator was stopped on purpose, or the folders belong to another user,
the reader asks the kernel about each process and shows what it finds; it makes no verdict.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.lifecycle import Claim, decode_entry
from pluto_dist.errors import PlutoDistError
from pluto_dist.host.liveness import LOCK_NAME, Presence, watch
from pluto_dist.host.places import Places
from pluto_dist.read.ask import START_S, hand_over_key, listener
from pluto_dist.read.lookup import RUNNING, Head, LeaseHead, Lookup
from pluto_dist.spool.reader import list_streams, records

JUDGED_S = 8.0  # an owner that died without an entry is waited for 2 s, and its peers settle for 1 s
POLL_S = 0.1
OPEN = frozenset({"waiting", "active"})

Standing = Literal["ended", "running", "detached", "gone", "unknown"]


class Situation(msgspec.Struct, frozen=True):
    """Whether the processes of a Run live.

    Attributes:
        standing: `ended`: it has its final status. `running`: a process of it lives, or its job restarts.
            `detached`: all have closed it, and none has finished it yet. `gone`: its processes are dead, and
            it is not judged yet. `unknown`: they cannot be seen from here.
        status: for people; never RUNNING unless a process is known to live.
    """

    standing: Standing
    status: str


UNKNOWN = Situation("unknown", "unknown")


def settle(lookup: Lookup) -> str:
    """Starts the coordinator of this node if Runs wait for one, and waits, bounded, until it has judged.

    Returns:
        Why it was not done, "" if nothing had to be done or it is.
    """
    places = lookup.places
    if places is None or lookup.silent or not _leases_left(places.spool / "leases"):
        return ""
    if listener(places.socket) is not None:
        return ""
    return _settled(lookup, places)


def _settled(lookup: Lookup, places: Places) -> str:
    from pluto_dist.host.launch import is_left, start_if_absent  # these load ZeroMQ, which a look need not

    if is_left(places):
        return "the coordinator of this node was stopped on purpose; `pluto-dist coordinator start` starts it"
    try:
        start_if_absent(places, os.environ, idle_exit_s=lookup.idle_exit_s, needed=False)
        if not _await_socket(places.socket, START_S):
            return f"no coordinator answered within {START_S:g} s; see {places.log}"
        hand_over_key(places)
        _await_verdicts(lookup)
    except PlutoDistError as error:
        return error.message
    return ""


def situation(head: Head | Document, *, live: bool, spool: Path | None) -> Situation:
    """Whether the processes of a Run live.

    Args:
        head: of the Run.
        live: the coordinator of this node has it.
        spool: folder of this node's leases, None if there is none.
    """
    if head.status != RUNNING:
        return Situation("ended", head.status)
    if head.relay:
        return Situation("running", RUNNING) if live else UNKNOWN
    open_leases = [lease for lease in head.leases if lease.state in OPEN]
    if live:
        return _as_the_coordinator_has_it(head.phase, bool(open_leases))
    seen = {_presence(spool, lease) for lease in open_leases}
    if "alive" in seen:
        return Situation("running", RUNNING)
    if "unknown" in seen:
        return UNKNOWN
    return Situation("gone", "gone, not yet judged")


def _as_the_coordinator_has_it(phase: str, alive: bool) -> Situation:
    if phase == "detached":
        return Situation("detached", RUNNING)
    if alive or phase in ("opening", "restarting"):
        return Situation("running", RUNNING)
    return Situation("gone", "ending" if phase == "finishing" else "gone, being judged")


def _presence(spool: Path | None, lease: LeaseHead | LeaseShown) -> Presence:
    """Whether the process of a lease lives, by the identity and the lock in its folder of the spool."""
    if spool is None:
        return "unknown"
    folder = spool / lease.lease_id
    try:
        claim = claim_of(str(folder))
        if claim is None:
            return "unknown"
        found = watch(claim.identity, folder / LOCK_NAME)
        try:
            return found.check()
        finally:
            found.close()
    except OSError:  # another user's, or removed in this instant
        return "unknown"


def claim_of(folder: str) -> Claim | None:
    """The claim of a lease, from its folder in the spool; None if it is not there."""
    for segment in sorted(list_streams(folder).get("lifecycle", {})):
        for line in records(folder, "lifecycle", segment):
            entry = decode_entry(line)
            return entry if isinstance(entry, Claim) else None
    return None


def _leases_left(leases: Path) -> bool:
    try:
        return any(entry.is_dir() for entry in leases.iterdir())
    except OSError:
        return False


def _await_socket(socket: Path, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while listener(socket) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S / 4)
    return True


def _await_verdicts(lookup: Lookup) -> None:
    """Waits, bounded, until no Run of the coordinator waits for a verdict."""
    deadline = time.monotonic() + JUDGED_S
    while time.monotonic() < deadline and _waiting(known.head for known in lookup.live()):
        time.sleep(POLL_S)


def _waiting(heads: Iterable[Head]) -> bool:
    return any(situation(head, live=True, spool=None).standing == "gone" for head in heads)


def remark_on(document: Document, lookup: Lookup, known: Situation, unsettled: str, *, live: bool) -> str:
    """A remark on a Run that has not ended and that no live coordinator has (G7).

    Args:
        document: of the Run.
        lookup: where it was found.
        known: whether its processes live.
        unsettled: why no coordinator could be started for it, "" if one was or none was needed.
        live: the coordinator of this node has the Run.
    """
    if document.relay:
        knows = "has its own part of it" if document.mode == "local" else "knows what the server said last"
        return f"another node owns it; this one relays as {document.relay} and {knows}"
    if live or document.status != RUNNING:
        return ""
    if known.standing == "gone" and unsettled:
        return f"its processes are gone; not yet judged: {unsettled}"
    open_leases = [lease for lease in document.leases if lease.state in ("waiting", "active")]
    here = [lease for lease in open_leases if lookup.spool and (lookup.spool / lease.lease_id).is_dir()]
    if lookup.silent:
        return "the coordinator of this node does not answer; this is what the store knew last"
    if here:
        return (
            f"no coordinator runs on this node. {len(here)} of its leases have their spool here: "
            "`pluto-dist coordinator start` lets the next one look who is alive and settle it"
        )
    hosts = ", ".join(sorted({lease.host for lease in open_leases})) or "unknown"
    monitored = document.mode == "pluto"
    monitor = "; the server marks it FAILED 150 s after its last heartbeat" if monitored else ""
    return (
        "no coordinator of this node has it; this is what the store knew last. Its processes were on: "
        f"{hosts}. If they are gone for good: `pluto-dist finish {document.display_id or document.key} "
        f"--status FAILED --force`{monitor}"
    )
