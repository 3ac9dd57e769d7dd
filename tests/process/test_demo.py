"""`pluto-dist demo`, run as a user runs it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pluto_dist.cli.demo.play import JOB
from tests.process.harness import CHECKOUT, Node, events, lease

DEMO = [sys.executable, "-c", "from pluto_dist.cli.main import app; app(prog_name='pluto-dist')", "demo"]
SHORT = ("--seconds", "3")


@pytest.fixture
def workplace(node: Node) -> Iterator[Path]:
    """Where the demo puts its temporary folder."""
    path = Path(tempfile.mkdtemp(dir=node.base))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def environment(node: Node, workplace: Path, **more: str) -> dict[str, str]:
    """With what a user may have in the shell: an API key, ids and ranks of something else."""
    foreign = {"PLUTO_API_KEY": "k" * 40, "PLUTO_RUN_ID": "of-another-job", "RANK": "3", "WORLD_SIZE": "8"}
    return node.env() | foreign | {"TMPDIR": str(workplace)} | more


def test_demo_completes_and_accounts_for_every_point(node: Node, workplace: Path) -> None:
    """G1, G3: neither a side's end, crash nor SIGKILL ends the Run; nothing that was logged is lost."""
    done = subprocess.run(
        [*DEMO, *SHORT],
        env=environment(node, workplace),
        cwd=node.base,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout
    assert done.returncode == 0, f"{said}\n{done.stderr}"
    assert "DIFFERS" not in said
    for line in (
        "DEM-1 is COMPLETED",
        "nothing lost, nothing doubled",
        "checkpoints are in the store, byte for byte",
        "eval and uploader closed: that did not complete the Run",
        "eval-2 crashed (RuntimeError): that did not fail the Run",
        "profiler was killed (SIGKILL): that did not end the Run",
        "train/loss by step",
        "pluto-dist show DEM-1 --plot train/loss",
    ):
        assert line in said
    assert not any(workplace.iterdir())

    found = node.document("DEM-1")
    assert found["status"] == "COMPLETED"
    assert found["verdict"]["first_failure"] is None
    assert sorted(each["role"] for each in found["leases"]) == ["owner", *["side"] * 4, *["worker"] * 3]
    assert lease(found, label="profiler")["end_reason"] == "died"
    assert [event["label"] for event in events(found, "side_failed")] == ["eval-2"]
    logged, stored = map(_number, re.findall(r"([\d,]+) points", said)[:2])
    points = node.points("DEM-1")
    assert logged == stored == sum(point.name != "checkpoint" for point in points)  # those are files
    assert found["points"] == len(points)


def test_interrupted_demo_leaves_no_process_and_a_terminated_run(node: Node, workplace: Path) -> None:
    """Ctrl-C comes to the demo alone; it ends its processes, and the ranks say how they were ended."""
    demo = subprocess.Popen(
        [*DEMO, "--seconds", "60"],
        env=environment(node, workplace),
        cwd=node.base,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    assert demo.stdout is not None
    heard = []
    for line in demo.stdout:
        heard.append(line)
        if "(pid " in line and "profiler" in line:
            break
    players = _players(workplace)
    os.killpg(demo.pid, signal.SIGINT)
    rest, _ = demo.communicate()
    assert demo.returncode == 130, "".join(heard) + rest
    assert "interrupted" in rest
    assert len(players) >= 8  # eval-2 may not have come yet, or have crashed
    assert not _players(workplace)
    assert not any(workplace.iterdir())
    assert node.ended("DEM-1")["status"] == "TERMINATED"


def test_store_that_cannot_be_made_is_told_before_anything_starts(node: Node, workplace: Path) -> None:
    (node.base / "plain").touch()
    done = subprocess.run(
        [*DEMO, *SHORT, "--dir", str(node.base / "plain" / "below")],
        env=environment(node, workplace),
        cwd=node.base,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"pluto-dist: the store {node.base}/plain/below/.pluto cannot be made")
    assert not any(workplace.iterdir())
    assert not node.coordinators()


def test_launcher_names_the_rank_that_failed_and_ends_the_others(tmp_path: Path) -> None:
    body = "import os, sys, time; sys.exit('no such luck') if os.environ['RANK'] == '1' else time.sleep(60)"
    done = subprocess.run(
        [
            *(sys.executable, "-m", f"{JOB}torchrun", "--nproc-per-node", "3", "--log-dir", str(tmp_path)),
            *(sys.executable, "-c", body),
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "rank 1 failed with code 1: no such luck\n"


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _players(workplace: Path) -> list[int]:
    """Pids of the processes of this demo."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if JOB.encode() in arguments and _environment(path.parent).get("TMPDIR") == str(workplace):
            found.append(int(path.parent.name))
    return found


def _environment(process: Path) -> dict[str, str]:
    try:
        pairs = (process / "environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return dict(pair.decode(errors="replace").split("=", 1) for pair in pairs if b"=" in pair)
