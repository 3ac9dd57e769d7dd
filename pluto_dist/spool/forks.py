"""The fork hook: calls every writer in a forked child, so that it begins a chain of its own.

The hook runs in every fork that Python code makes, `multiprocessing` and `pty` included, before the child's
own code. A comparison of pids in `append` would find forks made by C code too, and cost 0.15 µs a record.
"""

from __future__ import annotations

import functools
import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """An object that is called in each forked child."""

    def after_fork(self) -> None:
        """Called in the child, once per fork."""
        ...


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()


def watch(item: Forkable) -> None:
    """Calls `item.after_fork()` in each child that is forked while the item exists."""
    _watched.add(item)
    _register_hook()


@functools.cache
def _register_hook() -> None:
    """Registers the hook, once, and not at import."""
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _after_fork_in_child() -> None:
    for item in list(_watched):
        item.after_fork()
