"""Stores for tests of `sync`: Runs as a coordinator would have left them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from pluto_dist.backend.local.store import Mark, Marks, Store
from pluto_dist.core.values.backend import Backend, Status
from pluto_dist.core.values.document import LeaseShown
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.records import Verdict
from pluto_dist.spool.frames import encode_frame, segment_name
from pluto_dist.sync.plan import Item, plan
from pluto_dist.sync.sync import Result, Sync
from tests.adapters import documents

NOW_MS = 1_767_225_600_000
OWNER, RANK1, SIDE = "a" * 24, "b" * 24, "c" * 24


def metric(step: int, **values: float) -> dict[str, Any]:
    """A line of a metrics stream."""
    return {"time": NOW_MS + step, "step": step, "data": values}


def text(step: int, value: str, name: str = "note") -> dict[str, Any]:
    """A line of a data stream."""
    return {"time": NOW_MS, "step": step, "data": value, "dataType": "string-series", "logName": name}


def line(time: int, message: str) -> dict[str, Any]:
    """A line of a console stream, without its number."""
    return {"time": NOW_MS + time, "message": message, "lineNumber": 0, "logType": "INFO"}


class Shelf:
    """A store with Runs in it.

    Args:
        root: of the store; need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.store = Store(root)

    def put(
        self,
        *leases: LeaseShown,
        key: str = "key-000001",
        status: Status | None = "COMPLETED",
        reported: bool = False,
        target: Target | None = None,
        **more: Any,
    ) -> None:
        """A Run's document. Without a status it has not ended; with a target it was made for a server."""
        ended = {} if status is None else {"verdict": Verdict(status, "why"), "ended_ms": NOW_MS + 9000}
        fields: dict[str, Any] = {
            "status": status or "RUNNING",
            "reported": reported,
            "created_ms": NOW_MS,
            "target": target or Target(mode="local", store=str(self.store.root)),
            **ended,
            **more,
        }
        extra = {name: fields.pop(name) for name in ("config", "series", "summary") if name in fields}
        found = documents.document(*leases, key=key, **fields, **_given(extra, "series", "summary"))
        if "config" in extra:
            found = msgspec.structs.replace(found, config=msgspec.Raw(json.dumps(extra["config"]).encode()))
        self.store.write_document(key, msgspec.json.encode(found))

    def write(
        self,
        lease_id: str,
        stream: str,
        *records: Mapping[str, Any] | bytes,
        key: str = "key-000001",
        segment: int = 1,
        start: int = 0,
        first: int = 0,
    ) -> int:
        """A segment of a stream; returns its size."""
        payloads = [
            each if isinstance(each, bytes) else json.dumps(each).encode() + b"\n" for each in records
        ]
        raw = b"".join(encode_frame(payload, sequence=n) for n, payload in enumerate(payloads, first))
        documents.put_segment(self.store, key, lease_id, segment_name(stream, segment), raw, start)
        return start + len(raw)

    def spoil(self, lease_id: str, stream: str, at: int, key: str = "key-000001") -> None:
        """A byte of a segment becomes another one."""
        path = self.store.run(key) / "streams" / lease_id / segment_name(stream, 1)
        raw = bytearray(path.read_bytes())
        raw[at] ^= 0xFF
        path.write_bytes(raw)

    def simple(self, key: str = "key-000001", points: int = 3, **more: Any) -> None:
        """A completed Run of one owner."""
        self.put(owner(), key=key, **more)
        self.write(OWNER, "metrics", *(metric(step, loss=float(step)) for step in range(points)), key=key)

    def mark(self, target: Target, key: str = "key-000001") -> Mark:
        """What was noted of an upload."""
        found = Marks(self.store, key).of(target)
        assert found is not None
        return found

    def rejected(self, key: str = "key-000001") -> list[dict[str, Any]]:
        """What was set aside."""
        path = self.store.run(key) / "rejected.jsonl"
        return [json.loads(each) for each in path.read_text().splitlines()] if path.exists() else []

    def segments(self, key: str = "key-000001") -> list[str]:
        """Names of the segments that are left."""
        return sorted(path.name for path in (self.store.run(key) / "streams").glob("*/*"))


def owner(**more: Any) -> LeaseShown:
    """The owner's lease."""
    return documents.lease(OWNER, "owner", **{"state": "ended", "end_reason": "finished", **more})


def rank1(**more: Any) -> LeaseShown:
    """A worker's lease."""
    return documents.lease(RANK1, "rank1", **{"state": "ended", "end_reason": "finished", **more})


def side(**more: Any) -> LeaseShown:
    """A side's lease."""
    return documents.lease(SIDE, "eval", **{"state": "ended", "end_reason": "closed", **more})


def sync(
    shelf: Shelf, backend: Backend, target: Target, *names: str, patience_s: float = 30.0, **more: Any
) -> list[Result]:
    """Plans and uploads."""
    sees = more.pop("sees", lambda mark, key: False)
    items = plan(shelf.store, target, names, **more)
    return Sync(backend, target, sees, patience_s=patience_s).all(items)


def states(items: list[Item]) -> Iterator[tuple[str, str]]:
    """Key and state of each."""
    return ((item.key, item.state) for item in items)


def _given(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}
