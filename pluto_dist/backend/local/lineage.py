"""Which Run a fork continues, by the server's rule.

While the parent is itself a fork and the step lies in what it inherited, the parent's parent is meant.
"""

from __future__ import annotations

from collections.abc import Callable

from pluto_dist.core.document import Document
from pluto_dist.core.ids import RunRef

MAX_HOPS = 10  # as on the server


class LineageError(ValueError):
    """Parent or step do not fit."""


def resolve(find: Callable[[RunRef], Document | None], ref: RunRef, step: int) -> Document:
    """The Run that owns `step` in the line of `ref`.

    Raises:
        LineageError: the parent is unknown, or has not reached the step.
    """
    parent = find(ref)
    if parent is None:
        raise LineageError(f"fork_run_id {ref}: there is no such Run in this project")
    for _ in range(MAX_HOPS):
        if parent.fork is None or parent.fork.step is None or step > parent.fork.step:
            break
        ancestor = find(RunRef(id=parent.fork.run_id))
        if ancestor is None:
            break
        parent = ancestor
    reached = max((point.step for point in parent.summary.values()), default=0)
    if reached and step > reached:
        raise LineageError(
            f"fork_step {step} is beyond the last step of {parent.display_id}, which is {reached}"
        )
    return parent
