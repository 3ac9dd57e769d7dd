"""Tags and config that several nodes change: what one of them has to tell, and what becomes of what it knows.

Nobody writes over anybody: a node appends its changes to the cluster store, and the seat folds them, in the
order of their numbers, into one state that all nodes read.
"""

from __future__ import annotations

import msgspec

from pluto_dist.core.rules.shared import merge_json, merge_tags
from pluto_dist.core.values.cluster import Change, SharedState
from pluto_dist.core.values.records import Run

LARGEST_CONFIG = 512 << 10  # bytes; a larger one stays with the server, and each node's own part of it here
NOTHING = b"{}"
NONE = b"null"


def pending(run: Run) -> Change | None:
    """What the others do not know of this node's changes; None if nothing."""
    known = run.pushed_tags or ()
    gone = tuple(tag for tag in known if tag not in run.tags)
    change = Change(
        added=tuple(tag for tag in run.tags if tag not in known),
        removed=tuple(dict.fromkeys((*gone, *run.untagged))),
        config=msgspec.Raw(run.config_patch or NOTHING),
    )
    return change if change != Change() else None


def without(run: Run, told: Change) -> dict[str, object]:
    """Fields of the Run once the others know of a change."""
    known = tuple(tag for tag in run.pushed_tags or () if tag not in told.removed)
    return {
        "pushed_tags": (*known, *(tag for tag in told.added if tag not in known)),
        "untagged": tuple(tag for tag in run.untagged if tag not in told.removed),
        "config_patch": b"" if run.config_patch in (b"", bytes(told.config)) else run.config_patch,
    }


def merged_tags(run: Run, state: SharedState) -> tuple[str, ...]:
    """The tags of all nodes, and what this one has changed since."""
    merged = merge_tags(state.tags, run.pushed_tags or (), run.tags, run.untagged)
    return state.tags if set(merged) == set(state.tags) else merged


def merged_config(run: Run, state: SharedState, own: bytes) -> bytes:
    """The config of all nodes, and what this one has changed since; `own` where the store has none."""
    return (
        own if bytes(state.config) == NONE else merge_json(bytes(state.config), run.config_patch or NOTHING)
    )


def state_of(run: Run, config: bytes) -> SharedState:
    """What the seat tells of the Run."""
    return SharedState(
        tags=run.tags,
        config=msgspec.Raw(config if len(config) <= LARGEST_CONFIG else NONE),
        folded=run.folded,
        base=run.pushed_tags,
        untagged=run.untagged,
        patch=msgspec.Raw(run.config_patch or NOTHING),
    )


def is_ahead(state: SharedState, run: Run) -> bool:
    """Whether another seat has folded what this node's Run does not have."""
    return any(number > run.folded.get(node, 0) for node, number in state.folded.items())
