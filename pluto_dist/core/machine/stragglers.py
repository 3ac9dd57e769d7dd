"""Stragglers: ranks that have stopped writing, or stayed behind, while others go on or wait for them.

`stragglers_of` decides, from when each member last wrote a record and how far it got. A rank of a synchronous
job that hangs stops all the others at their next collective: so it is the one with the lowest step when all
are silent, and the silent one when others are not. Not seen are ranks that log nothing, a hang in which all
have the same step, and jobs whose ranks count steps each in its own way.

Nothing is ended because of it: one event and one line in `ps` name the ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pluto_dist.core.machine.context import Context
from pluto_dist.core.values.events import StreamsSeen
from pluto_dist.core.values.records import Lease, Run

REGULAR = 3  # who has written less often has no progress yet
PATIENCE = 3.0  # a rank may pause so much longer than it ever did
LOOKS = 20  # so often within the threshold
APART_S = 1.0  # streams are looked at twice a second, so nearer instants are one

_QUIET = ("lifecycle", "console")  # a hanging rank may go on to print


class Progress(msgspec.Struct, frozen=True):
    """The pace at which a member writes.

    Attributes:
        moves: how often something new of it was seen.
        at, at_ms: when last, CLOCK_BOOTTIME seconds and epoch milliseconds.
        longest_s: its longest pause so far.
        ends: newest segment of each stream, and how many bytes of it were seen.
        step: its highest step that is delivered, -1 if there is none.
    """

    moves: int = 0
    at: float = 0.0
    at_ms: int = 0
    longest_s: float = 0.0
    ends: dict[str, tuple[int, int]] = {}
    step: int = -1


def stragglers_of(progresses: Sequence[Progress], now: float, threshold_s: float) -> tuple[int, ...]:
    """Indices of the members that are stuck; none if no other has gone on or is ahead."""
    regular = [index for index, progress in enumerate(progresses) if progress.moves >= REGULAR]
    silent = [index for index in regular if _is_silent(progresses[index], now, threshold_s)]
    if len(regular) < 2 or not silent:
        return ()
    if len(silent) < len(regular):
        last = max(progresses[index].at for index in regular)
        return tuple(index for index in silent if progresses[index].at + APART_S < last)
    ahead = max(progresses[index].step for index in silent)
    return tuple(index for index in silent if progresses[index].step < ahead)


def _is_silent(progress: Progress, now: float, threshold_s: float) -> bool:
    return now - progress.at >= max(threshold_s, PATIENCE * progress.longest_s)


class Stragglers:
    """Progress of all leases, and which were reported; in memory only: another coordinator watches anew."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._book = context.book
        self._progress: dict[str, Progress] = {}
        self._reported: dict[str, tuple[str, ...]] = {}
        self._look_at: dict[str, float] = {}

    def seen(self, event: StreamsSeen) -> None:
        """Takes the sizes of a lease's streams."""
        ends = {
            stream: max(sizes.items())
            for stream, sizes in event.sizes.items()
            if sizes and stream.partition(".")[0] not in _QUIET
        }
        progress, now = self._progress.get(event.lease_id) or Progress(), self._context.now
        # Not the sum of sizes: it falls when delivered segments are given back.
        if all(end <= progress.ends.get(stream, (0, 0)) for stream, end in ends.items()):
            return
        pause = now.at - progress.at if progress.moves else 0.0
        self._progress[event.lease_id] = Progress(
            progress.moves + 1, now.at, now.wall_ms, max(progress.longest_s, pause), progress.ends | ends
        )
        lease = self._book.leases.get(event.lease_id)
        if lease is not None and lease.run is not None:
            self._look_at.setdefault(lease.run, now.at)

    def logged_ms(self, lease_id: str) -> int | None:
        """When something new of a lease was last seen, epoch milliseconds."""
        progress = self._progress.get(lease_id)
        return progress.at_ms if progress is not None else None

    def look(self) -> None:
        """Checks the Runs that are due; notes one event when other ranks are stuck than before."""
        now = self._context.now.at
        for key in [key for key, at in self._look_at.items() if at <= now]:
            run = self._book.runs.get(key)
            members = self._members(run) if run is not None and not run.ended else ()
            if run is None or len(members) < 2:
                del self._look_at[key]
            else:
                self._look_at[key] = now + _threshold(members) / LOOKS
                self._report(run, members)

    def deadline(self) -> float | None:
        """When a Run has to be checked."""
        return min(self._look_at.values(), default=None)

    def trouble(self, run: str) -> str:
        """The stuck ranks, for people; "" for none."""
        names = self._reported.get(run, ())
        return f"stuck, while others went on or wait for it: {', '.join(names)}" if names else ""

    def forget(self, run: str) -> None:
        self._reported.pop(run, None)
        self._look_at.pop(run, None)
        for lease in self._book.leases_of(run):
            self._progress.pop(lease.lease_id, None)

    def _members(self, run: Run) -> tuple[Lease, ...]:
        members = self._context.situation(run).members
        return tuple(member for member in members if member.alive and member.lease_id in self._progress)

    def _report(self, run: Run, members: Sequence[Lease]) -> None:
        progresses = [self._progress_of(member) for member in members]
        now = self._context.now.at
        found = stragglers_of(progresses, now, _threshold(members))
        names = tuple(members[index].label for index in found)
        if names == self._reported.get(run.key, ()):
            return
        self._reported[run.key] = names
        self._context.touch(run.key)
        if names:
            self._context.note(
                run.key,
                "ranks_stuck",
                ranks=", ".join(names),
                steps=", ".join(str(progresses[index].step) for index in found),
                others_at=str(max(progress.step for progress in progresses)),
                silent_s=f"{now - min(progresses[index].at for index in found):.0f}",
            )
        else:
            self._context.note(run.key, "ranks_go_on")

    def _progress_of(self, lease: Lease) -> Progress:
        cursors = [self._book.cursors[key] for key in self._book.cursor_keys(lease.lease_id)]
        step = max((cursor.next_step for cursor in cursors), default=0) - 1
        return msgspec.structs.replace(self._progress[lease.lease_id], step=step)


def _threshold(members: Sequence[Lease]) -> float:
    return min(member.opened.stuck_after_s for member in members)
