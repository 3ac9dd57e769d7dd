"""When the node is sampled, for which Runs, and what its samples are not."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from pluto_dist.core.machine.coordinator import Coordinator
from pluto_dist.core.rules.participants import NODE, node_label
from pluto_dist.core.values import effects as do
from pluto_dist.core.values import events as on
from pluto_dist.core.values.backend import Delivered, RunOpened
from pluto_dist.core.values.book import Book
from pluto_dist.core.values.document import Document, read
from pluto_dist.core.values.ids import Identity, Job
from pluto_dist.core.values.lifecycle import Claim, Closed, Finished, LifecycleEntry, Target
from pluto_dist.core.values.messages import PROTOCOL
from pluto_dist.core.values.records import Lease, Now

EVERY_S = 10.0


class Node:
    """A coordinator whose backend always says yes; what it does is kept."""

    def __init__(self, book: Book | None = None) -> None:
        self.book = book or Book()
        self.core = Coordinator(self.book, boot_id="boot", generation=1)
        self.at = 100.0
        self.effects: list[do.Effect] = []
        self.documents: dict[str, bytes] = {}
        self.blind = False
        self._entries: dict[str, int] = {}
        self.take(self.core.start(self.now))

    @property
    def now(self) -> Now:
        return Now(self.at, 1_700_000_000_000 + int(self.at * 1000))

    def tell(self, event: on.Event) -> None:
        self.take(self.core.handle(event, self.now))

    def take(self, effects: Iterable[do.Effect]) -> None:
        for effect in effects:
            self.effects.append(effect)
            match effect:
                case do.OpenRun(run=run, request=request):
                    number = len(self.book.runs.all_keys())
                    opened = RunOpened(
                        id=number, display_id=f"P-{number}", project=request.project, url="", resumed=False
                    )
                    self.tell(on.OpenEnded(run=run, result=opened))
                case do.WriteDocument(run=run, revision=revision, body=body):
                    self.documents[run] = body
                    self.tell(on.DocumentWritten(run=run, revision=revision))
                case do.PollMembers(run=run):
                    self.tell(on.MembersPolled(run=run))
                case do.LookAtStreams(lease_id=lease_id, final=final) if not self.blind:
                    self.tell(on.StreamsSeen(lease_id=lease_id, sizes={}, final=final))

    def open(self, number: int, *, every_s: float = EVERY_S, job: Job | None = None) -> None:
        """A process calls init()."""
        identity = Identity("boot", 1, 1000 + number, 5, f"nonce{number}", host="gpu-01.cluster")
        opened = Claim(
            at=self.at,
            wall_ms=self.now.wall_ms,
            protocol=PROTOCOL,
            verb="init",
            identity=identity,
            job=job or Job(key="job"),
            target=Target(mode="local", store="/store"),
            project="p",
            generated_id=f"run-{number}",
            system_metrics_s=every_s,
        )
        self.say(number, opened)

    def say(self, number: int, entry: LifecycleEntry) -> None:
        """A process writes an entry."""
        lease_id = f"{number:024x}"
        self._entries[lease_id] = self._entries.get(lease_id, 0) + 1
        entries = ((self._entries[lease_id], entry),)
        folder = f"/spool/leases/{lease_id}"
        self.tell(on.LifecycleRead(lease_id=lease_id, folder=folder, entries=entries))

    def finish(self, number: int) -> None:
        self.say(number, Finished(at=self.at, wall_ms=self.now.wall_ms, code=0))

    def run_until(self, at: float) -> list[do.NodeFeed]:
        """Lets time pass; returns what was sampled."""
        before = len(self.effects)
        while (deadline := self.core.deadline()) is not None and deadline <= at:
            self.at = max(self.at, deadline)
            self.tell(on.Ticked())
        self.at = at
        samples = [each for each in self.effects[before:] if isinstance(each, do.SampleNode)]
        return [feed for sample in samples for feed in sample.feeds]

    def node_leases(self) -> list[Lease]:
        return [lease for lease in self.book.leases if lease.participant == NODE]

    @property
    def document(self) -> Document:
        (body,) = self.documents.values()
        return read(body)


def test_the_node_is_sampled_each_interval_while_somebody_lives() -> None:
    node = Node()
    node.open(1)
    assert node.run_until(109.0) == []
    assert len(node.run_until(135.0)) == 3
    assert {feed.lease_id for feed in node.run_until(155.0)} == {
        lease.lease_id for lease in node.node_leases()
    }


def test_nothing_is_sampled_where_nobody_asked() -> None:
    node = Node()
    node.open(1, every_s=0.0)
    assert node.run_until(1000.0) == []


def test_ranks_of_one_run_share_one_stream() -> None:
    """G10: once per node."""
    node = Node()
    for rank in range(3):
        node.open(rank + 1, job=Job(key="job", rank=rank, world_size=3))
    assert len(node.run_until(111.0)) == 1


def test_runs_that_are_due_together_share_one_sample() -> None:
    node = Node()
    node.open(1, job=Job(key="one"))
    node.open(2, job=Job(key="two"))
    node.run_until(111.0)
    (sample,) = [each for each in node.effects if isinstance(each, do.SampleNode)]
    assert len(sample.feeds) == 2


def test_the_shortest_interval_of_the_run_counts_and_is_never_below_a_second() -> None:
    node = Node()
    node.open(1, every_s=0.01)
    assert len(node.run_until(105.5)) == 5


def test_the_end_of_the_run_ends_its_samples_and_gives_the_folder_back() -> None:
    node = Node()
    node.open(1)
    node.run_until(111.0)
    node.finish(1)
    assert node.run_until(200.0) == []
    (lease,) = node.node_leases()
    assert do.EndSampling(lease_id=lease.lease_id) in node.effects
    assert do.RemoveLease(lease_id=lease.lease_id, folder=lease.folder) in node.effects
    assert lease.removed


def test_a_new_stream_knows_the_former_one_that_is_not_delivered() -> None:
    """G6, G10: the Run is taken up again before the node's records of the first time are through."""
    node = Node()
    node.open(1)
    node.run_until(111.0)
    node.blind = True  # so that nobody can say that all is delivered
    node.finish(1)
    node.open(2, job=Job(key="job", attempt=1))
    (feed,) = node.run_until(121.5)
    former, later = node.node_leases()
    assert (feed.lease_id, feed.earlier) == (later.lease_id, (former.folder,))


def test_samples_keep_no_run_alive_and_stop_while_nobody_is_there() -> None:
    """G7: a coordinator whose job is dead never keeps the Run alive."""
    node = Node()
    node.open(1)
    node.run_until(111.0)
    node.say(1, Closed(at=node.at, wall_ms=node.now.wall_ms))
    assert node.run_until(200.0) == []
    node.run_until(100.0 + 4000.0)
    assert node.document.status == "TERMINATED"


def test_the_node_is_no_process_and_has_no_say() -> None:
    node = Node()
    node.open(1)
    node.run_until(121.0)
    shown = {lease.participant: lease for lease in node.document.leases}
    assert (shown[NODE].state, shown[NODE].pid, shown[NODE].role) == ("ended", 0, "side")
    assert not any(isinstance(each, do.WatchProcess) and each.identity.pid == 0 for each in node.effects)
    node.finish(1)
    assert node.document.status == "COMPLETED"


def test_what_nobody_logged_is_no_point_of_the_run() -> None:
    node = Node()
    node.open(1)
    node.run_until(111.0)
    (lease,) = node.node_leases()
    node.tell(on.StreamsSeen(lease_id=lease.lease_id, sizes={"metrics": {1: 100}}))
    node.tell(
        on.NamesFound(
            target="run", lease_id=lease.lease_id, stream="metrics", names={"sys/memory.used": "METRIC"}
        )
    )
    node.run_until(115.0)
    node.tell(
        on.Shipped(
            target="run",
            lease_id=lease.lease_id,
            stream="metrics",
            segment=1,
            start=0,
            end=100,
            lines=1,
            skipped=0,
            outcome=Delivered(),
            summary={"sys/memory.used": on.PointSummary(5.0, 0, 1)},
            max_step=0,
        )
    )
    node.run_until(131.0)
    assert (node.document.points, node.document.summary) == (0, {})
    assert [each for each in node.effects if isinstance(each, do.SampleNode)][-1].feeds[0].first_step == 1


def test_the_next_coordinator_goes_on_in_the_same_stream() -> None:
    """G12."""
    node = Node()
    node.open(1)
    node.run_until(111.0)
    (lease,) = node.node_leases()
    kept = Book()
    for table in node.book.tables.values():
        for key in table.all_keys():
            kept.load(table.name, key, table[key])
    later = Node(kept)
    assert {feed.lease_id for feed in later.run_until(121.0)} == {lease.lease_id}
    assert not any(isinstance(each, do.WatchProcess) and each.identity.pid == 0 for each in later.effects)
    later._entries = dict(node._entries)
    later.finish(1)
    assert later.node_leases()[0].removed


def member(rank: int | None, *, world: int | None = None, node_rank: int = 0, nodes: int = 1) -> Lease:
    node = Node()
    node.open(1, job=Job(key="job", rank=rank, world_size=world, node_rank=node_rank, nodes=nodes))
    (lease,) = [lease for lease in node.book.leases if lease.identity.pid]
    return msgspec.structs.replace(lease, state="active")


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ([member(None)], ""),
        ([member(0, world=2), member(1, world=2)], ""),
        ([member(0, world=2)], ""),
        ([member(0, world=2, nodes=2)], "node0"),
        ([member(None), member(1, world=2, node_rank=1, nodes=2)], "node1"),
    ],
)
def test_the_node_stands_in_the_names_where_the_job_has_several(members: list[Lease], label: str) -> None:
    """G10, R12: hosts may change when a job is requeued, and containers may all have one name."""
    assert node_label(members) == label
