"""Lookout: a copy of a Run's folder in the cluster store, kept up to date.

A list is the truth, a watch is a hint: for each part of the folder that matters a list comes first, then
watches that continue it, then, after a quiet while, a list again. Either each part has a watch of its own, or
one watch of the whole folder serves all parts.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from pluto_dist.core.machine.context import Context
from pluto_dist.core.rules.reports import T, decoded
from pluto_dist.core.values.effects import ListCluster, WatchCluster
from pluto_dist.core.values.engine import (
    Changed,
    ClusterAddress,
    Listed,
    Refused,
    Reset,
    Unavailable,
    Versioned,
)
from pluto_dist.core.values.events import ClusterListed, ClusterSeen

SEAT_QUIET_S = 15.0
QUIET_S = (
    120.0  # of the many nodes without the seat; a dead member ends their watches, so this is a last resort
)
AGAIN_S = 1.0
REFUSED_AGAIN_S = 15.0


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
        items: what is known, by full key.
    """

    def __init__(
        self, context: Context, run: str, address: ClusterAddress, folder: str, *, one_watch: bool = False
    ) -> None:
        self._context = context
        self._run = run
        self._address = address
        self._folder = folder
        self._parts: dict[str, _Part] = {}
        self._wanted: set[str] = set()
        self._whole = _Part(again=True) if one_watch else None
        self.items: dict[str, Versioned] = {}

    def look(self, *names: str, quiet_s: float) -> None:
        """Keeps these parts up to date, and no others; `""` is the whole folder."""
        wanted = self._wanted = {self._folder + name for name in names}
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
                self._context.emit(ListCluster(run=self._run, address=self._address, prefix=prefix))
        if self._whole is not None and wanted and all(part.known for part in self._looked_at()):
            if self._whole.again:  # from where the oldest of the lists ends
                as_of = min(part.as_of for part in self._looked_at())
                self._whole.again, self._whole.as_of = False, as_of
            self._watch(self._whole, self._folder, quiet_s)

    def _watch(self, part: _Part, prefix: str, quiet_s: float) -> None:
        if part.watching:
            return
        part.watching = True
        self._context.emit(
            WatchCluster(
                run=self._run, address=self._address, prefix=prefix, as_of=part.as_of, quiet_s=quiet_s
            )
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
        key = self._folder + name
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
        whole = self._whole if self._whole is not None and event.prefix == self._folder else None
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
        if self._whole is not None:
            self._whole.again = True

    def _is_wanted(self, key: str) -> bool:
        return any(key.startswith(prefix) for prefix in self._wanted)

    def written(self, key: str, value: bytes | None, version: int) -> None:
        """Puts in a change of our own, before a watch reports it."""
        self._put(key, None if value is None else Versioned(value, version))

    def below(self, name: str) -> dict[str, Versioned]:
        """Values below a part, by the rest of their keys."""
        start = self._folder + name
        return {key[len(start) :]: found for key, found in self.items.items() if key.startswith(start)}

    def decoded(self, name: str, kind: type[T]) -> dict[str, T]:
        """The same, as documents; those that this version cannot read are left out."""
        read = {rest: decoded(found.value, kind) for rest, found in self.below(name).items()}
        return {rest: document for rest, document in read.items() if document is not None}

    def lasting(self) -> tuple[str, ...]:
        """All keys that are known and not under a node's lease."""
        return tuple(key for key in self.items if not key.startswith(self._folder + "node/"))

    def get(self, name: str) -> Versioned | None:
        """One value."""
        return self.items.get(self._folder + name)

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
