"""Somebody deletes, replaces or damages what the coordinator stands on (R3): nothing is lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pluto_dist.host.places import find_places
from pluto_dist.spool.frames import segment_name
from pluto_dist.spool.writer import StreamWriter
from tests.process.harness import Node, wait_until

LOGGER = """
    run = pluto.init(run_id="shaken", tags=["first"], quiet=True)
    tell_json("up", facts(run))
    step = 0
    stop = threading.Event()
    threading.Thread(target=lambda: (hear(), stop.set()), daemon=True).start()
    while not stop.is_set():
        log(run, {"loss": float(step)}, step)
        step += 1
        time.sleep(0.005)
    run.add_tags("last")
    tell("steps", step)
"""


def _delete_runtime(node: Node) -> None:
    shutil.rmtree(node.home / "run")


def _delete_socket(node: Node) -> None:
    (node.home / "run" / "coordinator.sock").unlink()


def _replace_lock(node: Node) -> None:
    lock = node.home / "run" / "coordinator.lock"
    lock.unlink()
    lock.touch(mode=0o600)


def _delete_database(node: Node) -> None:
    """And the coordinator with it: it would go on with the file that it has open."""
    node.kill_coordinator()
    for left in (node.home / "run").glob("coordinator.db*"):
        left.unlink()


def _damage_database(node: Node) -> None:
    node.kill_coordinator()
    for left in (node.home / "run").glob("coordinator.db-*"):
        left.unlink()
    (node.home / "run" / "coordinator.db").write_bytes(b"this is no database " * 500)


def _raise_generation(node: Node) -> None:
    with sqlite3.connect(node.home / "run" / "coordinator.db") as database:
        database.execute("UPDATE meta SET value = value + 1 WHERE name = 'generation'")
    database.close()


@pytest.mark.parametrize(
    "harm",
    [_delete_runtime, _delete_socket, _replace_lock, _delete_database, _damage_database, _raise_generation],
)
def test_a_coordinator_that_lost_its_ground_is_replaced(node: Node, harm: Callable[[Node], None]) -> None:
    """G3, G12, R3: it leaves by itself, a client starts another, every point is in the store once."""
    node.set(PLUTO_DIST_HEARTBEAT_S="0.2")
    script = node.start(LOGGER)
    before = script.expect_json("up")
    first = node.coordinator()
    wait_until(lambda: node.points("shaken"), "first points are in the store")
    harm(node)
    wait_until(lambda: set(node.coordinators()) - {first}, "another coordinator")
    wait_until(lambda: first not in node.coordinators(), "the first one has left")
    reached = len(node.points("shaken"))
    wait_until(lambda: len(node.points("shaken")) > reached, "the new one delivers")
    script.say()
    steps = int(script.expect("steps"))
    assert script.wait() == 0
    assert not script.stderr
    found = node.ended("shaken")
    assert (found["status"], found["id"]) == ("COMPLETED", before["id"])
    assert found["tags"] == ["first", "last"]
    assert len(node.documents()) == 1
    assert not node.lost("shaken")
    assert len(node.points("shaken")) == found["points"] == steps
    assert [lease["lease_id"] for lease in found["leases"]] == [before["lease_id"]]


def test_a_damaged_lifecycle_stream_harms_nobody_else(node: Node) -> None:
    """G11, R1: garbage where a lease should be, of every kind; the others are served as ever."""
    leases = node.home / "spool" / "leases"
    leases.mkdir(parents=True, mode=0o700)
    (node.home / "spool").chmod(0o700)
    node.home.chmod(0o700)
    _garbage(leases)
    script = node.start("""
        run = pluto.init(run_id="unharmed", quiet=True)
        log(run, {"loss": 1.0}, 0)
        run.add_tags("fine")
        tell("tags", *run.tags)
    """)
    assert script.expect("tags") == "fine"
    assert script.wait() == 0
    assert node.ended("unharmed")["status"] == "COMPLETED"
    assert len(node.documents()) == 1
    assert len(node.said("started")) == 1, "the coordinator fell over it"


def _garbage(leases: Path) -> None:
    (leases / ("a" * 24)).write_text("a file where a folder should be")
    (leases / ("b" * 24)).symlink_to("/etc")
    (leases / "..evil").mkdir(mode=0o700)
    cases = {
        "c": b"\0" * 4096,
        "d": os.urandom(4096),
        "e": b"",
        "f": _frames([b"{}\n", b"not json\n", b'{"entry":"finished","at":1,"wall_ms":1}\n']),
    }
    for letter, content in cases.items():
        folder = leases / (letter * 24)
        folder.mkdir(mode=0o700)
        (folder / "lease.lock").symlink_to("/etc/passwd")
        (folder / segment_name("lifecycle", 1)).write_bytes(content)
        (folder / segment_name("lifecycle", 2)).mkdir()


def _frames(lines: list[bytes]) -> bytes:
    """Whole frames whose content makes no sense."""
    with tempfile.TemporaryDirectory() as folder:
        writer = StreamWriter(folder, "lifecycle")
        for line in lines:
            assert writer.append(line)
        return Path(folder, segment_name("lifecycle", 1)).read_bytes()


def test_leases_of_an_earlier_boot_end_and_their_records_arrive(node: Node) -> None:
    """R2: a foreign boot id means unknown at first; instants of that boot are long ago; nothing is lost."""
    script = node.start("""
        run = pluto.init(run_id="before", quiet=True)
        for step in range(20):
            log(run, {"loss": float(step)}, step)
        tell("logged")
        hear()
    """)
    script.expect("logged")
    node.kill_coordinator()
    script.kill()
    script.wait()
    _pretend_reboot(node)
    after = node.start(
        """
        side = pluto.attach("before", label="after")
        tell("status", side.status)
        hear()
    """,
        env={"PLUTO_DIST_HEARTBEAT_S": "0.5"},
    )
    after.expect("status")
    wait_until(lambda: len(node.points("before")) == 20, "the records of the earlier boot")
    assert not node.lost("before")
    assert node.document("before")["status"] == "RUNNING", "unknown is not dead"
    after.say()


def _pretend_reboot(node: Node) -> None:
    """Another boot id, of the same length, in the database and in the spool's frames."""
    here = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    other = "0" * 8 + here[8:]
    database = sqlite3.connect(node.home / "run" / "coordinator.db")
    rows = database.execute("SELECT kind, key, value FROM records").fetchall()
    changed = [(bytes(value).replace(here.encode(), other.encode()), kind, key) for kind, key, value in rows]
    assert any(other.encode() in value for value, _, _ in changed)
    database.executemany("UPDATE records SET value = ? WHERE kind = ? AND key = ?", changed)
    database.commit()
    database.close()


def test_a_database_of_a_newer_version_is_left_alone_and_said(node: Node) -> None:
    """Section 7: an older version never writes into it; the trainer gets a typed error with the way out."""
    runtime = find_places(node.home).runtime
    database = sqlite3.connect(runtime / "coordinator.db")
    database.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER)")
    database.execute("INSERT INTO meta VALUES ('schema', 99), ('generation', 7)")
    database.commit()
    database.close()
    script = node.start(
        """
        import pathlib, pluto_dist.client.lease
        from pluto_dist.host import launch, places
        from tests.patience import wait_until
        found = places.find_places(pathlib.Path(os.environ["PLUTO_DIST_HOME"]))
        launch.launch(found, os.environ)
        wait_until(lambda: found.log.exists() and "schema 99" in found.log.read_text(), "it says why")
        pluto_dist.client.lease.UNANSWERED_S = 0.5
        try:
            pluto.init()
        except pluto.errors.CoordinatorUnavailableError as error:
            tell_json("refused", str(error))
    """,
        env={"PLUTO_DIST_REQUIRED": "1"},
    )
    assert "has schema 99, this version knows up to" in script.expect_json("refused")
    assert script.wait() == 0
    database = sqlite3.connect(runtime / "coordinator.db")
    assert database.execute("SELECT value FROM meta WHERE name = 'generation'").fetchone() == (7,)
    database.close()
