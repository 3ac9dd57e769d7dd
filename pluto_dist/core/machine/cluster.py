"""Runs of several nodes with a cluster store: the door through which all other parts reach them.

Every question has an answer for a Run of one node too, the one that changes nothing, so that no caller has to
ask which kind it is. `SharedRun` holds what is known of one Run, `SharedTopics` what its processes hand over
to each other, `Memberships` this node's leases.
"""

from __future__ import annotations

from typing import assert_never

from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.shared_folder import Memberships
from pluto_dist.core.machine.shared_run import SharedRun
from pluto_dist.core.machine.shared_topics import SUFFIX, Given, Loop, SharedTopics
from pluto_dist.core.values.cluster import RunDocument, StoredVerdict
from pluto_dist.core.values.effects import Fence
from pluto_dist.core.values.events import ClusterJoined, ClusterListed, ClusterSeen, ClusterWritten
from pluto_dist.core.values.records import Lease, Run, Verdict

AWAY_S = 5.0  # a store that does not answer for so long is reported


class Clusters:
    """All Runs with a cluster store.

    Args:
        context: of the coordinator.
        node: id of this node, "" where there is none: then no Run has a cluster store.
        generation: of this coordinator.
    """

    def __init__(self, context: Context, node: str, generation: int) -> None:
        self._context = context
        self._book = context.book
        self._node = node
        self._generation = generation
        self._memberships = Memberships(context)
        self._runs: dict[str, SharedRun] = {}
        self._topics: dict[str, SharedTopics] = {}

    def joined(self, event: ClusterJoined) -> None:
        """The store answered a request for a lease; that one goes on as it was is no news to any Run."""
        went_on = self._memberships.is_well(event.address)
        self._memberships.answered(event)
        if went_on and self._memberships.is_well(event.address):
            return
        for run in self._book.runs:
            if event.address in (run.cluster, run.topics_at):
                self._context.touch(run.key)

    def told(self, event: ClusterListed | ClusterSeen | ClusterWritten) -> None:
        """The store answered something about a Run, or about its topics."""
        shared: SharedTopics | SharedRun | None = self._runs.get(event.run)
        if event.run.endswith(SUFFIX):
            shared = self._topics.get(event.run.removesuffix(SUFFIX))
        if shared is None:
            return
        match event:
            case ClusterListed():
                shared.listed(event)
            case ClusterSeen():
                shared.seen(event)
            case ClusterWritten():
                shared.written(event)
            case _:
                assert_never(event)
        self._context.touch(event.run.removesuffix(SUFFIX))

    def tick(self) -> None:
        """Renews leases where it is time, and gives back those that no Run needs."""
        runs = (self._book.runs.get(key) for key in self._runs)
        wanted = {run.cluster for run in runs if run is not None and run.cluster is not None}
        wanted |= {topics.address for topics in self._topics.values() if topics.is_active}
        self._memberships.keep_only(wanted)
        for key, topics in self._topics.items():
            if topics.is_due():
                self._context.touch(key)
        self._memberships.advance()

    def of(self, run: Run) -> SharedRun | None:
        """The Run's place in the store, None for a Run of one node."""
        if run.cluster is None or not self._node:
            self._runs.pop(run.key, None)  # it may have had one, and go on without
            return None
        if run.key not in self._runs:
            self._runs[run.key] = SharedRun(
                self._context, run, self._memberships, self._node, self._generation
            )
        return self._runs[run.key]

    def hands_over(self, run: Run) -> bool:
        """Whether what is published in this Run goes to other nodes too."""
        return run.topics_at is not None and bool(self._node)

    @property
    def with_hand_over(self) -> tuple[str, ...]:
        """Runs whose hand-over with other nodes was begun, also where nobody here asks any more."""
        return tuple(key for key in self._topics if key in self._book.runs)

    def topics_of(self, run: Run) -> SharedTopics | None:
        """The hand-over of the Run with other nodes; None for one of one node, and before it was opened."""
        if run.key not in self._topics and self.hands_over(run) and not run.opening:
            self._topics[run.key] = SharedTopics(
                self._context, run, self._memberships, self._node, self._generation
            )
        return self._topics.get(run.key)

    def advance_topics(
        self, topics: SharedTopics, run: Run, loops: tuple[Loop, ...], followed: frozenset[str]
    ) -> list[Given]:
        """See `SharedTopics.advance`; a lease that it needs is asked for at once."""
        given = topics.advance(run, loops, followed)
        self._memberships.advance()
        return given

    def advance(self, run: Run, members: tuple[Lease, ...]) -> None:
        """Writes what the other nodes do not know yet."""
        shared = self.of(run)
        if shared is not None:
            shared.advance(run, members)
            self._memberships.advance()

    def stored(self, run: Run) -> StoredVerdict | None:
        """The verdict of all nodes, None while there is none."""
        shared = self.of(run)
        return shared.stored() if shared is not None else None

    def may_open(self, run: Run) -> bool:
        """Whether the server may be asked to create or reopen the Run: by the seat alone.

        A store that has not answered within the time in which `init()` waits is not waited for any longer:
        then the node with the owner opens the Run, as without a store.
        """
        shared = self.of(run)
        if shared is None or run.want == "join":
            return True
        if shared.mine and shared.fence(run) is not None:
            return True
        away_since = shared.lease.away_since
        return away_since is not None and run.provisional

    def look(self, run: Run) -> None:
        """Has the Run's folder in the store read, before anything else of the Run is known."""
        self.advance(run, self._context.situation(run).members)  # the same as when the Run is settled

    def owner_elsewhere(self, run: Run) -> str:
        """Which other node has a live owner of this Run, "" if none is known."""
        shared = self.of(run)
        return shared.owner_elsewhere() if shared is not None else ""

    def unknown(self, run: Run) -> bool:
        """Whether the Run's folder in the store has not been read yet."""
        shared = self.of(run)
        return shared is not None and not shared.knows and not run.provisional

    def fence(self, run: Run) -> Fence | None:
        """The fence of this Run's status; None for a Run of one node, and where no status may be sent."""
        shared = self.of(run)
        return shared.fence(run) if shared is not None else None

    def may_report(self, run: Run) -> bool:
        """Whether this coordinator may send the Run's status now."""
        shared = self.of(run)
        return shared is None or shared.may_report(run)

    def last_resort(self, run: Run) -> Verdict | None:
        """The verdict of this node alone, where the store has been away for too long."""
        shared = self.of(run)
        return shared.last_resort(run) if shared is not None and shared.stored() is None else None

    def sent(self, run: Run) -> bool:
        """Whether another node has reported the Run's end."""
        shared = self.of(run)
        return shared is not None and shared.sent()

    def safe(self, run: Run) -> bool:
        """Whether the store has all that the other nodes need of this one, or need not be waited for."""
        topics, shared = self._topics.get(run.key), self.of(run)
        if topics is not None and not topics.safe():
            return False
        return shared is None or (shared.safe() and not shared.owes_changes(run)) or shared.gives_up()

    def tells_changes(self, run: Run) -> bool:
        """Whether this node tells the server what is changed here, and not the seat of another one (G9)."""
        shared = self.of(run)
        return shared is None or shared.tells_changes(run)

    def shares_changes(self, run: Run) -> bool:
        """Whether the cluster store has what was changed here, where there is no server to tell."""
        shared = self.of(run)
        return shared is None or shared.shares_changes(run)

    def identity(self, run: Run) -> RunDocument | None:
        """The Run as the node that made it has put it into the store; None if that has not been read."""
        shared = self.of(run)
        document = shared.document if shared is not None else None
        return document if document is not None and document.key and document.id is not None else None

    def is_away(self, run: Run) -> bool:
        """Whether the store does not answer."""
        shared = self.of(run)
        return shared is not None and shared.lease.away_since is not None

    def is_awaited(self, run: Run) -> bool:
        """Whether a process that leaves waits for what this coordinator still has to do."""
        shared = self.of(run)
        if shared is None or shared.gives_up():
            return False
        return shared.is_at_it() or not shared.safe()

    def expects_more(self, run: Run) -> bool:
        """Whether this node has something to do for the Run although all its processes have ended."""
        topics, shared = self._topics.get(run.key), self.of(run)
        return (topics is not None and topics.owes()) or (shared is not None and shared.expects_more(run))

    def trouble(self, run: Run) -> str:
        """Trouble with the store, for people; "" if all is well."""
        topics = self._topics.get(run.key)
        shared = self.of(run) or (topics if topics is not None and topics.is_active else None)
        if shared is None or shared.lease.away_since is None:
            return ""
        away_s = self._context.now.at - shared.lease.away_since
        if away_s < AWAY_S:
            return ""
        minutes = int(away_s / 60)  # seconds would be news for every process each second
        return f"cluster store not reached for {minutes or 'less than 1'} min: {shared.lease.trouble}"

    def run_deadline(self, run: str) -> float | None:
        """When `advance` may have something to do for this Run."""
        shared = self._runs.get(run)
        return shared.deadline() if shared is not None else None

    def deadline(self) -> float | None:
        """When a lease has to be renewed, or asked for again, or hand-over goes on."""
        waits = [self._memberships.deadline(), *(topics.due_at for topics in self._topics.values())]
        return min((at for at in waits if at is not None), default=None)

    def forget(self, run: str) -> None:
        self._runs.pop(run, None)
        self._topics.pop(run, None)
