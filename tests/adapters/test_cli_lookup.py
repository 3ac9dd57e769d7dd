"""Where the command line finds Runs: a live coordinator, the store, and what an id means."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pluto_dist.backend.local.store import Store
from pluto_dist.core.values.document import Document
from pluto_dist.core.values.messages import AskStatus, Refusal
from pluto_dist.errors import (
    AmbiguousRunError,
    CoordinatorUnavailableError,
    MachineError,
    RunNotFoundError,
    StaleEpochError,
)
from pluto_dist.read import ask as asking
from pluto_dist.read.ask import ask, listener
from pluto_dist.read.lookup import Lookup, store_at
from tests.adapters.coordinators import answering, knowing, silent
from tests.adapters.documents import document, lease


class Machine:
    """A node and a store, with short paths because sockets need them."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="pd", dir="/tmp"))
        self.home = self.base / "h"
        self.store = Store(self.base / ".pluto")
        self.socket = self.home / "run" / "coordinator.sock"

    def keep(self, *documents: Document) -> None:
        for found in documents:
            self.store.write_document(found.key, msgspec.json.encode(found))

    def lookup(self) -> Lookup:
        return Lookup(self.home, self.base)

    def here(self, key: str, number: int = 1, **more: object) -> Document:
        return document(key=key, number=number, store=str(self.store.root), **more)  # type: ignore[arg-type]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    for name in ("PLUTO_DIST_HOME", "PLUTO_DIR", "PLUTO_API_KEY", "PLUTO_DIST_MODE"):
        monkeypatch.delenv(name, raising=False)
    made = Machine()
    yield made
    shutil.rmtree(made.base)


@pytest.mark.parametrize("name", ["7", "DEM-7", "mine-7", "key-7"])
def test_a_run_is_found_by_id_display_id_own_id_and_key(machine: Machine, name: str):
    machine.keep(machine.here("key-7", 7), machine.here("key-8", 8))
    assert machine.lookup().find(name).document.key == "key-7"


def test_an_unknown_run_is_an_error_that_says_where_it_was_looked_for(machine: Machine):
    with pytest.raises(RunNotFoundError) as caught:
        machine.lookup().find("DEM-9")
    for part in ("DEM-9", str(machine.home / "run"), "none is running", str(machine.store.root)):
        assert part in caught.value.message


@pytest.mark.parametrize(
    ("name", "perhaps"),
    [
        ("dem-7", "(did you mean 'DEM-7'?)"),
        ("mine 7", "(did you mean 'mine-7'?)"),
        ("the seventh", "(did you mean 'DEM-7'?)"),
        ("xyz", "no Run 'xyz'; looked at"),
    ],
)
def test_an_unknown_run_may_be_one_with_a_similar_id_or_that_name(machine: Machine, name: str, perhaps: str):
    machine.keep(msgspec.structs.replace(machine.here("key-7", 7), name="the seventh"))
    with pytest.raises(RunNotFoundError) as caught:
        machine.lookup().find(name)
    assert perhaps in caught.value.message


def test_an_ambiguous_id_lists_the_candidates_and_a_key_decides(machine: Machine):
    machine.keep(machine.here("one", 3, project="demo"), machine.here("two", 3, project="delta"))
    with pytest.raises(AmbiguousRunError) as caught:
        machine.lookup().find("DEM-3")
    assert "one" in caught.value.message
    assert "two" in caught.value.message
    assert machine.lookup().find("two").document.project == "delta"


def test_a_run_that_both_know_is_shown_from_the_coordinator(machine: Machine):
    """The document in the store is older, by a second or by hours."""
    machine.keep(machine.here("key-1", name="old"))
    with answering(machine.socket, knowing(machine.here("key-1", name="new"))):
        (listed,) = machine.lookup().runs()
        found = machine.lookup().find("1")
    assert (listed.head.name, listed.live) == ("new", True)
    assert (found.document.name, found.live, found.store) == ("new", True, machine.store.root)


def test_runs_of_coordinator_and_store_are_listed_together_oldest_first(machine: Machine):
    machine.keep(machine.here("third", 3, created_ms=3000), machine.here("first", 1, created_ms=1000))
    with answering(machine.socket, knowing(machine.here("second", 2, created_ms=2000))):
        assert [known.head.key for known in machine.lookup().runs()] == ["first", "second", "third"]


def test_an_id_means_the_run_of_the_store_that_was_looked_at(machine: Machine):
    """Each store counts for itself, and the coordinator serves many."""
    machine.keep(machine.here("mine"))
    with answering(machine.socket, knowing(document(key="other", store="/elsewhere/.pluto"))):
        assert machine.lookup().find("1").document.key == "mine"
        assert machine.lookup().find("other").store == Path("/elsewhere/.pluto")


def test_a_document_that_cannot_be_read_does_not_hide_the_others(
    machine: Machine, capsys: pytest.CaptureFixture[str]
):
    machine.keep(machine.here("good"))
    machine.store.write_document("bad", b"{}")
    assert [known.head.key for known in machine.lookup().runs()] == ["good"]
    assert "bad" in capsys.readouterr().err


def test_a_document_of_a_newer_version_is_named_as_such(machine: Machine):
    machine.keep(msgspec.structs.replace(machine.here("key-1"), format=99))
    with pytest.raises(MachineError, match="format 99"):
        machine.lookup().find("1")


def test_a_store_can_be_read_where_no_coordinator_can_be(machine: Machine):
    """R13: a home that cannot be used hides nothing of the store."""
    machine.keep(machine.here("key-1"))
    lookup = Lookup(machine.base / ("x" * 120), machine.base)
    assert lookup.find("1").document.key == "key-1"
    assert "no coordinator" in lookup.where()


def test_a_store_is_named_by_itself_or_by_its_parent(tmp_path: Path):
    assert store_at(tmp_path) == store_at(tmp_path / ".pluto") == tmp_path / ".pluto"


@pytest.mark.parametrize("mine", ["owners", "others"])
def test_parts_of_a_run_are_one_run_also_while_a_coordinator_has_one_of_them(machine: Machine, mine: str):
    """R12: two hosts share the store; a word of the other's processes that is a minute old is no silence."""
    about: dict[str, Any] = {"part_of": "owners", "store": str(machine.store.root)}
    parts = {
        "owners": document(lease("a" * 8), key="owners", **about),
        "others": document(lease("b" * 8, "rank2"), key="others", relay="node1", **about),
    }
    for part in parts.values():
        machine.keep(part)
    lookup = machine.lookup()
    with answering(machine.socket, knowing(parts[mine])):
        (known,) = lookup.runs()
        found = lookup.find("1")
        again = lookup.again(known.head.key, known.store)
    assert (known.head.key, known.live_key, len(known.head.leases)) == ("owners", mine, 2)
    assert (found.document.parts, again.document) == (("owners", "others"), found.document)
    seen = {each.participant: each.last_seen_at for each in found.document.leases}
    assert seen == {"owner": 2000, "rank2": None} if mine == "owners" else {"owner": None, "rank2": 2000}


def test_nobody_listens_on_a_socket_that_is_missing_or_left_behind(machine: Machine):
    """G12: a SIGKILLed coordinator leaves its socket file."""
    import socket

    assert listener(machine.socket) is None
    machine.socket.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(machine.socket))
    assert listener(machine.socket) is None
    assert ask(machine.socket, AskStatus(request=1)) is None


def test_a_coordinator_that_does_not_answer_is_an_error_with_its_pid(machine: Machine):
    import os

    with answering(machine.socket, silent), pytest.raises(CoordinatorUnavailableError) as caught:
        ask(machine.socket, AskStatus(request=1), timeout_s=0.1)
    assert f"pid {os.getpid()}" in caught.value.message


def test_a_store_is_shown_while_the_coordinator_does_not_answer(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A coordinator that is stopped (SIGSTOP) or busy hides nothing of the store; it is asked only once."""
    monkeypatch.setattr(asking, "ANSWER_S", 0.1)
    machine.keep(machine.here("key-1"))
    lookup = machine.lookup()
    with answering(machine.socket, silent):
        found = lookup.find("1")
        assert [known.head.key for known in lookup.runs()] == ["key-1"]
    assert (found.live, lookup.silent) == (False, True)
    assert capsys.readouterr().err.count("did not answer") == 1


def test_a_refusal_becomes_the_error_it_names(machine: Machine):
    refusal = Refusal(request=1, error="StaleEpochError", message="too late")
    with answering(machine.socket, lambda _: refusal), pytest.raises(StaleEpochError, match="too late"):
        ask(machine.socket, AskStatus(request=1))


@contextmanager
def stranger(machine: Machine, hidden: Path) -> Iterator[None]:
    """Another user looks, who may not open a folder."""
    machine.base.chmod(0o755)
    before = hidden.stat().st_mode
    hidden.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        hidden.chmod(before)


def test_a_store_of_another_user_is_not_taken_for_an_empty_one(machine: Machine):
    machine.keep(machine.here("key-1"))
    runs = machine.store.root / "runs"
    remarks: list[str] = []
    with stranger(machine, runs):
        lookup = Lookup(machine.home, machine.base, remarks.append)
        assert lookup.runs() == []
    assert f"{runs} cannot be read: Permission denied" in remarks[-1]
    assert os.geteuid() or remarks[-1].endswith("; it belongs to root")


def test_a_run_of_another_user_is_named_and_hides_no_other(machine: Machine):
    machine.keep(machine.here("key-1"), machine.here("key-2", 2))
    hidden = machine.store.run("key-1")
    remarks: list[str] = []
    with stranger(machine, hidden):
        lookup = Lookup(machine.home, machine.base, remarks.append)
        assert [known.head.key for known in lookup.runs()] == ["key-2"]
    assert f"left out: {hidden} cannot be read: Permission denied" in remarks[-1]
