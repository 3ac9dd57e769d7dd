"""Sockets and files are the user's alone, and the API key is nowhere (G11)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pluto_dist.spool.frames import segment_name
from tests.process.harness import Node, holding, look, modes, wait_until

NOBODY = 65534
KEY = "pk_0123456789abcdef_never_to_be_seen"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")

BUSY = """
    run = pluto.init(run_id="private", config={"lr": 1}, quiet=True)
    run.log({"loss": 1.0, "note": "text"}, 0)
    run.add_tags("a")
    child = os.fork()
    if child == 0:
        run.log({"child": 1.0}, 0)
        os._exit(0)
    os.waitpid(child, 0)
    tell("up", *run.tags)
    hear()
"""


def test_everything_that_is_made_is_private(node: Node) -> None:
    """G11: folders 0700, files and the socket 0600, also under a generous umask."""
    script = node.start("os.umask(0)\n" + "\n".join(line[4:] for line in BUSY.splitlines()))
    script.expect("up")
    wait_until(lambda: node.points("private"), "its points")
    found = modes(node.home)
    assert not {str(path): oct(mode) for path, mode in found.items() if mode & 0o077}
    names = {path.name for path in found}
    assert {"coordinator.sock", "coordinator.db", "coordinator.log", "coordinator.lock"} <= names
    assert {"lease.lock", segment_name("lifecycle", 1), segment_name("metrics", 1)} <= names


@as_root
def test_another_user_can_neither_connect_nor_read(node: Node) -> None:
    """G11: the kernel refuses, at the runtime folder already."""
    script = node.start(BUSY)
    script.expect("up")
    node.base.chmod(0o755)
    probe = f"""
import os, socket, pathlib
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
home = pathlib.Path({str(node.home)!r})
def refused(what):
    try:
        what()
    except PermissionError:
        return True
    return False
print(all(refused(what) for what in (
    lambda: socket.socket(socket.AF_UNIX).connect(str(home / "run" / "coordinator.sock")),
    lambda: (home / "run" / "coordinator.db").read_bytes(),
    lambda: (home / "run" / "coordinator.log").read_bytes(),
    lambda: list((home / "spool").iterdir()),
    lambda: (home / "run" / "planted").touch(),
    lambda: os.kill({node.coordinator()}, 0),
)))
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@as_root
@pytest.mark.parametrize("planted", ["symlink", "foreign", "open", "file"])
def test_a_runtime_that_somebody_prepared_is_refused(node: Node, planted: str) -> None:
    """G11, R13: no socket, no record and no lock in a folder that others can reach."""
    node.home.mkdir(mode=0o700)
    runtime = node.home / "run"
    elsewhere = node.base / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    match planted:
        case "symlink":
            runtime.symlink_to(elsewhere)
        case "foreign":
            runtime.mkdir(mode=0o700)
            os.chown(runtime, NOBODY, NOBODY)
        case "open":
            runtime.mkdir()
            runtime.chmod(0o777)
        case "file":
            runtime.write_text("")
    script = node.start(
        """
        try:
            pluto.init()
        except pluto.errors.PlacesError as error:
            tell("refused", error)
    """,
        env={"PLUTO_DIST_REQUIRED": "1"},
    )
    assert str(runtime) in script.expect("refused")
    assert script.wait() == 0
    assert not list(elsewhere.iterdir())
    assert planted == "file" or not list(runtime.iterdir())


def test_the_api_key_is_nowhere_but_in_memory(node: Node) -> None:
    """G11: not in argv, environment, spool, store, database, log or output; a server that is not there."""
    script = node.start(
        """
        run = pluto.init(run_id="secret", quiet=False)
        run.log({"loss": 1.0, "note": "text"}, 0)
        run.update_config({"lr": 2})
        tell("up", run.role, repr(run))
        hear()
        """,
        env={
            "PLUTO_API_KEY": KEY,
            "WANDB_API_KEY": KEY,
            "PLUTO_DIST_MODE": "pluto",
            "PLUTO_DIST_OPEN_WAIT_S": "0.2",
            "PLUTO_DIST_HOST": "127.0.0.1",
        },
    )
    said = script.expect("up")
    wait_until(lambda: look(node.store, "runs/*/run.json"), "the document")
    process = Path(f"/proc/{node.coordinator()}")
    for place in ("cmdline", "environ"):
        assert KEY.encode() not in (process / place).read_bytes(), place
    assert holding(node.base, KEY.encode()) == []  # plainly, or as the Authorization header has it
    assert KEY not in said + script.stderr + node.log
    script.kill()
