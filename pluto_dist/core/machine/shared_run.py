"""A Run of several nodes, as one of them takes part in it through the cluster store.

What this node writes is always a difference between what it knows and what is in the store. One change is in
flight at a time, and after an answer that is not certain the folder is read again. So a lost answer, a
restart of the coordinator or a store that was away only means that the difference is written later.

The order of writing is the order of `STEPS`: a node is present before it writes anything else, its evidence
is stored before the note that this was all, and a verdict is stored before the Run has ended on any node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

import msgspec

from pluto_dist.core.machine.changes import Changes
from pluto_dist.core.machine.context import Context
from pluto_dist.core.machine.other_nodes import OtherNodes, pause_s
from pluto_dist.core.machine.shared_folder import (
    KEEP_S,
    KEEPS_TRYING_S,
    QUIET_S,
    SEAT_QUIET_S,
    Lookout,
    Memberships,
    NodeLease,
    Writer,
)
from pluto_dist.core.rules.nodes import (
    ABANDONED_S,
    Follow,
    Hold,
    SeatView,
    Take,
    belongs,
    decoded,
    joint_verdict,
    judge,
    last_words,
    launch_of,
    may_act,
    of_round,
    plan,
    seat_in,
    start_of,
    succeeds,
)
from pluto_dist.core.rules.participants import node_name
from pluto_dist.core.rules.verdict import pieces_of
from pluto_dist.core.values.cluster import (
    Change,
    Judgement,
    MemberShown,
    NodeDocument,
    NodeEnd,
    NodeReport,
    Piece,
    RunDocument,
    Seat,
    SharedState,
    StoredVerdict,
    run_folder,
    topics_folder,
)
from pluto_dist.core.values.effects import ExpireCluster, Fence, WriteCluster
from pluto_dist.core.values.engine import (
    ABSENT,
    ANY,
    ClusterAddress,
    Conflict,
    GuardFailed,
    Refused,
    Unavailable,
    Versioned,
    Written,
)
from pluto_dist.core.values.events import ClusterListed, ClusterSeen, ClusterWritten
from pluto_dist.core.values.records import Lease, Run, Verdict

REFRESH_S = 60.0
LAST_RESORT_S = 15.0  # below the 20 s for which the last participant waits
HAND_OVER_S = 5.0  # other nodes wait 10 s for the end of this one


class SharedRun:
    """This node's part in one Run of several nodes.

    Args:
        context: of the coordinator.
        run: a Run with a cluster store.
        memberships: this node's leases.
        node, generation: of this coordinator.
    """

    def __init__(
        self, context: Context, run: Run, memberships: Memberships, node: str, generation: int
    ) -> None:
        assert run.cluster is not None  # noqa: S101 # asked for Runs of several nodes only
        self._context = context
        self._book = context.book
        self._key = run.key
        self._address: ClusterAddress = run.cluster
        self._folder = run_folder(run.cluster.prefix, run.project, run.external_id)
        self._topics = topics_folder(run.cluster.prefix, run.project, run.external_id)
        self._node = node
        self._generation = generation
        self._lookout = Lookout(context, run.key, run.cluster, self._folder)
        self._memberships = memberships
        self._writer = Writer(context, self._lookout, memberships, node, generation)
        self._others = OtherNodes(context, self._lookout, node)
        self._changes = Changes(context, node)
        self._epoch = run.epoch
        self._latest_seat = 0
        self._asked_at = context.now.at
        self._round = 0
        self._shown: NodeDocument | None = None
        self._read_under = 0
        self._reading_under = 0
        self._done: set[str] = set()
        self._over: tuple[int, float, NodeEnd] | None = None
        self._judgement = Judgement("")
        self._leaving = False
        self._next_at: list[float] = []

    # --- answers ------------------------------------------------------------------------------------------

    def listed(self, event: ClusterListed) -> None:
        """Takes the answer to a list."""
        emptied = self._lookout.emptied
        found = self._lookout.listed(event)
        if self._lookout.emptied > emptied:  # what this node has written is to be there again
            self._done, self._shown = set(), None
        if isinstance(found, str):
            self._memberships.silent(self._address, found)
            return
        self._memberships.reached(self._address)
        if self._reading_under and not self._lookout.behind:
            self._read_under, self._reading_under = self._reading_under, 0
        self._others.read(found, event.read_at)

    def seen(self, event: ClusterSeen) -> None:
        """Takes what a watch reports."""
        self._others.read(self._lookout.seen(event), event.read_at)

    def written(self, event: ClusterWritten) -> None:
        """Takes the answer to a change; an uncertain one is read back before anything else is written."""
        asked = self._writer.written(event)
        if not isinstance(asked, WriteCluster):
            return
        result = event.result
        match result:
            case Written():
                self._done.add(asked.key)
                self._appended(asked, as_it_is=True)
                if asked.key == self._writer.presence:
                    self._is_back()
                self._leave()
            case Conflict(current=current):
                found = current if isinstance(current, Versioned) else None
                self._appended(asked, as_it_is=found is not None and found.value == asked.value)
                if found is not None:
                    self._done.add(asked.key)  # a key that is made once is there, also by another node
                self._lookout.again()
            case GuardFailed():
                self._lookout.again()
            case Unavailable() | Refused():
                if (
                    asked.key == f"{self._folder}state/{self._node}"
                ):  # the rest is compared with what is read back
                    self._shown = None
            case _:
                assert_never(result)

    def _is_back(self) -> None:
        """Reads the folder again under another lease: the seat may have been taken meanwhile."""
        if self._read_under:
            self._reading_under = self.lease.serial
            self._lookout.again()
        else:
            self._read_under = self.lease.serial

    def _appended(self, asked: WriteCluster, *, as_it_is: bool) -> None:
        run = self._book.runs.get(self._key)
        if run is not None and asked.value is not None and asked.key.startswith(self._own_changes):
            self._changes.appended(run, as_it_is=as_it_is)

    # --- questions ----------------------------------------------------------------------------------------

    @property
    def document(self) -> RunDocument | None:
        """The run document; None if there is none, or it has not been read."""
        return self._others.document

    @property
    def _own_changes(self) -> str:
        return f"{self._folder}op/{self._node}/"

    @property
    def knows(self) -> bool:
        """Whether the run document was looked for in the store."""
        return self._lookout.knows("run")

    @property
    def mine(self) -> bool:
        """Whether the run document gives this coordinator the seat, be its lease valid or not."""
        document = self.document
        seat = document.seat if document is not None else None
        return seat is not None and (seat.node, seat.generation) == (self._node, self._generation)

    @property
    def round(self) -> int:
        """Number of the round that this node's members belong to, 0 while there is none."""
        return self._round

    @property
    def lease(self) -> NodeLease:
        """This node's lease at the store."""
        return self._writer.lease

    def owner_elsewhere(self) -> str:
        """Which other node has a live owner, for people; "" if none."""
        document = self.document
        if document is None or document.owner is None or document.ended is not None:
            return ""
        node = document.owner.node
        seat = document.seat.node if document.seat is not None else ""
        if self._node in (node, seat) or seat in self._others.gone_at:
            return ""
        name, host = document.nodes.get(node, ("another node", ""))
        return f"{name}{f' (host {host})' if host else ''}"

    def stored(self) -> StoredVerdict | None:
        """The verdict of the round that this node's members belong to."""
        document = self.document
        return self._verdict_in(document) if document is not None and document.round == self._round else None

    def _verdict_in(self, document: RunDocument) -> StoredVerdict | None:
        if document.ended is not None:
            return document.ended
        found = self._lookout.get(f"verdict/{document.round}")
        return decoded(found.value, StoredVerdict) if found is not None else None

    def sent(self) -> bool:
        """Whether the server has the verdict."""
        document = self.document
        return document is not None and document.ended is not None and document.sent

    def fence(self, run: Run) -> Fence | None:
        """The fence that a status of this Run has to carry now; None if it must not be sent."""
        document = self.document
        until = may_act(self._view(run, ()), self._context.now.at)
        if until is not None and document is not None:
            return Fence(document.epoch, until)
        if run.forced or self._last_resort_is_due():
            return Fence(document.epoch if document is not None else 0, None)
        return None

    def may_report(self, run: Run) -> bool:
        """Whether the status may be sent: once it is stored, unless the store is away or a person said it.

        A verdict that this node made alone, and could not send before the store was back, is stored first.
        """
        stored = run.forced or self.stored() is not None or self._last_resort_is_due()
        return stored and self.fence(run) is not None

    def last_resort(self, run: Run) -> Verdict | None:
        """The verdict of this node alone, if the store is away and the server would fail a silent Run."""
        if self._over is None or not self._last_resort_is_due():
            return None
        verdict = self._over[2].verdict
        if verdict is None:
            return None
        away_s = self._context.now.at - (self.lease.away_since or self._context.now.at)
        verdict = self._with_what_was_told(run, verdict)
        return msgspec.structs.replace(
            verdict,
            reason=f"{verdict.reason} (cluster store unreachable for {away_s:.0f} s: this node alone)",
        )

    def _with_what_was_told(self, run: Run, verdict: Verdict) -> Verdict:
        """The owner's node's verdict, by the evidence too that other nodes had stored before."""
        document = self.document
        if document is None or document.round != self._round or not self._lookout.knows("ev/"):
            return verdict
        assert self._over is not None  # noqa: S101 # asked for where the round is over on this node
        *others, own = self._reports(run, self._context.situation(run).members, document)
        end = self._over[2]
        own = msgspec.structs.replace(own, end=end, owner=True, owner_at=end.owner_at)
        return joint_verdict(own, (*others, own), ())

    def safe(self) -> bool:
        """Whether the store has all that the other nodes need, if everything on this node is killed now."""
        if self._over is None or self._end_key() in self._done or self.stored() is not None:
            return True
        document = self.document  # it may have been decided without this node, which came late
        return document is not None and document.ended is not None

    def gives_up(self) -> bool:
        """Whether a process that leaves need not wait any longer for a store that is away."""
        away_since = self.lease.away_since
        if self._over is None or away_since is None:
            return False
        return self._context.now.at >= max(self._over[1], away_since) + LAST_RESORT_S

    def expects_more(self, run: Run) -> bool:
        """Whether this coordinator has something to do for the Run although all processes here have ended."""
        since = self._over[1] if self._over is not None else self._asked_at
        if self._context.now.at > since + KEEPS_TRYING_S:
            return False
        ended_here = not run.ended and self._over is not None
        waits = run.target.mode == "local" and ended_here and self.stored() is None  # no monitor will end it
        return waits or not self.safe() or self.unsent() or self.is_at_it()

    def is_at_it(self) -> bool:
        """Whether this node's seat is about to make the verdict."""
        return self.mine and not self.sent() and bool(self._judgement.verdict or self._judgement.deadline)

    def unsent(self) -> bool:
        """Whether there is a verdict that the server does not have: any node that is left may send it."""
        return self.stored() is not None and not self.sent()

    def deadline(self) -> float | None:
        """When `advance` may have something to do if nothing happens."""
        now = self._context.now.at
        waits = [*self._next_at, self._writer.not_before]
        looks = self._lookout.deadline()
        waits += [looks] if looks is not None else []
        if self._over is not None and self.lease.away_since is not None:
            waits.append(max(self._over[1], self.lease.away_since) + LAST_RESORT_S)
        return min((at for at in waits if at > now), default=None)

    # --- what this node has to say ------------------------------------------------------------------------

    def over(self, run: Run, members: tuple[Lease, ...], verdict: Verdict | None, *, settled: bool) -> None:
        """Notes the end of the round on this node: all members have ended, or the owner's grace is over.

        Args:
            run, members: the Run and its members here.
            verdict: what follows from this node alone, on the owner's node; else None.
            settled: no evidence of other nodes changes it.
        """
        if self._over is not None and self._over[0] == run.epoch:
            return
        owner = next((member for member in members if member.lease_id == run.owner), None)
        prior = run.prior
        put_back = prior is not None and verdict is prior.verdict
        end = NodeEnd(
            pieces=0,
            written_at=self._context.now.at,
            owner=not run.relay,
            owner_at=owner.ended_at if owner is not None and owner.ended_at else self._context.now.at,
            finished=owner is not None and owner.end_reason == "finished",
            settled=settled or put_back or (owner is not None and owner.finish_code is not None),
            verdict=verdict if not run.relay else None,
            ended_ms=(prior.ended_ms or 0) if put_back and prior is not None else 0,
        )
        self._over = (run.epoch, self._context.now.at, end)

    def advance(self, run: Run, members: tuple[Lease, ...]) -> None:
        """Keeps the copy of the folder up to date, and writes the next thing that the store does not have."""
        self._next_at = []
        if run.epoch != self._epoch:
            if self._epoch:  # another start of the job
                self._asked_at = self._context.now.at
            self._epoch, self._over = run.epoch, None
        self._others.notice()
        self._writer.notice_absence()
        self._find_round(run)
        document = self.document
        self._latest_seat = max(self._latest_seat, document.epoch if document is not None else 0)
        if run.ended and run.reported and self.sent():
            return  # nothing is left to say or to learn
        if self.mine:
            self._lookout.look("", quiet_s=SEAT_QUIET_S)
        else:
            seat = document.seat if document is not None else None
            nodes = sorted({self._node, seat.node if seat is not None else self._node})
            self._lookout.look("run", "shared", *(f"node/{node}" for node in nodes), quiet_s=QUIET_S)
        run = self._share(run)
        self._judge(run, members)
        if not self._writer.is_free or not self.knows:
            return
        if self.lease.valid_until is None:
            return
        for step in STEPS:
            if step(self, run, members):
                return

    def _share(self, run: Run) -> Run:
        """Tags and config: folded by the seat, read by everybody else."""
        if run.opening or not self._lookout.knows("shared"):
            return run
        found = self._lookout.get("shared")
        state = decoded(found.value, SharedState) if found is not None else None
        self._changes.note_left_out(run, state)
        if self.mine and self._lookout.knows("op/"):
            self._changes.lead(run, state, self._appended_changes())
        elif state is not None and self.carries_changes() and not self._had_seat_last():
            self._changes.adopt(run, state)
        return self._book.runs[run.key]

    def _had_seat_last(self) -> bool:
        """Whether this node has the seat, or had it last: the server may know more of it than the store."""
        document = self.document
        return document is not None and document.seat is not None and document.seat.node == self._node

    def _appended_changes(self) -> dict[tuple[str, int], Change]:
        found = {}
        for name, change in self._lookout.decoded("op/", Change).items():
            node, _, number = name.partition("/")
            if number.isdigit():
                found[node, int(number)] = change
        return found

    def carries_changes(self) -> bool:
        """Whether a seat elsewhere folds what is changed here, so that this node does not tell the server.

        It does so also while this node does not see it: another one will have the seat.
        """
        document = self.document
        there = document is not None and document.seat is not None and not self.mine
        return there and not self.gives_up()

    def tells_changes(self, run: Run) -> bool:
        """Whether this node tells the server; a new seat does when it knows what the one before has told."""
        return not self.carries_changes() and (run.speaks or not self.mine or self.gives_up())

    def shares_changes(self, run: Run) -> bool:
        """Whether this node has the seat, and the store all that was changed here."""
        found = self._lookout.get("shared")
        state = decoded(found.value, SharedState) if found is not None else None
        return self.mine and run.speaks and state == self._changes.state(run)

    def owes_changes(self, run: Run) -> bool:
        """Whether the seat elsewhere does not know yet what was changed here."""
        reached = self.lease.away_since is None
        return self.carries_changes() and reached and not run.opening and self._changes.owes(run)

    def _be_present(self, _run: Run, _members: tuple[Lease, ...]) -> bool:
        return self._writer.be_present()

    def _take_seat(self, run: Run, members: tuple[Lease, ...]) -> bool:
        view = self._view(run, members)
        planned = plan(view, self._context.now.at)
        match planned:
            case Take(epoch=epoch, dead=dead):
                nonce = f"{self._node}-{self._generation}-{self._writer.token}"
                seat = Seat(self._node, self._generation, nonce, view.owns)
                document = self.document or RunDocument(epoch=0)
                if start_of(run):  # others begin a round only when they know who else is in it
                    document = self._of_round(run, document)
                document = msgspec.structs.replace(document, epoch=epoch, seat=seat)
                self._context.note(run.key, "seat_claimed", epoch=str(epoch), after=dead)
                return self._write_run(document, dead=f"{self._folder}node/{dead}" if dead else None)
            case Follow(until=until):
                self._next_at += [until] if until is not None else []
            case Hold():
                pass
            case _:
                assert_never(planned)
        return False

    def _store_pieces(self, run: Run, members: tuple[Lease, ...]) -> bool:
        """Writes each piece of evidence, once."""
        for piece in self._pieces(run, members) if self._round else ():
            name = f"ev/{self._round}/{self._node}/{piece.lease_id}-{piece.number}"
            if self._folder + name not in self._done:
                return self._writer.write(name, piece, expect=ABSENT)
        return False

    def _show_node(self, run: Run, members: tuple[Lease, ...]) -> bool:
        """Writes this node's document: when it has changed, each minute, and while clocks are measured."""
        now, shown = self._context.now.at, self._shown
        document = self._node_document(run, members)
        if shown is not None and _steady(document) == _steady(shown):
            measuring = self._others.clocks.answers(self.document, shown.heard, now)
            at = shown.written_at + (pause_s(self.document) if measuring else REFRESH_S)
            if now < at:
                self._next_at.append(at)
                return False
        self._shown = document
        return self._writer.write(f"state/{self._node}", document, expect=ANY)

    def _append_change(self, run: Run, _members: tuple[Lease, ...]) -> bool:
        """Appends what was changed here, for the seat to fold."""
        found = self._lookout.get("shared")
        if run.opening or not self.carries_changes() or not self._lookout.knows("shared"):
            return False
        state = decoded(found.value, SharedState) if found is not None else None
        change = self._changes.to_append(run, state)
        return change is not None and self._writer.write(
            f"op/{self._node}/{change[0]}", change[1], expect=ABSENT
        )

    def _show_shared(self, run: Run, members: tuple[Lease, ...]) -> bool:
        """Writes tags and config of all nodes when they have changed, and deletes what is in them."""
        document, found = self._lookout.get("run"), self._lookout.get("shared")
        seated = self.mine and run.speaks and document is not None
        if not seated or may_act(self._view(run, members), self._context.now.at) is None:
            return False
        state, there = self._changes.state(run), decoded(found.value, SharedState) if found else None
        alone = there is None and not run.folded and run.pushed_tags == run.tags and not run.config_patch
        alone = alone and run.target.mode == "pluto"  # else the other nodes learn tags and config from here
        if state != there and not alone:
            guard = (self._folder + "run", document.version) if document is not None else None
            expect = found.version if found is not None else ABSENT
            return self._writer.write("shared", state, expect=expect, while_=guard)
        for node, number in self._appended_changes():
            name = f"op/{node}/{number}"
            change = self._lookout.get(name)
            if change is not None and number <= run.folded.get(node, 0):
                return self._writer.write(name, None, expect=change.version)
        return False

    def _store_end(self, run: Run, members: tuple[Lease, ...]) -> bool:
        if self._over is None or not self._round or self._end_key() in self._done:
            return False
        if self._hands_over(run):
            return False
        pieces = len(self._pieces(run, members))
        end = msgspec.structs.replace(self._over[2], pieces=pieces)
        return self._writer.write(f"end/{self._round}/{self._node}", end, expect=ABSENT)

    def _hands_over(self, run: Run) -> bool:
        """Whether items that were published here still wait for their numbers: no loop is to end before."""
        waits = not run.opening and any(topic.waiting for topic in self._book.topics_of(run.key).values())
        until = (self._over[1] if self._over is not None else 0.0) + HAND_OVER_S
        if waits and self._context.now.at < until:
            self._next_at.append(until)
            return True
        return False

    def _store_verdict(self, run: Run, members: tuple[Lease, ...]) -> bool:
        """Writes the verdict of the round, once, while this coordinator has the seat and a safe lease."""
        document, found = self.document, self._lookout.get("run")
        if document is None or found is None or self._verdict_in(document) is not None:
            return False
        if run.forced and run.verdict is not None and self._round:  # whatever seat there is
            return self._write_verdict(run.verdict, run.ended_ms, document, guard=None)
        if not self.mine or document.round != self._round:
            return False
        verdict = run.verdict or self._judgement.verdict
        if (
            verdict is None
            or self._round == 0
            or may_act(self._view(run, members), self._context.now.at) is None
        ):
            return False
        ended_ms = run.ended_ms or (self._over[2].ended_ms if self._over is not None else 0)
        return self._write_verdict(verdict, ended_ms, document, guard=(self._folder + "run", found.version))

    def _write_verdict(
        self, verdict: Verdict, ended_ms: int | None, document: RunDocument, guard: tuple[str, int] | None
    ) -> bool:
        stored = self._stored(verdict, ended_ms, document)
        return self._writer.write(f"verdict/{document.round}", stored, expect=ABSENT, while_=guard)

    def _stored(self, verdict: Verdict, ended_ms: int | None, document: RunDocument) -> StoredVerdict:
        return StoredVerdict(
            verdict=verdict,
            ended_ms=ended_ms or self._context.now.wall_ms,
            epoch=document.epoch,
            node=self._node,
            nonce=f"{self._node}-{self._generation}-{self._writer.token}",
            presumed=verdict is self._judgement.verdict and self._judgement.presumed,
        )

    def _show_run(self, run: Run, _members: tuple[Lease, ...]) -> bool:
        """Writes the run document when it has changed; only the seat does."""
        document = self.document
        if document is None or not self.mine or not self._lookout.knows("state/"):
            return False
        wanted = self._of_round(run, document)
        if (latest := self._latest_epoch(run)) > document.epoch:  # the store is new, the Run is not
            wanted = msgspec.structs.replace(wanted, epoch=latest + 1)
        now = self._context.now.at
        if _quiet(wanted) == _quiet(document):
            if not self._others.measures(document):
                return False
            at = document.written_at + pause_s(self.document)
            if now < at:
                self._next_at.append(at)
                return False
        if wanted.sent and not document.sent:
            wanted = msgspec.structs.replace(wanted, seat=None)  # the next owner need not wait for this one
            self._leaving = True
        return self._write_run(wanted)

    def _leave(self) -> None:
        """Leaves a Run that has ended everywhere: has the engine delete its keys after a while."""
        if self._leaving:
            self._leaving = False
            keys = self._lookout.lasting()
            below = (f"{self._topics}item/", f"{self._topics}at/")
            self._context.emit(
                ExpireCluster(run=self._key, address=self._address, keys=keys, below=below, after_s=KEEP_S)
            )

    # --- documents ----------------------------------------------------------------------------------------

    def _of_round(self, run: Run, document: RunDocument) -> RunDocument:
        """The run document, brought up to date by what this coordinator knows as the seat."""
        shown = self._lookout.decoded("state/", NodeDocument)
        document = of_round(document, run, node=self._node, launch=self._launch(run), shown=shown)
        stored = self._verdict_in(document) if document.round == self._round or self.mine else None
        return msgspec.structs.replace(
            document,
            project=run.project,
            key=document.key or self._key_of(run),
            name=document.name or run.name,
            created_ms=document.created_ms or run.created_ms,
            id=run.id if run.id is not None else document.id,
            display_id=run.display_id or document.display_id,
            url=run.url or document.url,
            ended=self._cancelled(run, document) or document.ended or stored,
            sent=document.sent or (document.ended is not None and run.ended and run.reported),
        )

    def _cancelled(self, run: Run, document: RunDocument) -> StoredVerdict | None:
        """The cancel that the server had before it was told the verdict of this round; else None."""
        verdict, ended = run.verdict, document.ended
        if not run.cancelled or verdict is None or document.round != self._round:
            return None
        if verdict.status != "CANCELLED" or (ended is not None and ended.verdict.status == "CANCELLED"):
            return None
        return self._stored(verdict, run.ended_ms, document)

    def _key_of(self, run: Run) -> str:
        """The key by which parts of the Run know each other, once this node has made it; else ""."""
        made = run.id is not None and not run.opening and (run.part_of or not run.relay)
        return (run.part_of or run.key) if made else ""

    def _write_run(self, document: RunDocument, dead: str | None = None) -> bool:
        found = self._lookout.get("run")
        document = msgspec.structs.replace(
            document,
            written_at=self._context.now.at,
            measuring=self._others.measures(document),
        )
        expect = found.version if found is not None else ABSENT
        return self._writer.write("run", document, expect=expect, dead=dead)

    def _node_document(self, run: Run, members: tuple[Lease, ...]) -> NodeDocument:
        now = self._context.now
        leases = members or tuple(lease for lease in self._book.leases_of(run.key) if lease.alive)
        job = leases[0].opened.job if leases else None
        return NodeDocument(
            node=self._node,
            name=self._name(run),
            host=leases[0].identity.host if leases else "",
            boot_id=self._context.boot_id,
            generation=self._generation,
            written_at=now.at,
            wall_ms=now.wall_ms,
            owner=not run.relay and run.owner is not None,
            start=start_of(run),
            rank=job.node_rank if job is not None else 0,
            round=self._round,
            launch=self._launch(run),
            attempt=run.attempt,
            members=tuple(self._shown_member(lease) for lease in leases),
            heard=self._others.clocks.heard,
        )

    def _shown_member(self, lease: Lease) -> MemberShown:
        cursors = (self._book.cursors[key] for key in self._book.cursor_keys(lease.lease_id))
        step = max((cursor.next_step for cursor in cursors), default=0) - 1
        return MemberShown(
            lease_id=lease.lease_id,
            role=lease.role,
            label=lease.label,
            rank=lease.rank,
            pid=lease.identity.pid,
            alive=lease.alive,
            step=max(step, 0),
            since_ms=lease.granted_ms or 0,
        )

    def _pieces(self, run: Run, members: tuple[Lease, ...]) -> list[Piece]:
        return pieces_of(members, self._name(run))

    def _name(self, run: Run) -> str:
        if run.relay:
            return run.relay
        leases = self._book.leases_of(run.key)
        owner = self._book.leases.get(run.owner or run.opener)
        several = owner is not None and owner.opened.job.nodes > 1
        return node_name(owner.opened) if owner is not None and (several or leases) else ""

    # --- the round ----------------------------------------------------------------------------------------

    def _launch(self, run: Run) -> str:
        return launch_of(run, self._book.leases_of(run.key))

    def _find_round(self, run: Run) -> None:
        """The round that the members here belong to; 0 while theirs has not begun."""
        document = self.document
        if document is None:
            return
        number = document.round if self._belongs(run, document) else 0
        if number == self._round:
            return
        self._round = number
        self._done = {
            key for key in self._done if not key.startswith((self._folder + "ev/", self._folder + "end/"))
        }

    def _belongs(self, run: Run, document: RunDocument) -> bool:
        members, launch = self._context.situation(run).members, self._launch(run)
        return belongs(document, run, members, node=self._node, launch=launch, known=self._round)

    def _judge(self, run: Run, members: tuple[Lease, ...]) -> None:
        """A seat whose members have begun anew does not judge the round before: theirs is about to come."""
        document = self.document
        at_work = document is not None and self.mine and document.ended is None
        if document is None or not at_work or document.round != self._round or not self._lookout.knows("ev/"):
            self._judgement = Judgement("")
            return
        monitored = run.target.mode == "pluto"
        reports = self._reports(run, members, document)
        self._judgement = judge(reports, self._context.now.at, monitored=monitored)
        again = (self._judgement.deadline, self._judgement.later)
        self._next_at += [at for at in again if at is not None]

    def _reports(self, run: Run, members: tuple[Lease, ...], document: RunDocument) -> tuple[NodeReport, ...]:
        owner = document.owner.node if document.owner is not None else ""
        return (*self._others.reports(document), self._own_report(run, members, owner))

    def _own_report(self, run: Run, members: tuple[Lease, ...], owner: str) -> NodeReport:
        """The report of this node itself, about which nothing is uncertain."""
        ended = self._over[2] if self._over is not None and self._end_key() in self._done else None
        shown = tuple(self._shown_member(member) for member in members)
        return NodeReport(
            node=self._node,
            name=self._name(run),
            host=members[0].identity.host if members else "",
            attempt=run.attempt,
            owner=owner == self._node,
            pieces=tuple(self._pieces(run, members)),
            end=ended,
            owner_at=ended.owner_at if ended is not None else 0.0,
            last_words=last_words(shown),
            open_members=sum(member.alive for member in members),
        )

    # --- small things ---------------------------------------------------------------------------------------

    def _view(self, run: Run, members: tuple[Lease, ...]) -> SeatView:
        document = self.document
        seat = document.seat.node if document is not None and document.seat is not None else ""
        replaced_at = self._others.replaced_at
        members = members or self._context.situation(run).members
        alive = any(member.alive for member in members)
        failed = document is not None and document.ended is None and bool(self._pieces(run, members))
        launch = self._launch(run)
        later = document is not None and succeeds(document, run, node=self._node, launch=launch)
        owns = not run.relay and (run.opening or run.owner is not None) and not (run.ended and self.sent())
        job = members[0].opened.job if members else None
        return SeatView(
            document=document,
            node=self._node,
            generation=self._generation,
            valid_until=self.lease.valid_until if self._read_under == self.lease.serial else None,
            present=seat not in self._others.gone_at,
            replaced=replaced_at is not None,
            gone_at=replaced_at if replaced_at is not None else self._others.gone_at.get(seat),
            owns=owns,
            succeeds=later,
            opens=owns and run.opening and run.want != "join",
            stands=alive or failed or self.unsent() or self._outlasts(run, members),
            rank=job.node_rank if job is not None else 0,
            asked_at=self._asked_at,
            latest=self._latest_epoch(run),
        )

    def _latest_epoch(self, run: Run) -> int:
        """The highest known epoch of a seat: in the store, also before it was emptied, or at the server."""
        config = self._book.configs.get(run.key)
        return max(self._latest_seat, seat_in(config.body) if config is not None else 0)

    def _outlasts(self, run: Run, members: tuple[Lease, ...]) -> bool:
        """Whether this node ended so long ago that it looks what became of the others, without a server."""
        document = self.document
        if run.target.mode != "local" or run.ended or document is None or document.ended is not None:
            return False
        ended_ms = max((member.ended_ms or 0 for member in members), default=0)
        return 0 < ended_ms <= self._context.now.wall_ms - ABANDONED_S * 1000

    def _last_resort_is_due(self) -> bool:
        """Whether this node may end the Run alone: the store is away, the seat its own or not known."""
        if self._address.strict or self._over is None or not self._over[2].owner:
            return False
        return (self.document is None or self.mine) and self.gives_up()

    def _end_key(self) -> str:
        return f"{self._folder}end/{self._round}/{self._node}"


STEPS: tuple[Callable[[SharedRun, Run, tuple[Lease, ...]], bool], ...] = (
    SharedRun._be_present,
    SharedRun._take_seat,
    SharedRun._store_pieces,
    SharedRun._show_node,
    SharedRun._append_change,
    SharedRun._show_shared,
    SharedRun._store_end,
    SharedRun._store_verdict,
    SharedRun._show_run,
)


def _steady(document: NodeDocument) -> NodeDocument:
    """The document without times, to see whether it has changed."""
    members = tuple(msgspec.structs.replace(member, step=0) for member in document.members)
    return msgspec.structs.replace(document, written_at=0.0, wall_ms=0, heard=None, members=members)


def _quiet(document: RunDocument) -> RunDocument:
    return msgspec.structs.replace(document, written_at=0.0, measuring=False)
