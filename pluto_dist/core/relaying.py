"""Runs whose owner is on another node (R12): which claims mean one, and who goes first on such a node.

A relay delivers what its own processes write and says that they live. It makes no verdict and sends no
status: both are the business of the node with the owner, which is node 0 of the job unless somebody there
insists on owning the Run elsewhere.
"""

from __future__ import annotations

import msgspec

from pluto_dist.core.context import Context
from pluto_dist.core.ids import Job
from pluto_dist.core.lifecycle import Opened
from pluto_dist.core.phase import members_of
from pluto_dist.core.records import Lease, Run
from pluto_dist.core.shared import Shared
from pluto_dist.core.verdict import describe, first_failure, who_failed

LONGEST_REPORT = 1000  # characters
OWNER_COMES_S = 30.0  # a node whose ranks have ended waits this long for the owner's node to make the Run


def relays(claim: Opened) -> bool:
    """Whether the owner of the claim's Run is on another node (R12): on node 0, unless somebody insists."""
    named = claim.target.mode == "pluto" and claim.run is not None
    fits = claim.wanted in (None, "worker") or claim.launcher  # each node may have a launcher of ours
    return claim.verb == "init" and named and claim.job.node_rank > 0 and fits


def sought(run: Run) -> bool:
    """Whether the server was asked for a Run of another node and has not found it."""
    return run.want == "join" and run.opening and run.epoch == 0


def leads(job: Job) -> bool:
    """Whether the others wait for it to claim ownership first: rank 0, or the first of a node without it."""
    return job.rank in (None, 0) or (job.node_rank > 0 and job.local_rank == 0)


class Absences:
    """Since when the server says that it has no such Run; an outage says nothing."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._since: dict[str, float] = {}

    def left_alone(self, run: Run, *, absent: bool) -> bool:
        """Whether this node's part of the job is over, and no other node has made the Run or will."""
        now = self._context.now.at
        if not absent or not run.relay:
            self._since.pop(run.key, None)
            return False
        since = self._since.setdefault(run.key, now)
        members = members_of(run, self._context.book.leases_of(run.key))
        if not members or any(member.alive for member in members):
            return False
        return now >= max(since, *(member.ended_at or 0.0 for member in members)) + OWNER_COMES_S

    def forget(self, run: str) -> None:
        """The Run is forgotten."""
        self._since.pop(run, None)


class NodeReports:
    """What failed first on a node without the owner: told in the Run's events and in its config.

    The verdict is made on the owner's node, of the evidence there: connection errors, or its launcher's
    SIGTERM. Under `pluto_dist.failures` in the config people see which rank of which node began.
    """

    def __init__(self, context: Context, shared: Shared) -> None:
        self._context = context
        self._shared = shared
        self._told: set[tuple[str, int]] = set()

    def tell(self, run: Run, members: tuple[Lease, ...]) -> None:
        """All members of the attempt have ended on this node."""
        found = first_failure(run, members)
        if found is None or found[0] or (run.key, run.epoch) in self._told:
            return
        self._told.add((run.key, run.epoch))
        what = f"{who_failed(found[1])}: {describe(found[1])}"
        self._context.note_once(run.key, "failed_on_this_node", attempt=str(run.attempt), what=what)
        patch = {"pluto_dist": {"failures": {run.relay: {f"attempt {run.attempt}": what[:LONGEST_REPORT]}}}}
        self._shared.update_config(run.key, msgspec.json.encode(patch))

    def forget(self, run: str) -> None:
        """The Run is forgotten."""
        self._told = {told for told in self._told if told[0] != run}
