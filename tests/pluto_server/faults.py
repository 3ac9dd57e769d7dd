"""Faults on demand: which requests they hit, how often, and what happens to them.

latency         wait before the request is handled: `seconds`, or until the fault is removed
status          answer `status` (with `retry_after`); when="after" only once the request was committed
reset           reset the connection, before the request is handled or after it was committed
cut             reset the connection when half of the request's body has been read
truncate        commit, answer with a Content-Length larger than what is sent, close
database_error  the ingest service's wrapped 422 `DatabaseError`, nothing committed
expired_url     object storage says that the presigned URL is out of date
"""

import random
import threading
from dataclasses import asdict, dataclass, field
from typing import Any

KINDS = ("latency", "status", "reset", "cut", "truncate", "database_error", "expired_url")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: for a service's requests whose path starts with `route`, so often or with a probability."""

    kind: str
    service: str | None = None
    route: str = ""
    method: str | None = None
    skip: int = 0
    count: int | None = None
    probability: float = 1.0
    when: str = "before"
    status: int = 503
    retry_after: float | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault {self.kind!r}; use one of {', '.join(KINDS)}")
        if self.when not in ("before", "after"):
            raise ValueError(f"when={self.when!r}; use 'before' or 'after' (the commit)")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability {self.probability} is not between 0 and 1")

    def aims_at(self, service: str, method: str, path: str) -> bool:
        """Whether a request is among those this fault may hit."""
        return (
            self.service in (None, service)
            and self.method in (None, method)
            and path.startswith(self.route)
            and (self.kind != "database_error" or path.startswith("/ingest/"))
            and (self.kind != "expired_url" or service == "storage")
        )


@dataclass(slots=True)
class _Armed:
    id: int
    fault: Fault
    seen: int = 0
    hits: int = 0


@dataclass(slots=True)
class FaultPlan:
    """The armed faults and the dice. The same seed and order of requests give the same hits."""

    seed: int = 0
    _armed: list[_Armed] = field(default_factory=list)
    _dice: random.Random = field(default_factory=random.Random)
    _next_id: int = 1
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._dice.seed(self.seed)

    def reseed(self, seed: int) -> None:
        """Start the dice anew."""
        with self._lock:
            self.seed = seed
            self._dice.seed(seed)

    def add(self, fault: Fault) -> int:
        """Arm a fault; its id."""
        with self._lock:
            fault_id, self._next_id = self._next_id, self._next_id + 1
            self._armed.append(_Armed(fault_id, fault))
            return fault_id

    def remove(self, fault_id: int | None = None) -> None:
        """Disarm one fault, or all."""
        with self._lock:
            self._armed = [a for a in self._armed if fault_id not in (None, a.id)]

    def holds(self, fault: Fault) -> bool:
        """Whether a fault that has hit a request is still armed."""
        with self._lock:
            return any(armed.fault is fault for armed in self._armed)

    def hits(self) -> list[dict[str, Any]]:
        """The armed faults with how often each has hit."""
        with self._lock:
            return [{"id": armed.id, "hits": armed.hits, **asdict(armed.fault)} for armed in self._armed]

    def strike(self, service: str, method: str, path: str) -> list[Fault]:
        """The faults that hit this request, in the order they were armed; only one of them ends it."""
        with self._lock:
            struck: list[Fault] = []
            for armed in self._armed:
                ends = armed.fault.kind != "latency"
                if ends and any(fault.kind != "latency" for fault in struck):
                    continue
                if armed.fault.aims_at(service, method, path) and self._hits(armed):
                    struck.append(armed.fault)
            return struck

    def _hits(self, armed: _Armed) -> bool:
        armed.seen += 1
        if armed.seen <= armed.fault.skip or armed.hits == armed.fault.count:
            return False
        if armed.fault.probability < 1 and self._dice.random() >= armed.fault.probability:
            return False
        armed.hits += 1
        return True
