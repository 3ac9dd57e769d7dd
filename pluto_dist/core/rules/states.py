"""The stages of a Run that are on disk, and the moves between them that are legal.

Three questions are asked of every Run. Has the backend answered? That is its `Opening`. Has it an end, and
does the backend know? That is its `Ending`. Both follow from fields of its record, which several parts of the
machine write, so every change of a record is compared with the tables here before it is kept. The third, what
its processes do, is the phase: it follows from the leases alone (`rules/verdict.py`), is never stored, and
has a table only because people want to see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pluto_dist.core.rules.verdict import Phase
from pluto_dist.core.values.records import Run

Opening = Literal["asked", "provisional", "open"]
Ending = Literal["none", "decided", "sent", "reported"]

OPENING: Mapping[tuple[Opening, Opening], str] = {
    ("asked", "open"): "the backend has answered",
    ("asked", "provisional"): "`open_wait_s` has passed without an answer",
    ("provisional", "open"): "the backend has answered",
    ("open", "asked"): "a new owner takes it up",
}

ENDING: Mapping[tuple[Ending, Ending], str] = {
    ("none", "decided"): "the evidence is complete",
    ("none", "reported"): "cancelled on the server, or an end of before is put back",
    ("decided", "sent"): "everything is delivered",
    ("decided", "reported"): "the store has it, or the server had it before",
    ("decided", "none"): "a new owner takes it up",
    ("sent", "reported"): "the server has it",
    ("sent", "none"): "a new owner takes it up",
    ("reported", "sent"): "a person says otherwise; the server has had an end already",
    ("reported", "decided"): "a person says otherwise of what is in the store only",
    ("reported", "none"): "a new owner takes it up",
}

# What a new owner takes back: the fields of an end as they are where there is none.
NO_END: Mapping[str, object] = {
    "status": "RUNNING",
    "verdict": None,
    "cancelled": False,
    "forced": False,
    "telling": False,
    "reported": False,
    "ended_ms": None,
    "found_ms": 0,
    "server_status": None,
}

# One event may bring several facts, and then stages in between are passed unseen.
PHASES: Mapping[tuple[Phase, Phase], str] = {
    ("opening", "running"): "an owner is granted",
    ("running", "finishing"): "the owner ended",
    ("running", "detached"): "the owner closed",
    ("running", "orphaned"): "the owner died without a word",
    ("running", "restarting"): "a member failed, the launcher has restarts left",
    ("orphaned", "running"): "a new owner",
    ("orphaned", "finishing"): "2 s passed",
    ("detached", "running"): "a new owner",
    ("detached", "finishing"): "an hour passed",
    ("restarting", "running"): "a new attempt",
    ("restarting", "finishing"): "the launcher is gone, or 120 s passed",
    ("finishing", "restarting"): "an exit code says that a member failed",
    ("finishing", "running"): "a new owner",
    ("finishing", "ended"): "the verdict is certain",
    ("running", "ended"): "cancelled on the server, or a person ended it",
    ("ended", "opening"): "a new owner takes it up",
}


def opening_of(run: Run) -> Opening:
    """Whether the backend has answered."""
    if not run.opening:
        return "open"
    return "provisional" if run.provisional else "asked"


def ending_of(run: Run) -> Ending:
    """Whether it has an end, and where that is known."""
    if run.verdict is None:
        return "none"
    if run.reported:
        return "reported"
    return "sent" if run.telling else "decided"


def reaches(before: Phase, after: Phase) -> bool:
    """Whether one event may bring a Run from one phase to another; an end, and a new beginning, show."""
    seen, ahead = {before}, [before]
    while ahead:
        here = ahead.pop()
        following = {phase for start, phase in PHASES if start == here} - seen
        if after in following:
            return True
        seen |= following
        ahead += [phase for phase in following if phase != "ended"]
    return False


def illegal(before: Run, after: Run) -> str:
    """Why a record must not become another one, "" if it may.

    A verdict that was made is frozen (R10), unless a person or a cancel says otherwise, or a node made it
    alone and the store has another one of all nodes, with the number of its round (R12).
    """
    opening = (opening_of(before), opening_of(after))
    ending = (ending_of(before), ending_of(after))
    if opening[0] != opening[1] and opening not in OPENING:
        return f"its opening would go from {opening[0]} to {opening[1]}"
    if ending[0] != ending[1] and ending not in ENDING:
        return f"its ending would go from {ending[0]} to {ending[1]}"
    frozen = before.verdict is not None and after.verdict not in (None, before.verdict)
    if frozen and not (after.cancelled or after.forced or after.round != before.round):
        return f"its verdict would go from {before.status} to {after.status}"
    return ""
