"""`pluto-dist sync [RUN… | PATH…]`: Runs of the store to the server.

Uploads what was made without a server, and what could not be delivered to one: from the store folder alone,
on any host that sees it. Runs that this node's coordinator has are left to it; it is started, with the key.
Running it again goes on where it stopped, and adds nothing that is there already. Parts of a Run that several
nodes have written are one Run, be they in this store together or synced from each host.

JSON: a list in the order of uploading, parents of forks first, of `key, run_id, project`, `id, display_id`
(in the store), `server_id, server_display_id, url` (on the server), `state` ("uploaded", "up to date",
"skipped", "failed"; with --dry-run also "upload"), `why`, `status` (as reported to the server), `records`
(that it has got by syncs), `repeats` (of them, possibly twice), `rejected`, `damaged` (places that could not
be read), and with --dry-run `pending` (bytes of records) and `file_bytes` (of the files that they name).

Exit code 1 if any Run failed, or was not uploaded although asked for: it belongs to another server, cannot be
read, or was named and has not ended. One sync at a time for each Run: the others are told who works on it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from pluto_dist.backend.local.store import Mark, Store
from pluto_dist.cli.console import note, print_json, print_table, size
from pluto_dist.cli.options import Argument, Dir, Json, Option
from pluto_dist.core.values.document import Document, read
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.messages import AskRun, AskRuns, HandOverKey
from pluto_dist.errors import KeyRefusedError, PlacesError, RunNotFoundError, SettingError
from pluto_dist.host.credentials import key_refused
from pluto_dist.host.places import Places, find_places
from pluto_dist.host.settings import Settings, as_option, load
from pluto_dist.read.ask import ask, ensure_running
from pluto_dist.read.lookup import store_at
from pluto_dist.secret import Secret
from pluto_dist.sync.delivery import cursors_of, streams_of

if TYPE_CHECKING:
    from pluto_dist.sync.plan import Item
    from pluto_dist.sync.sync import Result

_NOT_FOR_THIS_SERVER = ("elsewhere", "unreadable")


def sync(
    what: Annotated[
        list[str] | None,
        Argument(metavar="RUN|PATH", help="Runs, or folders of stores or Runs; default all."),
    ] = None,
    folder: Dir = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Only say what would be uploaded.")] = False,
    force: Annotated[bool, Option("--force", help="Also Runs that have not ended.")] = False,
    patience_s: Annotated[
        float,
        Option("--patience", metavar="SECONDS", least=0, help="To try without any answer."),
    ] = 120.0,
    as_json: Json = False,
) -> None:
    """Uploads local Runs and undelivered records to the server."""
    settings = _settings(folder, needs_key=not dry_run)
    target, key = target_of(settings), settings.api_key
    items = _plan(what or [], settings, target, force=force)
    if dry_run or key is None:
        _print_plan(items, as_json=as_json)
        return
    handover = _handover(settings, key, patience_s)
    here = [item for item in items if item.state not in _NOT_FOR_THIS_SERVER]
    if handover is not None and any(handover.concerns(item.document) for item in here):
        troubles = handover.deliver(item.document for item in here)
        kept = {key: now for key, now in handover.kept().items() if key not in troubles}
        items = _plan(what or [], settings, target, force=force, kept=kept)
        _tell_troubles(troubles, items)
    try:
        results = _upload(items, target, key, patience_s, quiet=as_json or not sys.stderr.isatty())
    except KeyRefusedError as error:
        raise key_refused(error, settings.url_api, settings.key_source) from error
    if handover is not None and any(handover.concerns(item.document) for item in here):
        handover.tell()
    _print_results(results, as_json=as_json)
    failed = sum(result.state == "failed" for result in results)
    for why in () if as_json else reasons(results):
        note(f"failed: {why}")  # a cell of the table is cut
    if failed:
        note(f"{failed} of {len(results)} Runs failed; what is uploaded is kept, run it again to go on")
    left = sum(_is_missed(item, named=bool(what)) for item in items)
    if left:
        note(
            f"{left} of {len(results)} Runs were not uploaded: see why in the last column (`why` in the JSON)"
        )
    if failed or left:
        raise SystemExit(1)


def reasons(results: list[Result]) -> list[str]:
    """Why Runs failed, each reason once."""
    return list(dict.fromkeys(result.why for result in results if result.state == "failed"))


def _tell_troubles(troubles: dict[str, str], items: list[Item]) -> None:
    """Prints why this node's coordinator could not deliver Runs; why one is skipped is in the table."""
    for item in items:
        if item.key in troubles and item.state == "upload":
            note(f"{item.document.run_id}: {troubles[item.key]}; uploading what the store has of it")


def _is_missed(item: Item, *, named: bool) -> bool:
    """Whether it was asked for and skipped; a Run that lives may be left for later unless it was named."""
    return item.state in _NOT_FOR_THIS_SERVER or (named and item.state == "running")


def _settings(folder: Path | None, *, needs_key: bool) -> Settings:
    settings = load(os.environ, {"dir": folder, "mode": "auto"}, source=as_option)
    if needs_key and settings.api_key is None:
        raise SettingError(
            "`pluto-dist sync` needs an API key: set PLUTO_API_KEY, or run `pluto login`", setting="api_key"
        )
    return settings


def _handover(settings: Settings, key: Secret, patience_s: float) -> Handover | None:
    """None on a machine without a place for a spool: then nothing is in it."""
    try:
        return Handover(find_places(settings.home), settings, key, patience_s)
    except PlacesError:
        return None


def target_of(settings: Settings) -> Target:
    """The server that the settings name, without a store."""
    return Target(
        mode="pluto",
        store="",
        url_api=settings.url_api,
        url_ingest=settings.url_ingest,
        url_py=settings.url_py,
        url_app=settings.url_app,
        key_id=settings.api_key.digest if settings.api_key is not None else "",
    )


def _plan(
    what: list[str],
    settings: Settings,
    target: Target,
    *,
    force: bool,
    kept: Mapping[str, Document] | None = None,
) -> list[Item]:
    """Arguments that exist as folders are paths, all others are names of Runs in the default store."""
    from pluto_dist.sync.plan import plan, stores_of

    paths = [Path(text) for text in what if os.sep in text or Path(text).is_dir()]
    names = [text for text in what if Path(text) not in paths]
    chosen: list[tuple[Store, list[str]]] = [
        (store, [] if key is None else [key]) for store, key in stores_of(paths)
    ]
    if names or not paths:
        chosen.append((Store(store_at(settings.dir)), names))
    items = [item for store, runs in chosen for item in plan(store, target, runs, force=force, kept=kept)]
    return list({(item.store.root, item.key): item for item in items}.values())


def _upload(
    items: list[Item], target: Target, key: Secret, patience_s: float, *, quiet: bool
) -> list[Result]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from pluto_dist.backend.pluto import PlutoBackend
    from pluto_dist.sync.sync import Sync

    backend = PlutoBackend(target, lambda: key)

    def sees(mark: Mark, run: str) -> bool:
        return backend.has(mark.id or 0, run)

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as bars:
        bar = bars.add_task("sync", total=sum(item.pending for item in items if item.state == "upload"))
        uploads = Sync(
            backend,
            target,
            sees,
            patience_s=patience_s,
            progress=lambda item, done: bars.update(bar, advance=done, description=item.document.run_id),
        )
        try:
            return uploads.all(items)
        finally:
            backend.close()


def _print_plan(items: list[Item], *, as_json: bool) -> None:
    from pluto_dist.sync.sync import planned

    plans = [planned(item) for item in items]
    if as_json:
        print_json(plans)
        return
    print_table(
        ("RUN", "RUN_ID", "PROJECT", "WHAT", "RECORDS", "FILES", "WHY"),
        [
            (
                plan.display_id,
                plan.run_id,
                plan.project,
                item.state,
                size(plan.pending),
                size(plan.file_bytes),
                plan.why,
            )
            for item, plan in zip(items, plans, strict=True)
        ],
        right=("RECORDS", "FILES"),
    )


def _print_results(results: list[Result], *, as_json: bool) -> None:
    if as_json:
        print_json(results)
        return
    print_table(
        ("LOCAL", "SERVER", "ID", "RUN_ID", "STATE", "STATUS", "RECORDS", "REJECTED", "URL OR WHY"),
        [
            (
                result.display_id,
                result.server_display_id,
                result.server_id,
                result.run_id,
                result.state,
                result.status,
                result.records,
                result.rejected,
                result.why or result.url,
            )
            for result in results
        ],
        right=("ID", "RECORDS", "REJECTED"),
    )


POLL_S = 0.2


# Runs that this node's coordinator has are delivered and ended by it, with the key. That is exact: the
# coordinator knows to the record what it has sent, and has all the evidence. It is also the only safe way:
# two processes that report one Run would contradict each other (R3), for instance about a Run that waits for
# a restart. `sync` itself does what is left, from the store alone: Runs of other nodes, and those whose key
# was replaced.


class Handover:
    """One node's coordinator.

    Args:
        places: of this node.
        settings: for a coordinator that has to be started.
        key: the API key.
        patience_s: how long to wait without any progress.
    """

    def __init__(self, places: Places, settings: Settings, key: Secret, patience_s: float) -> None:
        self._places = places
        self._settings = settings
        self._key = key
        self._patience_s = patience_s

    def concerns(self, document: Document) -> bool:
        """Whether this node's coordinator may have this Run of a server with something left to deliver."""
        if document.mode != "pluto":
            return False
        unended = not document.reported and not document.relay and self._places.database.exists()
        return unended or self._in_spool(document)

    def deliver(self, documents: Iterable[Document]) -> dict[str, str]:
        """Has the coordinator deliver these Runs; returns the reason, by key, for those that it could not.

        Raises:
            CoordinatorUnavailableError: none could be started.
        """
        mine = [document for document in documents if self.concerns(document)]
        if not mine:
            return {}
        ensure_running(self._places, self._settings)
        self.tell()
        known = self.kept()
        here = [each for each in mine if each.key in known or self._in_spool(each)]
        return {document.key: why for document in here if (why := self._wait(document.key)) is not None}

    def kept(self) -> dict[str, Document]:
        """Documents, by key, of the Runs that this node's coordinator has now; empty if none runs."""
        body = ask(self._places.socket, AskRuns(request=1))
        documents = msgspec.json.decode(body, type=list[msgspec.Raw]) if body is not None else []
        return {document.key: document for document in map(read, map(bytes, documents))}

    def tell(self) -> None:
        """Gives the coordinator the key, and has it read what was uploaded from the store."""
        ask(self._places.socket, HandOverKey(request=1, key=self._key.reveal()))

    def _in_spool(self, document: Document) -> bool:
        leases = self._places.spool / "leases"
        return any((leases / lease.lease_id).exists() for lease in document.leases)

    def _wait(self, key: str) -> str | None:
        """Waits until everything is delivered and reported; returns None then, else the trouble."""
        last, deadline = None, time.monotonic() + self._patience_s
        while True:
            try:
                body = ask(self._places.socket, AskRun(request=1, run=key))
            except RunNotFoundError:
                return "this node's coordinator does not know it"
            if body is None:
                return "this node's coordinator has ended"
            document = read(body)
            if document.verdict is None and (document.pending == 0 or document.phase == "running"):
                return None  # it goes on, with its coordinator
            if document.pending == 0 and document.reported:
                return None
            stand = (document.pending, document.reported)
            if stand != last:
                last, deadline = stand, time.monotonic() + self._patience_s
            foreign = document.restore.run.target.key_id != self._key.digest
            if foreign and _copied(document):
                return "it was begun with another API key"
            if time.monotonic() > deadline:
                return document.trouble or "its coordinator does not get on"
            time.sleep(POLL_S)


def _copied(document: Document) -> bool:
    """Whether the store has all that the coordinator could not deliver."""
    streams = streams_of(Store(Path(document.restore.run.target.store)), document)
    cursors = cursors_of(document)
    return sum(stream.pending(cursors) for stream in streams) >= document.pending
