"""What may come of a claim, and what a decision rests on: values only. The decisions are in `claims.py`."""

from __future__ import annotations

import msgspec

from pluto_dist.core.ids import Role
from pluto_dist.core.phase import Phase
from pluto_dist.core.records import Lease, Run
from pluto_dist.core.requests import Want


class Create(msgspec.Struct, frozen=True):
    """There is no such Run here; ask the backend."""

    want: Want


class Grant(msgspec.Struct, frozen=True):
    """A role in an existing Run; an owner of one that has ended takes it up again.

    Attributes:
        relay: the Run's owner is on another node, so this node is a relay for it.
        anew: the job starts once more in the same Run: what the former start said counts no more.
    """

    role: Role
    reason: str
    relay: bool = False
    anew: bool = False


class Wait(msgspec.Struct, frozen=True):
    """Not decided yet; `until` is when to ask again at the latest."""

    reason: str
    until: float | None = None


class Verify(msgspec.Struct, frozen=True):
    """Look at the owner's process, then ask again."""

    lease_id: str


class Refuse(msgspec.Struct, frozen=True):
    """Never, as asked. `error` names a class of `pluto_dist.errors`."""

    error: str
    message: str


Decision = Create | Grant | Wait | Verify | Refuse


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision rests on.

    Attributes:
        run: the Run that the claim means, None if this coordinator knows none.
        phase: its phase now.
        owner: its owner's lease, if it has one that is alive.
        parent: lease of the process that started the claim's process, if the claim joins that one's Run.
        predecessor: lease of another process that has had the claim's rank in this start of the job.
        members: live owner and workers.
        ended: owner and workers of this start that have ended.
        waiting_ranks: ranks of the same job and attempt that wait for a role, the claim's own included.
        live_runs: for a claim without an id: display names of all live Runs.
        verified: the owner was looked at for this claim and lives.
        reporting: the backend is being told just now how the Run ended.
        asked_at: when the first of those that wait with this claim asked.
    """

    run: Run | None
    phase: Phase = "opening"
    owner: Lease | None = None
    parent: Lease | None = None
    predecessor: Lease | None = None
    members: tuple[Lease, ...] = ()
    ended: tuple[Lease, ...] = ()
    waiting_ranks: tuple[int, ...] = ()
    live_runs: tuple[str, ...] = ()
    verified: bool = False
    reporting: bool = False
    asked_at: float = 0.0
