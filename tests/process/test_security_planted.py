"""Files that somebody planted where ours are to be: nothing of his is touched, and nobody hangs (G11)."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.harness import CHECKOUT, Node, modes, wait_until
from tests.process.test_security_private import NOBODY, as_root

PRECIOUS = b"precious"
RUNS = """
    import pluto_dist.client.lease
    pluto_dist.client.lease.UNANSWERED_S = 0.5
    try:
        run = pluto.init(run_id="planted", quiet=True)
        run.log({"loss": 1.0}, 0)
        run.finish(timeout_s=1)
    except pluto.errors.PlutoDistError as error:
        tell("refused", error)
    tell("over")
"""


def plant(path: Path, kind: str, victim: Path) -> None:
    """Puts something in the place of a file."""
    match kind:
        case "link":
            path.symlink_to(victim)
        case "second name":
            path.hardlink_to(victim)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()


PLANTED = [
    ("coordinator.lock", "second name"),
    ("coordinator.db", "pipe"),
    ("coordinator.log", "link"),
    ("coordinator.alive", "link"),
    ("coordinator.alive", "pipe"),
    ("coordinator.sock", "link"),
]


@pytest.mark.parametrize(("name", "kind"), PLANTED)
def test_what_is_planted_in_the_runtime_folder_costs_its_owner_nothing(
    node: Node, name: str, kind: str
) -> None:
    """G11, G4: content, mode and size of the victim stay; training ends in bounded time."""
    node.home.mkdir(mode=0o700)
    (node.home / "run").mkdir(mode=0o700)
    victim = node.base / "victim"
    victim.write_bytes(PRECIOUS)
    victim.chmod(0o644)
    plant(node.home / "run" / name, kind, victim)
    script = node.start(RUNS)
    script.expect("over")
    assert script.wait() == 0
    assert victim.read_bytes() == PRECIOUS
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


def test_an_empty_file_of_a_second_name_is_not_filled(node: Node) -> None:
    """G11: SQLite takes an empty file for a new database, whoever else it belongs to."""
    node.home.mkdir(mode=0o700)
    (node.home / "run").mkdir(mode=0o700)
    victim = node.base / "victim"
    victim.touch()
    (node.home / "run" / "coordinator.db").hardlink_to(victim)
    script = node.start(RUNS)
    script.expect("over")
    wait_until(lambda: "coordinator.db" in node.log, "the coordinator says why")
    assert victim.stat().st_size == 0


def test_planted_lease_folders_are_not_followed(node: Node) -> None:
    """G11: a link in the place of a lease's folder, or of a segment in it, leads nowhere."""
    elsewhere = node.base / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_bytes(PRECIOUS)
    script = node.start("""
        run = pluto.init(run_id="beside", quiet=True)
        tell("up", run.lease_id)
        hear()
        log(run, {"loss": 1.0})
        run.finish()
        tell("done")
    """)
    leases = node.home / "spool" / "leases"
    own = leases / script.expect("up")
    (leases / ("c" * 24)).symlink_to(elsewhere)
    (own / "metrics-00000007.spool").symlink_to(elsewhere / "precious")
    (own / "data-00000001.spool").symlink_to("/dev/zero")
    os.mkfifo(own / "console-00000009.spool")
    script.say()
    script.expect("done")
    assert script.wait() == 0
    assert node.ended("beside")["status"] == "COMPLETED"
    assert node.lost("beside") == []
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]
    assert (elsewhere / "precious").read_bytes() == PRECIOUS
    assert "Traceback" not in node.log


@as_root
def test_a_default_place_that_another_user_took_first_is_told_and_left_alone(node: Node) -> None:
    """G11, R13: he made our name in a sticky folder; the next place is taken, his folder stays empty."""
    public = node.base / "public"
    public.mkdir()
    public.chmod(0o1777)
    node.base.chmod(0o755)
    squatted = public / f"pluto-dist-{os.geteuid()}"
    maker = f"import os; os.setgid({NOBODY}); os.setuid({NOBODY}); os.mkdir({str(squatted)!r}, 0o777)"
    subprocess.run([sys.executable, "-c", maker], check=True)
    probe = (
        "from pluto_dist.host.places import find_places\n"
        f"print(find_places(parents=[{str(public)!r}, {str(node.base)!r}]).base)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False, cwd=CHECKOUT
    )
    assert str(squatted) not in done.stdout
    assert not list(squatted.iterdir())
    assert squatted.stat().st_uid == NOBODY


def test_what_is_kept_and_exported_is_private_too(node: Node) -> None:
    """G11: store, copies, a damaged database that was put aside; exports follow the caller's umask."""
    node.home.mkdir(mode=0o700)
    (node.home / "run").mkdir(mode=0o700)
    (node.home / "run" / "coordinator.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    (node.home / "run" / "coordinator.db").chmod(0o600)
    script = node.start("os.umask(0)\n" + "\n".join(line[4:] for line in RUNS.splitlines()))
    script.expect("over")
    assert script.wait() == 0
    node.ended("planted")
    assert (node.home / "run" / "coordinator.db.damaged").exists()
    assert node.said("database_put_aside")
    found = modes(node.home, node.store)
    assert {node.home / "run", node.store / "runs"} < set(found)
    assert not {str(path): oct(mode) for path, mode in found.items() if mode & 0o077}
    out = node.base / "out.jsonl"
    before = os.umask(0o077)
    try:
        node.cli("export", "planted", "-o", str(out))
    finally:
        os.umask(before)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
