"""Records of an earlier boot: their instants keep their order and lie before this boot."""

from __future__ import annotations

import msgspec

from pluto_dist.core.records import Lease, Run

LONG_S = 1e9


def rebased_run(run: Run, boot_id: str) -> Run:
    """A Run as a coordinator of another boot finds it."""
    return msgspec.structs.replace(
        run,
        boot_id=boot_id,
        launcher_gone_at=_shift(run.launcher_gone_at),
        open_since=run.open_since - LONG_S,
    )


def rebased_lease(lease: Lease) -> Lease:
    """A lease as a coordinator of another boot finds it."""
    evidence = tuple(
        msgspec.structs.replace(item, at=item.at - LONG_S, alive_until=_shift(item.alive_until))
        for item in lease.evidence
    )
    return msgspec.structs.replace(
        lease,
        asked_at=lease.asked_at - LONG_S,
        granted_at=_shift(lease.granted_at),
        ended_at=_shift(lease.ended_at),
        evidence=evidence,
    )


def _shift(at: float | None) -> float | None:
    return at - LONG_S if at is not None else None
