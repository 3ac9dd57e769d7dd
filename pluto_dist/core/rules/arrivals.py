"""Which files of a watched folder are complete: closed, or renamed into place.

A file that a process has open for writing is not. Where the filesystem does not say who has (another host
may, on a network filesystem), a file is complete when it has not changed for a while.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import msgspec

SETTLE_S = 5.0  # without a change, where nobody can say whether a file is open


class Look(msgspec.Struct, frozen=True):
    """A file as it is now.

    Attributes:
        state: changes with its content: size, time, inode.
        written: whether a process has it open for writing; None where that cannot be known.
    """

    state: Hashable
    written: bool | None


class _Known(msgspec.Struct):
    state: Hashable
    since: float
    taken: bool = False


class Arrivals:
    """One watched folder.

    Args:
        taken: states of files that were taken before, by path.
    """

    def __init__(self, taken: Mapping[str, Hashable] | None = None) -> None:
        self._known = {path: _Known(state, 0.0, taken=True) for path, state in (taken or {}).items()}

    def look(self, found: Mapping[str, Look], now: float, *, last: bool = False) -> list[str]:
        """Files that are complete and were not taken yet, by path; they count as taken from now on.

        Args:
            found: all files that are there.
            now: seconds of a clock that does not jump.
            last: nothing will come any more, so that only a file that is open is still waited for.
        """
        for path in self._known.keys() - found.keys():
            del self._known[path]
        complete = []
        for path, look in sorted(found.items()):
            known = self._known.get(path)
            if known is None or known.state != look.state:  # new, or written once more
                known = self._known[path] = _Known(look.state, now)
            if not known.taken and _is_complete(look, now - known.since, last=last):
                known.taken = True
                complete.append(path)
        return complete

    def wants(self, path: str, state: Hashable) -> bool:
        """Whether this state of a file was not taken yet, so that it matters who has the file open."""
        known = self._known.get(path)
        return known is None or not known.taken or known.state != state

    def waits(self) -> bool:
        """Whether a file is there that is not complete."""
        return any(not known.taken for known in self._known.values())


def _is_complete(look: Look, unchanged_s: float, *, last: bool) -> bool:
    if look.written is None:
        return unchanged_s >= SETTLE_S
    # One more look: between two writes of one file some programs close it for a moment.
    return not look.written and (last or unchanged_s > 0)
