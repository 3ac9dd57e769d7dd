"""Lookup: Runs are looked for at the live coordinator of this node, then in the store folder.

A Run that both have is shown as the coordinator has it, which is newer. Parts of one Run that several nodes
have written are one Run, as far as they are in reach. An id may mean several Runs, since every store counts
for itself; then the one in the given store is meant, and among several there the caller has to choose.
"""

from __future__ import annotations

import difflib
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from pluto_dist.backend.local.store import Store
from pluto_dist.core.rules.parts import grouped, that_ended, together
from pluto_dist.core.values.backend import Status
from pluto_dist.core.values.document import Document, read
from pluto_dist.core.values.ids import UNREADABLE, Role, classify_run_id
from pluto_dist.core.values.messages import AskRun, AskRuns, Question
from pluto_dist.errors import (
    AmbiguousRunError,
    CoordinatorUnavailableError,
    MachineError,
    PlacesError,
    RunNotFoundError,
    SocketPathError,
)
from pluto_dist.host.places import STORE_NAME, Places, find_places, store_of
from pluto_dist.host.settings import Settings, as_option, load
from pluto_dist.read.ask import ask, listener

RUNNING = "RUNNING"
PARTS_S = 5.0  # parts of a Run are looked for again after so long


class _Target(msgspec.Struct, frozen=True):
    store: str


class _Record(msgspec.Struct, frozen=True):
    target: _Target
    round: int = 0
    forced: bool = False


class _Restore(msgspec.Struct, frozen=True):
    run: _Record


class LeaseHead(msgspec.Struct, frozen=True):
    """The part of a lease that shows whether its process may live; a node's own has the pid 0."""

    lease_id: str
    host: str
    state: str
    pid: int = 1
    role: Role = "side"
    granted_at: int | None = None


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a Run's document that a list needs."""

    key: str
    id: int | None
    display_id: str | None
    run_id: str
    project: str
    name: str
    status: Status
    phase: str
    mode: str
    created_at: int
    ended_at: int | None
    points: int
    restore: _Restore
    tags: tuple[str, ...] = ()
    leases: tuple[LeaseHead, ...] = ()
    relay: str = ""
    server_status: Status | None = None
    refusals: dict[str, str] = {}
    part_of: str = ""


class Known(msgspec.Struct, frozen=True):
    """A Run, the store it is in, and whether the live coordinator has it.

    Attributes:
        parts: of several nodes, the one that speaks for the Run first, each as it is; empty for one part.
    """

    head: Head
    store: Path
    live: bool
    parts: tuple[Known, ...] = ()

    @property
    def live_key(self) -> str | None:
        """Key under which the live coordinator has the Run, or a part of it; None if it has not."""
        return next((each.head.key for each in (self.parts or (self,)) if each.live), None)


class Found(msgspec.Struct, frozen=True):
    """A Run's document with where it came from."""

    document: Document
    body: bytes
    store: Path
    live: bool


class Lookup:
    """Looks at one node and one store.

    Attributes:
        store: the store folder.
        places: of this node, None if it has none that can be used.
        silent: a coordinator listens and does not answer.
        idle_exit_s: for a coordinator that has to be started.
        note: takes remarks about the looking.

    Args:
        home: `--home`, None for the default.
        folder: `--dir`, None for the default.
        note: takes what a person should know about the looking itself; stderr by default.

    Raises:
        SettingError: an environment variable or option has an unusable value.
    """

    def __init__(
        self,
        home: Path | None = None,
        folder: Path | None = None,
        note: Callable[[str], object] | None = None,
    ) -> None:
        settings = reading_settings(home, folder)
        self.idle_exit_s = settings.idle_exit_s
        self.note = note or _on_stderr
        self.store = Store(store_at(settings.dir))
        self.places: Places | None = None
        self.silent = False
        self._trouble = ""
        self._parts: dict[str, tuple[Known, ...]] = {}
        self._parts_at = float("-inf")
        try:
            places = find_places(settings.home)
            self._socket = places.socket
            self.places = places
        except (PlacesError, SocketPathError) as error:  # nothing can be logged here, but a store can be read
            self._trouble = error.message

    @property
    def spool(self) -> Path | None:
        """Folder of this node's leases, None if the node has no usable places."""
        return self.places.spool / "leases" if self.places is not None else None

    def where(self) -> str:
        """The places that were searched, for messages."""
        if self.places is None:
            return f"no coordinator ({self._trouble}), store {self.store.root}"
        state = "" if listener(self._socket) is not None else " (none is running)"
        return f"coordinator in {self.places.runtime}{state}, store {self.store.root}"

    def ask(self, question: Question) -> bytes | None:
        """Asks the live coordinator; None if there is none.

        Raises:
            PlutoDistError: as `ask.ask`.
        """
        return ask(self._socket, question) if self.places is not None else None

    def runs(self) -> list[Known]:
        """All Runs, oldest first."""
        live = self.live()
        by_store: dict[Path, dict[str, Known]] = {}
        for known in (*live, *self._stored(live)):
            by_store.setdefault(known.store, {})[known.head.key] = known
        runs = [
            _whole(tuple(found[head.key] for head in parts))
            for found in by_store.values()
            for parts in grouped(known.head for known in found.values())
        ]
        self._parts = {part.head.key: run.parts for run in runs for part in run.parts}
        self._parts_at = time.monotonic()
        return sorted(runs, key=lambda known: known.head.created_at)

    def documents(self) -> list[Document]:
        """Documents of all Runs that the live coordinator has, of other nodes' parts without these."""
        body = self.ask(AskRuns(request=1))
        return [] if body is None else msgspec.json.decode(body, type=list[Document])

    def find(self, name: str) -> Found:
        """The one Run that a name means.

        Raises:
            RunNotFoundError: none; says where it was looked for.
            AmbiguousRunError: several; lists them.
        """
        known = self.choose(name)
        return self._found(known.head.key, known.store, live=known.live)

    def again(self, key: str, store: Path) -> Found:
        """A Run that was found before, as of now; other Runs are not looked at.

        Raises:
            RunNotFoundError: it is gone.
            MachineError: its document cannot be read.
        """
        return self._found(key, store, live=True)

    def stored(self, key: str, store: Path) -> Found:
        """A Run as its store has it; no coordinator is asked.

        Raises:
            RunNotFoundError: it is gone.
            MachineError: its document cannot be read.
        """
        return self._found(key, store, live=False)

    def _found(self, key: str, store: Path, *, live: bool) -> Found:
        """The Run, with all of its parts that are in reach."""
        found = self._part(key, store, live=live)
        if found.document.part_of and time.monotonic() > self._parts_at + PARTS_S:
            self.runs()
        others = [part for part in self._parts.get(key, ()) if part.head.key != key]
        if not others:
            return found
        parts = {each.document.key: each for each in (found, *self._others(others))}
        live = any(each.live for each in parts.values())
        seen = (
            each.document if each.live or not live else _unheard(each.document) for each in parts.values()
        )
        document = together(grouped(seen)[0])
        first = parts[document.key]
        return Found(document, msgspec.json.encode(document), first.store, first.live)

    def _others(self, parts: Iterable[Known]) -> Iterable[Found]:
        """Other parts of a Run, without those that have gone, or cannot be read."""
        for part in parts:
            try:
                yield self._part(part.head.key, part.store, live=part.live)
            except (RunNotFoundError, MachineError, OSError) as error:
                self.note(f"pluto-dist: a part of the Run is left out: {error}")

    def _part(self, key: str, store: Path, *, live: bool) -> Found:
        body = self._ask_for(key) if live else None
        live = body is not None
        if body is None:
            body = Store(store).document(key)
        if body is None:
            raise RunNotFoundError(f"Run {key!r} was there a moment ago; looked at: {self.where()}")
        return Found(_read(body, key, store), body, store, live)

    def _ask_for(self, key: str) -> bytes | None:
        try:
            return self._ask_kindly(AskRun(request=1, run=key))
        except RunNotFoundError:  # the coordinator has let go of it, or never had it
            return None

    def choose(self, name: str) -> Known:
        """As `find`, without reading the whole document."""
        means, runs = _meaning(name), self.runs()
        found = [known for known in runs if means(known.head) or name in _keys(known)]
        exact = [known for known in found if name in _keys(known)]
        here = [known for known in found if known.store == self.store.root]
        chosen = exact or here or found
        if not chosen:
            raise RunNotFoundError(
                f"no Run {name!r}{_perhaps(name, runs)}; looked at: {self.where()}. `pluto-dist runs` lists "
                "what is there; --dir and --home, in Python where=, look elsewhere"
            )
        if len(chosen) > 1:
            raise AmbiguousRunError(f"{name!r} means {len(chosen)} Runs: {_listed(chosen)}; use the key")
        return chosen[0]

    def _ask_kindly(self, question: Question) -> bytes | None:
        """As `ask`, but None for a coordinator that does not answer: the store can still be read."""
        if self.silent:
            return None
        try:
            return self.ask(question)
        except CoordinatorUnavailableError as error:
            self.silent = True
            self.note(f"pluto-dist: {error.message}. What follows is from the store")
            return None

    def live(self) -> list[Known]:
        """Runs that the live coordinator has."""
        body = self._ask_kindly(AskRuns(request=1))
        heads = [] if body is None else msgspec.json.decode(body, type=list[Head])
        return [Known(head, Path(head.restore.run.target.store), live=True) for head in heads]

    def _stored(self, live: list[Known]) -> list[Known]:
        """Runs of the store that the coordinator does not have; what is no document is left out."""
        known = {each.head.key for each in live}
        try:
            keys = self.store.keys()
        except OSError as error:
            keys = []
            self.note(f"pluto-dist: {_unreadable(self.store.root / 'runs', error)}")
        found: list[Known] = []
        hidden: list[str] = []
        for key in keys:
            if key not in known:
                try:
                    head = self._head(key)
                except OSError as error:
                    hidden.append(_unreadable(self.store.run(key), error))
                else:
                    found += [Known(head, self.store.root, live=False)] if head is not None else []
        if hidden:
            more = f" (and {len(hidden) - 1} more)" if len(hidden) > 1 else ""
            self.note(f"pluto-dist: left out: {hidden[0]}{more}")
        return found

    def _head(self, key: str) -> Head | None:
        try:
            body = self.store.document(key)
            return msgspec.json.decode(body, type=Head) if body is not None else None
        except UNREADABLE as error:
            self.note(f"{self.store.run(key)} holds no document of this version: {error}")
        return None


def _unreadable(path: Path, error: OSError) -> str:
    """What is wrong with a folder, and whose it is."""
    said = f"{path} cannot be read: {error.strerror or error}"
    try:
        owner = path.stat().st_uid
    except OSError:
        return said
    return said if owner == os.geteuid() else f"{said}; it belongs to {_user(owner)}"


def _user(number: int) -> str:
    from pwd import getpwuid

    try:
        return getpwuid(number).pw_name
    except KeyError:  # of a container, or a network
        return f"user {number}"


def _unheard(part: Document) -> Document:
    """A part as its node wrote it up to a minute ago: when its processes spoke last is not known here."""
    leases = tuple(msgspec.structs.replace(lease, last_seen_at=None) for lease in part.leases)
    return msgspec.structs.replace(part, leases=leases)


def _whole(parts: tuple[Known, ...]) -> Known:
    """One Run of its parts, which are in their order."""
    first = parts[0]
    if len(parts) == 1:
        return first
    heads = tuple(part.head for part in parts)
    ended = that_ended(heads)
    head = msgspec.structs.replace(
        first.head,
        status=ended.status,
        phase=ended.phase,
        ended_at=ended.ended_at,
        created_at=min(each.created_at for each in heads),
        points=sum(each.points for each in heads),
        leases=tuple(lease for each in heads for lease in each.leases),
    )
    return Known(head, first.store, first.live, parts)


def _keys(known: Known) -> set[str]:
    return {known.head.key, *(part.head.key for part in known.parts)}


def _on_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def reading_settings(home: Path | None, folder: Path | None = None) -> Settings:
    """Settings of a command that only looks; whether there is an API key does not matter to it.

    Raises:
        SettingError: a value cannot be used.
    """
    return load(os.environ, {"home": home, "dir": folder, "mode": "local"}, source=as_option)


def store_at(folder: Path | None) -> Path:
    """The store in a folder, or the folder itself if it is a store.

    Raises:
        PlacesError: as `store_of`.
    """
    if folder is not None and folder.name == STORE_NAME:
        return folder.resolve()
    return store_of(folder)


def _meaning(name: str) -> Callable[[Head], bool]:
    try:
        ref = classify_run_id(name)
    except ValueError:
        return lambda head: head.key == name
    if ref.id is not None:
        return lambda head: name == head.key or head.id == ref.id
    return lambda head: name in (head.key, head.display_id, head.run_id)


def _perhaps(name: str, runs: Iterable[Known]) -> str:
    """Runs that a person may have meant, by their ids; or by their names, which are no ids."""
    ids: dict[str, str] = {}
    for head in (known.head for known in runs):
        shown = head.display_id or head.run_id
        ids |= {head.name.casefold(): shown, head.run_id.casefold(): head.run_id, shown.casefold(): shown}
    meant = name.casefold()
    alike = [meant] if meant in ids else difflib.get_close_matches(meant, ids)
    near = dict.fromkeys(ids[each] for each in alike)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def _listed(found: list[Known]) -> str:
    return ", ".join(
        f"{each.head.display_id or each.head.run_id} ({each.head.name}, project {each.head.project}, "
        f"{each.head.status}, key {each.head.key}, store {each.store})"
        for each in found
    )


def _read(body: bytes, key: str, store: Path) -> Document:
    try:
        return read(body)
    except ValueError as error:
        raise MachineError(
            f"the document of Run {key} in {store} cannot be read: {error}; "
            "use the version of pluto_dist that wrote it"
        ) from error
