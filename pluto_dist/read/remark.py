"""Remarks on Runs that no coordinator looks after."""

from __future__ import annotations

from pluto_dist.core.values.document import Document
from pluto_dist.read.lookup import RUNNING, Lookup
from pluto_dist.read.settle import Situation


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
        return (
            f"another node owns it; this one relays as {document.relay} and knows what the server said last"
        )
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
