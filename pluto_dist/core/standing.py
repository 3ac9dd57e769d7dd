"""How a Run stands: what all its participants are told alike, and whether who leaves may go (R11)."""

from __future__ import annotations

import msgspec

from pluto_dist.core.context import Context
from pluto_dist.core.control import Controls
from pluto_dist.core.delivery import Delivery
from pluto_dist.core.filing import Filing
from pluto_dist.core.messages import RunView
from pluto_dist.core.nodes import is_node
from pluto_dist.core.phase import Assessment, assess, members_of
from pluto_dist.core.records import Lease, Run
from pluto_dist.core.speakers import relieved_launchers
from pluto_dist.core.stuck import Paces

FILES_MS = 10_000  # the status waits no longer for files than for anything else that is late (R10)
FOR_EVER_MS = 1 << 62
KEY_PROBLEM_S = 2.0  # a key that is refused for so long is a key problem


class Standing(msgspec.Struct, frozen=True):
    """What is the same for all leases of a Run.

    Attributes:
        members: owners and workers alive, whatever their epoch.
        safe: what ended participants wrote, tags and config are where they belong (R11).
        told: so is the status, or it will not be known for long.
        asked: the server was asked for a cancel before a status for which only an exit code is missing.
        relieved: leases of launchers that leave the console to those below them.
    """

    run: RunView
    members: int
    safe: bool
    told: bool
    asked: bool
    relieved: frozenset[str]
    key_problem: str
    trouble: str
    stuck: str


class Standings:
    """Computed when asked for; nothing is kept."""

    def __init__(
        self, context: Context, delivery: Delivery, controls: Controls, filing: Filing, paces: Paces
    ) -> None:
        self._context = context
        self._book = context.book
        self._delivery = delivery
        self._controls = controls
        self._filing = filing
        self._paces = paces

    def of(self, run: Run) -> Standing:
        """How a Run stands now."""
        leases = self._book.leases_of(run.key)
        assessment = assess(run, members_of(run, leases), self._context.now.at)
        phase = assessment.phase
        # The status is waited for only where it is near: not while the launcher may restart the job, nor
        # for a Run that was closed and may be taken up again.
        told = run.reported if run.ended else phase not in ("finishing", "orphaned")
        return Standing(
            run=self._run_view(run, assessment),
            members=sum(lease.alive and lease.role != "side" for lease in leases),
            safe=self._all_delivered(leases) and self._filing.safe(run) and self._controls.settled(run),
            told=told,
            asked=self._controls.asked(run),
            relieved=relieved_launchers(leases),
            key_problem=self._key_problem(run),
            trouble=self.trouble(run),
            stuck=self._paces.trouble(run.key),
        )

    def delivered(self, run: Run) -> bool:
        """Whether all that the status waits for is delivered, of ended owners and workers and of the node.

        A superseded one may go on to write as long as its process lives; what it wrote so far counts. Files
        may be large, and storage is another service: they are waited for only for a while.
        """
        patient = self.files_by_ms(run) > self._context.now.wall_ms
        leases = self._book.leases_of(run.key)
        concerned = (lease for lease in leases if lease.role != "side" or is_node(lease))
        return all(
            self._passed(lease) or (not patient and self._delivery.only_files_left(lease))
            for lease in concerned
            if not lease.alive
        )

    def files_by_ms(self, run: Run) -> int:
        """Until when the status waits for files, in epoch milliseconds; for ever as long as there is none."""
        return FOR_EVER_MS if run.ended_ms is None else run.ended_ms + FILES_MS

    def trouble(self, run: Run) -> str:
        """Why something does not go on, "" if all is well."""
        if run.target.mode == "pluto" and run.target.key_id not in self._context.keys:
            return "no API key in memory; any process of the Run hands it over"
        leases = self._book.leases_of(run.key)
        held_up = next((t for t in map(self._delivery.trouble, leases) if t), "")
        return run.open_trouble or held_up or self._paces.trouble(run.key)

    def _key_problem(self, run: Run) -> str:
        """A server that is overloaded may refuse a key for a moment; that is nobody's business."""
        since, reason = self._context.key_problems.get(run.target.key_id, (0.0, ""))
        return reason if self._context.now.at >= since + KEY_PROBLEM_S else ""

    def _all_delivered(self, leases: tuple[Lease, ...]) -> bool:
        """What ended sides wrote as well: the last one out is the last chance for it too (R11)."""
        return all(self._passed(lease) for lease in leases if not lease.alive and lease.participant)

    def _passed(self, lease: Lease) -> bool:
        superseded = lease.end_reason == "superseded"
        return self._delivery.complete(lease) or (superseded and self._delivery.pending_bytes(lease) == 0)

    def _run_view(self, run: Run, assessment: Assessment) -> RunView:
        """A Run as its participants see it."""
        expected = assessment.expected
        decided = run.verdict or expected
        return RunView(
            key=run.key,
            external_id=run.external_id,
            project=run.project,
            name=run.name,
            mode=run.target.mode,
            status=run.status,
            phase=assessment.phase,
            id=run.id,
            display_id=run.display_id,
            url=run.url,
            epoch=run.epoch,
            resumed=run.resumed,
            tags=run.tags,
            rejected=run.rejected + sum(lease.rejected for lease in self._book.leases_of(run.key)),
            fork_run_id=run.fork_run_id,
            fork_step=run.fork_step,
            points=self._book.count_points(run.key),
            provisional=run.provisional,
            cancelled=run.cancelled,
            reason=decided.reason if decided is not None else "",
            expected=expected.status if expected is not None else None,
            owner=self._owner(run),
        )

    def _owner(self, run: Run) -> str:
        if run.relay:
            return "a process on another node"
        lease = self._book.leases.get(run.owner or "")
        if lease is None or not lease.alive:
            return ""
        return f"{lease.label!r}, pid {lease.identity.pid} on {lease.identity.host}"
