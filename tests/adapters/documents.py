"""Documents for tests, as a coordinator would write them."""

from __future__ import annotations

import msgspec

from pluto_dist.backend.local.store import Store
from pluto_dist.core.values.book import Book, History
from pluto_dist.core.values.document import Document, LeaseShown
from pluto_dist.core.values.document import document as of_book
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.records import Point, Run, RunEvent, SeriesOwner


def lease(lease_id: str, participant: str = "owner", **more: object) -> LeaseShown:
    """A lease of pid 100 on host `node`; `more` overrides fields."""
    role = "owner" if participant == "owner" else "worker" if participant.startswith("rank") else "side"
    known = LeaseShown(
        lease_id=lease_id,
        role=role,  # type: ignore[arg-type]
        label=participant,
        participant=participant,
        rank=int(participant[4:]) if role == "worker" else None,
        pid=100,
        host="node",
        epoch=1,
        attempt=0,
        state="active",
        granted_at=1000,
        last_seen_at=2000,
        ended_at=None,
        end_reason=None,
        delivered=0,
        written=0,
        last_step=None,
        rejected=0,
        dropped=0,
    )
    return msgspec.structs.replace(known, **more)


def document(
    *leases: LeaseShown,
    key: str = "key-1",
    number: int = 1,
    project: str = "demo",
    store: str = "/nowhere/.pluto",
    series: dict[str, SeriesOwner] | None = None,
    summary: dict[str, Point] | None = None,
    events: tuple[RunEvent, ...] = (),
    **more: object,
) -> Document:
    """A Run that runs; `more` overrides fields of the Run's record."""
    run = Run(
        key=key,
        target=Target(mode="local", store=store),
        project=project,
        name="first",
        external_id=f"mine-{number}",
        job_key="",
        created_ms=1000,
        boot_id="",
        id=number,
        display_id=f"DEM-{number}",
    )
    book = Book()
    book.runs.put(key, msgspec.structs.replace(run, **more))
    book.histories.put(key, History(events))
    plain = of_book(book, book.runs[key], phase="running", pending=0, trouble="", live={})
    return msgspec.structs.replace(
        plain,
        leases=leases,
        summary=summary or {},
        points=sum(point.count for point in (summary or {}).values()),
        restore=msgspec.structs.replace(plain.restore, series=series or {}),
    )


def put_segment(store: Store, key: str, lease_id: str, name: str, raw: bytes, start: int = 0) -> None:
    """Bytes of a segment in a store."""
    path = store.run(key) / "streams" / lease_id / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    with path.open("r+b") as file:
        file.seek(start)
        file.write(raw)
