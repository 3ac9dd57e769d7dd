"""Records as the pure decisions get them, with defaults that do not matter to the test."""

from __future__ import annotations

from typing import Any

import msgspec

from pluto_dist.core.values.ids import Identity, Job
from pluto_dist.core.values.lifecycle import Claim, Evidence
from pluto_dist.core.values.messages import PROTOCOL
from pluto_dist.core.values.records import Lease, Run
from tests.core.processes import PLUTO

LAUNCHER = Identity("boot-1", 1, 900, 9000, "launcher", "host")


def identity(pid: int) -> Identity:
    """A process by its pid."""
    return Identity("boot-1", 1, pid, pid * 10, f"n{pid}", "host")


def job(rank: int | None = None, **fields: Any) -> Job:
    """A rank of the launch `job`, or a process of its own."""
    launcher = LAUNCHER if rank is not None else None
    return Job(**{"key": "job", "rank": rank, "launcher": launcher, **fields})


def claim(rank: int | None = None, **fields: Any) -> Claim:
    """What a process asks for; `init()` without an id if nothing else is said."""
    given: dict[str, Any] = {
        "at": 0.0,
        "wall_ms": 0,
        "protocol": PROTOCOL,
        "verb": "init",
        "identity": identity(100 + (rank or 0)),
        "job": job(rank),
        "target": PLUTO,
        "project": "demo",
        "generated_id": "generated",
    }
    return Claim(**{**given, **fields})


def run(**fields: Any) -> Run:
    """An open Run with one owner grant behind it."""
    given: dict[str, Any] = {
        "key": "run",
        "target": PLUTO,
        "project": "demo",
        "name": "run",
        "external_id": "x",
        "job_key": "job",
        "created_ms": 0,
        "boot_id": "boot-1",
        "id": 1,
        "display_id": "DEM-1",
        "opening": False,
        "owner": "owner",
        "epoch": 1,
    }
    return Run(**{**given, **fields})


def member(rank: int | None = 0, **fields: Any) -> Lease:
    """The owner if its rank is 0 or None, else a worker; alive unless `ended` says when it ended."""
    owns = fields.pop("owns", rank in (None, 0))
    given: dict[str, Any] = {
        "lease_id": "owner" if owns else f"rank{rank}",
        "folder": "/spool",
        "opened": fields.pop("opened", claim(rank)),
        "state": "active",
        "run": "run",
        "role": "owner" if owns else "worker",
        "label": f"rank{rank}" if rank is not None else "owner",
        "participant": "owner" if owns else f"rank{rank}",
        "epoch": 1,
    }
    return Lease(**{**given, **fields})


def ended(lease: Lease, at: float, reason: str, *evidence: Evidence, **fields: Any) -> Lease:
    """The lease after its end."""
    return msgspec.structs.replace(
        lease, state="ended", ended_at=at, ended_ms=0, end_reason=reason, evidence=evidence, **fields
    )


def raised(at: float, what: str = "ValueError", *, communication: bool = False) -> Evidence:
    """An uncaught exception."""
    return Evidence(
        at=at, wall_ms=0, kind="exception", type=what, message="boom", communication=communication
    )


def signalled(at: float, name: str = "SIGTERM") -> Evidence:
    """A signal that was handled and told."""
    return Evidence(at=at, wall_ms=0, kind="signal", signal=name)


def exited(at: float, code: int) -> Evidence:
    """`sys.exit(code)`."""
    return Evidence(at=at, wall_ms=0, kind="exit", exit_code=code)


def killed(
    at: float, name: str = "SIGKILL", *, alive_until: float | None = None, oom: bool = False
) -> Evidence:
    """A death that the coordinator noticed at `at`."""
    until = at if alive_until is None else alive_until
    return Evidence(at=at, wall_ms=0, kind="signal", signal=name, alive_until=until, oom=oom)


def vanished(at: float, *, alive_until: float) -> Evidence:
    """A death of which nobody knows how."""
    return Evidence(at=at, wall_ms=0, kind="vanished", alive_until=alive_until)
