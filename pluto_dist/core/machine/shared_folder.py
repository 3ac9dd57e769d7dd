"""A Run's folder in the cluster store, as this node has it: its lease there, a copy, its changes.

`Memberships` are this node's leases, prolonged three times within their time. The loss of a lease is not the
loss of a seat: the node joins again, and goes on with all that no other node has taken meanwhile.

`Lookout` is a copy that is kept up to date. A list is the truth, a watch is a hint: for each part of the
folder that matters a list comes first, then watches that continue it, then, after a quiet while, a list
again. Either each part has a watch of its own, or one watch of the whole folder serves all parts.

`Writer` has one change in flight at a time, and an answer that is not certain is read back before the next
one.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from pluto_dist.core.machine.context import Context
from pluto_dist.core.rules.nodes import REQUEST_S, T, decoded
from pluto_dist.core.values.cluster import Presence
from pluto_dist.core.values.effects import (
    JoinCluster,
    LeaveCluster,
    ListCluster,
    RenewCluster,
    StoreItems,
    WatchCluster,
    WriteCluster,
)
from pluto_dist.core.values.engine import (
    ANY,
    Changed,
    ClusterAddress,
    Conflict,
    GuardFailed,
    Joined,
    LeaseLost,
    Listed,
    Refused,
    Reset,
    Unavailable,
    Versioned,
    Written,
)
from pluto_dist.core.values.events import ClusterJoined, ClusterListed, ClusterSeen, ClusterWritten

SEAT_QUIET_S = 15.0
QUIET_S = (
    120.0  # of the many nodes without the seat; a dead member ends their watches, so this is a last resort
)
AGAIN_S = 1.0
REFUSED_AGAIN_S = 15.0
KEEPS_TRYING_S = 3600.0  # a coordinator without processes stays so long for a store that is away, or an end
KEEP_S = 7 * 86_400  # what is known of an ended Run stays this long in the store, as its items on a node

_encode = msgspec.json.Encoder().encode


class _Part(msgspec.Struct):
    """One prefix: the list or watch under way, and when the next one may follow."""

    listing: bool = False
    watching: bool = False
    as_of: int = 0
    not_before: float = 0.0
    known: bool = False
    again: bool = False


class Lookout:
    """One Run's folder.

    Args:
        context: of the coordinator.
        run: key of the Run.
        address, folder: where the folder is; `folder` ends with a slash.
        one_watch: for many parts that come and go; what lies outside of them is not kept.

    Attributes:
        run, address, folder: the same.
        items: what is known, by full key.
        emptied: how often the engine was found to have been emptied since.
    """

    def __init__(
        self, context: Context, run: str, address: ClusterAddress, folder: str, *, one_watch: bool = False
    ) -> None:
        self._context = context
        self.run = run
        self.address = address
        self.folder = folder
        self._parts: dict[str, _Part] = {}
        self._wanted: set[str] = set()
        self._whole = _Part(again=True) if one_watch else None
        self.items: dict[str, Versioned] = {}
        self.emptied = 0

    def look(self, *names: str, quiet_s: float) -> None:
        """Keeps these parts up to date, and no others; `""` is the whole folder."""
        wanted = self._wanted = {self.folder + name for name in names}
        for prefix in [prefix for prefix in self._parts if prefix not in wanted]:
            if not (self._parts[prefix].listing or self._parts[prefix].watching):
                self._drop(prefix)
        for prefix in wanted:
            part = self._parts.setdefault(prefix, _Part())
            if part.listing or self._context.now.at < part.not_before:
                continue
            if part.known and not part.again:
                if self._whole is None:
                    self._watch(part, prefix, quiet_s)
            else:
                part.listing, part.again = True, False  # a watch that is under way may be blind
                self._context.emit(ListCluster(run=self.run, address=self.address, prefix=prefix))
        if self._whole is not None and wanted and all(part.known for part in self._looked_at()):
            if self._whole.again:  # from where the oldest of the lists ends
                as_of = min(part.as_of for part in self._looked_at())
                self._whole.again, self._whole.as_of = False, as_of
            self._watch(self._whole, self.folder, quiet_s)

    def _watch(self, part: _Part, prefix: str, quiet_s: float) -> None:
        if part.watching:
            return
        part.watching = True
        self._context.emit(
            WatchCluster(run=self.run, address=self.address, prefix=prefix, as_of=part.as_of, quiet_s=quiet_s)
        )

    def _drop(self, prefix: str) -> None:
        del self._parts[prefix]
        if self._whole is not None:
            for key in [key for key in self.items if key.startswith(prefix)]:
                del self.items[key]

    def again(self) -> None:
        """Has everything listed again at once, because a change may have been missed."""
        for part in self._looked_at():
            part.again, part.not_before = True, 0.0

    @property
    def behind(self) -> bool:
        """Whether a list is still to come, so that nothing may be decided yet."""
        return any(part.again or part.listing for part in self._looked_at())

    def knows(self, name: str) -> bool:
        """Whether this part of the folder has been listed."""
        key = self.folder + name
        return any(part.known and key.startswith(prefix) for prefix, part in self._parts.items())

    def listed(self, event: ClusterListed) -> tuple[str, ...] | str:
        """Takes a list; the keys that are new or changed, or why there is none."""
        part = self._parts.setdefault(event.prefix, _Part())
        part.listing = False
        match event.result:
            case Listed(items=items, as_of=as_of):
                fell, part.as_of, part.known = as_of < part.as_of, as_of, True
                if fell:  # another list of this node was told why
                    self._begin_anew()
                return self._replace(event.prefix, items, None if fell else as_of)
            case Reset():
                self._begin_anew()
                part.again = True
                gone = tuple(self.items)
                self.items.clear()
                return gone
            case Unavailable(reason=reason):
                part.not_before, part.again = self._context.now.at + AGAIN_S, True
            case Refused(reason=reason):
                part.not_before, part.again = self._context.now.at + REFUSED_AGAIN_S, True
            case _:
                assert_never(event.result)
        return reason

    def seen(self, event: ClusterSeen) -> tuple[str, ...]:
        """Takes what a watch saw; the keys that changed."""
        whole = self._whole if self._whole is not None and event.prefix == self.folder else None
        part = whole or self._parts.get(event.prefix)
        if part is None:
            return ()
        part.watching = False
        if not isinstance(event.result, Changed) or not event.result.items:
            part.again = True
            if whole is not None:
                self.again()
            return ()
        part.as_of = max(part.as_of, event.result.as_of)
        return tuple(
            key
            for key, found in event.result.items.items()
            if (whole is None or self._is_wanted(key)) and self._put(key, found)
        )

    def _begin_anew(self) -> None:
        self.emptied += 1
        if self._whole is not None:
            self._whole.again = True

    def _is_wanted(self, key: str) -> bool:
        return any(key.startswith(prefix) for prefix in self._wanted)

    def written(self, key: str, value: bytes | None, version: int) -> None:
        """Puts in a change of our own, before a watch reports it."""
        self._put(key, None if value is None else Versioned(value, version))

    def below(self, name: str) -> dict[str, Versioned]:
        """Values below a part, by the rest of their keys."""
        start = self.folder + name
        return {key[len(start) :]: found for key, found in self.items.items() if key.startswith(start)}

    def decoded(self, name: str, kind: type[T]) -> dict[str, T]:
        """The same, as documents; those that this version cannot read are left out."""
        read = {rest: decoded(found.value, kind) for rest, found in self.below(name).items()}
        return {rest: document for rest, document in read.items() if document is not None}

    def lasting(self) -> tuple[str, ...]:
        """All keys that are known and not under a node's lease."""
        return tuple(key for key in self.items if not key.startswith(self.folder + "node/"))

    def get(self, name: str) -> Versioned | None:
        """One value."""
        return self.items.get(self.folder + name)

    def deadline(self) -> float | None:
        """When a part may be looked at again."""
        waits = [part.not_before for part in self._parts.values() if not part.listing]
        return min((at for at in waits if at > self._context.now.at), default=None)

    def _looked_at(self) -> list[_Part]:
        """The parts that are wanted; the watch of another one may go on for minutes."""
        return [part for prefix, part in self._parts.items() if prefix in self._wanted]

    def _replace(self, prefix: str, items: dict[str, Versioned], as_of: int | None) -> tuple[str, ...]:
        """Takes a list; what is known to be newer, because it was written meanwhile, stays."""
        newer = {key for key, known in self.items.items() if as_of is not None and known.version > as_of}
        gone = [key for key in self.items if key.startswith(prefix) and key not in items and key not in newer]
        for key in gone:
            del self.items[key]
        changed = tuple(
            key for key, found in items.items() if self.items.get(key) != found and key not in newer
        )
        self.items.update({key: items[key] for key in changed})
        return (*gone, *changed)

    def _put(self, key: str, found: Versioned | None) -> bool:
        """Puts one value, unless a newer one is known: a watch may report what a list has shown already.

        A deletion has no version, so an old one may win until the next list.
        """
        known = self.items.get(key)
        if found is None:
            return self.items.pop(key, None) is not None
        if known is not None and known.version >= found.version:
            return False
        self.items[key] = found
        return True


class NodeLease(msgspec.Struct):
    """This node's lease at one store.

    Attributes:
        valid_until: None without one.
        serial: rises with each lease; keys written under an earlier one may be gone.
        answered_at: when the store answered last, None if it never did.
        away_since: since when it does not answer, None while it does.
        trouble: why.
    """

    valid_until: float | None = None
    serial: int = 0
    asked: bool = False
    next_at: float = 0.0
    answered_at: float | None = None
    away_since: float | None = None
    trouble: str = ""


class Memberships:
    """All leases of this node."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._leases: dict[ClusterAddress, NodeLease] = {}

    def of(self, address: ClusterAddress) -> NodeLease:
        """The lease at a store; from the first call on the node keeps one there."""
        if address not in self._leases:
            self._leases[address] = NodeLease(away_since=self._context.now.at)
        return self._leases[address]

    def advance(self) -> None:
        """Asks where it is time."""
        for address, lease in self._leases.items():
            if not lease.asked and self._context.now.at >= lease.next_at:
                lease.asked = True
                joins = lease.valid_until is None
                self._context.emit(JoinCluster(address=address) if joins else RenewCluster(address=address))

    def answered(self, event: ClusterJoined) -> bool:
        """Takes an answer; True if what is under the lease has to be written anew."""
        lease = self._leases.get(event.address)
        if lease is None:
            return False
        now = self._context.now.at
        lease.asked = False
        match event.result:
            case Joined(valid_until=valid_until):
                anew = lease.valid_until is None
                lease.serial += anew
                lease.valid_until = valid_until
                lease.next_at = now + event.address.ttl_s / 3
                self.reached(event.address)
                return anew
            case LeaseLost():
                lease.valid_until, lease.next_at = None, now
                self.reached(event.address)
            case Unavailable(reason=reason):
                lease.next_at = now + AGAIN_S
                self.silent(event.address, reason)
            case Refused(reason=reason):
                lease.next_at = now + REFUSED_AGAIN_S
                self.silent(event.address, reason)
            case _:
                assert_never(event.result)
        return False

    def is_well(self, address: ClusterAddress) -> bool:
        """Whether this node has a lease that lasts, from a store that answers."""
        lease = self._leases.get(address)
        if lease is None or lease.valid_until is None or lease.away_since is not None:
            return False
        return self._context.now.at < lease.valid_until - REQUEST_S

    def lost(self, address: ClusterAddress) -> None:
        """Notes that the store has no lease of this node any more, as a write under it has found."""
        lease = self.of(address)
        lease.valid_until, lease.next_at = None, self._context.now.at

    def reached(self, address: ClusterAddress) -> None:
        """Notes an answer of the store."""
        lease = self.of(address)
        lease.answered_at, lease.away_since, lease.trouble = self._context.now.at, None, ""

    def silent(self, address: ClusterAddress, reason: str) -> None:
        """Notes that the store has not answered, or has refused."""
        lease = self.of(address)
        lease.trouble = reason
        if lease.away_since is None:
            lease.away_since = self._context.now.at

    def keep_only(self, wanted: set[ClusterAddress]) -> None:
        """Gives leases back that no Run needs any more."""
        for address in [address for address in self._leases if address not in wanted]:
            if not self._leases[address].asked:
                if self._leases[address].valid_until is not None:
                    self._context.emit(LeaveCluster(address=address))
                del self._leases[address]

    def deadline(self) -> float | None:
        """When the next lease has to be renewed, or asked for again."""
        return min((lease.next_at for lease in self._leases.values() if not lease.asked), default=None)


class Writer:
    """This node's changes to a folder.

    Args:
        context: of the coordinator.
        lookout: the copy of the folder.
        memberships: this node's leases.
        node, generation: of this coordinator.

    Attributes:
        writing: the change in flight, None without one.
        token: number of the last change.
        not_before: when the next change may follow.
    """

    def __init__(
        self, context: Context, lookout: Lookout, memberships: Memberships, node: str, generation: int
    ) -> None:
        self._context = context
        self._lookout = lookout
        self._memberships = memberships
        self._node = node
        self._generation = generation
        self._present_under = 0
        self.writing: WriteCluster | StoreItems | None = None
        self.token = 0
        self.not_before = 0.0

    @property
    def lease(self) -> NodeLease:
        """This node's lease at the store."""
        return self._memberships.of(self._lookout.address)

    @property
    def presence(self) -> str:
        """The key that is there while this node is."""
        return f"{self._lookout.folder}node/{self._node}"

    @property
    def is_free(self) -> bool:
        """Whether a change may be written now, and what it follows from is known."""
        late = self._context.now.at >= self.not_before
        return self.writing is None and late and not self._lookout.behind

    def write(
        self,
        name: str,
        value: msgspec.Struct | None,
        *,
        expect: int,
        while_: tuple[str, int] | None = None,
        dead: str | None = None,
        leased: bool = False,
    ) -> bool:
        """Puts a value below the folder, or deletes it; always True."""
        self.token += 1
        change = WriteCluster(
            run=self._lookout.run,
            address=self._lookout.address,
            token=self.token,
            key=self._lookout.folder + name,
            value=_encode(value) if value is not None else None,
            expect=expect,
            while_=while_,
            dead=dead,
            leased=leased,
        )
        self.writing = change
        self._context.emit(change)
        return True

    def store(self, name: str, items: tuple[str, ...], *, node: str, origin: str, first: int) -> None:
        """Puts items of this node's database below the folder, under a key that is made once."""
        self.token += 1
        self.writing = StoreItems(
            run=self._lookout.run,
            address=self._lookout.address,
            token=self.token,
            key=self._lookout.folder + name,
            items=items,
            node=node,
            origin=origin,
            first=first,
        )
        self._context.emit(self.writing)

    def be_present(self) -> bool:
        """Writes this node's presence, once under each lease; whether it did so now."""
        if self._present_under == self.lease.serial:
            return False
        self._present_under = self.lease.serial
        presence = Presence(self._context.boot_id, self._generation)
        return self.write(f"node/{self._node}", presence, expect=ANY, leased=True)

    def notice_absence(self) -> None:
        """Finds that the store has ended this node's lease early, by its presence, which is gone."""
        under = self._present_under == self.lease.serial and self.lease.valid_until is not None
        written = self.writing is None or self.writing.key != self.presence
        known = self._lookout.knows(f"node/{self._node}")
        if under and written and known and self.presence not in self._lookout.items:
            self._memberships.lost(self._lookout.address)

    def written(self, event: ClusterWritten) -> WriteCluster | StoreItems | None:
        """Takes the answer to a change; the change, None for an answer to an earlier one."""
        asked = self.writing
        if asked is None or asked.token != event.token:
            return None
        self.writing = None
        address, result = self._lookout.address, event.result
        match result:
            case Unavailable(reason=reason) | Refused(reason=reason):
                pause_s = REFUSED_AGAIN_S if isinstance(result, Refused) else AGAIN_S
                self.not_before = self._context.now.at + pause_s
                self._memberships.silent(address, reason)
                self._lookout.again()
                if asked.key == self.presence:
                    self._present_under = 0
                return asked
            case Written(version=version):
                self._lookout.written(asked.key, event.value, version)
            case Conflict(current=Versioned(value=value, version=version)):
                self._lookout.written(asked.key, value, version)
            case Conflict():
                self._lookout.written(asked.key, None, 0)
            case GuardFailed():  # without a guard: there is no lease to write under
                if isinstance(asked, WriteCluster) and asked.leased:
                    self._memberships.lost(address)
            case _:
                assert_never(result)
        self._memberships.reached(address)
        return asked
