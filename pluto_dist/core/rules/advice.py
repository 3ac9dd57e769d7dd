"""What to do about failures whose cause is known and lies outside of the training."""

from __future__ import annotations

from pluto_dist.core.values.lifecycle import Evidence

# The store that torchrun shares with its ranks outlives the attempt, and the addresses in it (torch 2.13).
RESTARTED_GLOO = (
    "after a restart gloo may look for its peers at the addresses of the attempt before: start torchrun with "
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, see docs/howto/torchrun.md"
)


def advice(evidence: Evidence, attempt: int) -> str:
    """One sentence for people, "" if nothing is known.

    Args:
        evidence: of a failure.
        attempt: in which it happened.
    """
    gloo = evidence.kind == "exception" and "connectfullmesh" in evidence.message.lower()
    return RESTARTED_GLOO if gloo and attempt > 0 else ""
