"""`pluto-dist runs`: which Runs there are.

JSON: a list, oldest first, of
`id, display_id, run_id, project, name, status, mode, created_at` and
`key, phase, ended_at, points, tags, store` (folder), `live` (the coordinator of this node has it),
`standing` (as in `show`; of one that is `gone` or `unknown`, `status` is only what was written last),
`server_status` (null unless the server has another one) and `refusals` (what the server will not take).
Instants are epoch milliseconds. JSON has all Runs unless --limit is given.
"""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

from pluto_dist.cli.console import clock, note, print_json, print_table
from pluto_dist.cli.options import Dir, Home, Json, Option
from pluto_dist.read.listing import Wanted, chosen, listed, page_of, since_ms, statuses
from pluto_dist.read.lookup import Lookup
from pluto_dist.read.settle import settle

if TYPE_CHECKING:
    from pathlib import Path

    from pluto_dist.read.listing import Listed

PAGE = 50


class By(StrEnum):
    """Order of the list."""

    CREATED = "created"
    ENDED = "ended"
    NAME = "name"
    PROJECT = "project"
    STATUS = "status"
    POINTS = "points"
    DURATION = "duration"


def runs(
    project: Annotated[str | None, Option(help="Only Runs of this project.")] = None,
    status: Annotated[
        list[str] | None, Option(help="Only with this status, or standing (running, gone); repeatable.")
    ] = None,
    tag: Annotated[list[str] | None, Option(help="Only with this tag; repeatable.")] = None,
    since: Annotated[
        str | None,
        Option(help="Only made since: 30m, 12h, 7d, 2026-11-30, 2026-11-30T08:15."),
    ] = None,
    sort: Annotated[By, Option(help="Order; the last ones are at the bottom.")] = By.CREATED,
    reverse: Annotated[bool, Option("--reverse", help="The other way round.")] = False,
    limit: Annotated[
        int | None, Option("--limit", "-n", least=1, help=f"Runs on a page; {PAGE} for people.")
    ] = None,
    page: Annotated[int, Option(least=1, help="1 is the end of the list, 2 what is before it.")] = 1,
    home: Home = None,
    folder: Dir = None,
    as_json: Json = False,
) -> None:
    """Lists the Runs of this node and of the store, oldest first; with --dir only that store's."""
    wanted = Wanted(
        project=project,
        status=statuses(status or ()),
        tags=tuple(tag or ()),
        since_ms=since_ms(since) if since is not None else None,
    )
    lookup = Lookup(home, folder)
    settle(lookup)
    known = [each for each in listed(lookup) if folder is None or each.known.store == lookup.store.root]
    found = chosen(known, wanted, by=sort.value, reverse=reverse)
    shown = page_of(found, page, limit or (None if as_json else PAGE))
    if as_json:
        print_json([row(each) for each in shown])
        return
    if shown:
        _print(shown)
    if not found:
        note(f"no Runs{' of that kind' if known else ''}; looked at: {lookup.where()}")
    elif len(shown) < len(found):
        note(f"{len(shown)} of {len(found)} Runs, page {page}; --page and --limit show others")


def row(each: Listed) -> dict[str, object]:
    """One Run of the list."""
    known, head = each.known, each.known.head
    return {
        "id": head.id,
        "display_id": head.display_id,
        "run_id": head.run_id,
        "project": head.project,
        "name": head.name,
        "status": head.status,
        "mode": head.mode,
        "created_at": head.created_at,
        "key": head.key,
        "phase": head.phase,
        "ended_at": head.ended_at,
        "points": head.points,
        "tags": head.tags,
        "standing": each.situation.standing,
        "store": str(known.store),
        "live": known.live,
        "server_status": head.server_status,
        "refusals": head.refusals,
    }


def _print(found: list[Listed]) -> None:
    stores = _told_apart({each.known.store for each in found})
    print_table(
        (
            *("RUN", "ID", "NAME", "PROJECT", "STATUS", "PHASE", "CREATED", "POINTS", "MODE", "RUN_ID"),
            *(("STORE",) if stores else ()),
        ),
        [
            (
                each.known.head.display_id,
                each.known.head.id,
                each.known.head.name,
                each.known.head.project,
                _status(each),
                _phase(each),
                clock(each.known.head.created_at),
                each.known.head.points,
                each.known.head.mode,
                each.known.head.run_id,
                *((stores[each.known.store],) if stores else ()),
            )
            for each in found
        ],
        right=("ID", "POINTS"),
        spare=("ID", "MODE", "PHASE", "RUN_ID", "POINTS"),  # RUN finds it; what is left out, --json has
    )


def _phase(each: Listed) -> str:
    """The inner phase; a Run that has not ended and has no coordinator here has none."""
    ended = each.situation.standing == "ended"
    return each.known.head.phase if each.known.live or ended else "nobody has it"


def _status(each: Listed) -> str:
    """The status as far as it is known, and that the server has another one or would not take it."""
    head = each.known.head
    if head.server_status is not None:
        return f"{each.situation.status} (server: {head.server_status})"
    refused = "status" in head.refusals
    return f"{each.situation.status} (refused by the server)" if refused else each.situation.status


def _told_apart(stores: set[Path]) -> dict[Path, str]:
    """Each store without the folders that all have in common; nothing where there is only one."""
    if len(stores) < 2:
        return {}
    common = os.path.commonpath(stores)
    return {store: str(store.relative_to(common)) if str(store) != common else store.name for store in stores}
