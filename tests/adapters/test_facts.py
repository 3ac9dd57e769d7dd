"""Facts: what `doctor` reports is complete, plain and honest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pluto_dist.cli import doctor
from pluto_dist.cli.doctor import Fact, gather, worst
from pluto_dist.host.places import Filesystem
from pluto_dist.host.settings import load
from tests.official import OFFICIAL_PYTHON, needs_official_client

KEY = "mlpi_0123456789abcdef"


def report(tmp_path: Path, **env: str) -> dict[str, Fact]:
    env = {"PLUTO_DIST_HOME": str(tmp_path / "home"), "PLUTO_DIR": str(tmp_path), **env}
    return {fact.name: fact for fact in gather(load(env))}


def test_the_report_is_plain_json_with_unique_names(tmp_path: Path):
    found = gather(load({"PLUTO_DIST_HOME": str(tmp_path / "home")}))
    plain = msgspec.json.decode(msgspec.json.encode(found))
    assert {name for entry in plain for name in entry} == {"name", "value", "level", "advice"}
    assert len({fact.name for fact in found}) == len(found)


def test_every_trouble_comes_with_advice(tmp_path: Path):
    for fact in report(tmp_path, PLUTO_DIST_TYPO="1").values():
        assert bool(fact.advice) == (fact.level != "ok"), fact


def test_the_report_names_places_and_kernel(tmp_path: Path):
    found = report(tmp_path)
    assert found["spool"].value == str(tmp_path / "home" / "spool")
    assert found["store"].value == str(tmp_path / ".pluto")
    assert not (tmp_path / ".pluto").exists()
    if sys.platform == "linux":
        assert {found[name].level for name in ("pidfd", "boot_id", "socket")} == {"ok"}
        assert found["spool.filesystem"].value


def test_the_hook_of_the_official_client_is_named(tmp_path: Path):
    """It slows every start of the interpreter, and patches wandb."""
    (tmp_path / "distutils-precedence.pth").write_text("import os; var = 'SETUPTOOLS_USE_DISTUTILS'\n")
    (tmp_path / "ours.pth").write_text("import pluto_dist.hook\n/somewhere/pluto\n")
    assert doctor._official_hook([str(tmp_path)]) == Fact("official_client_hook", None)
    (tmp_path / "zz-pluto.pth").write_text("import pluto._wandb_hook; pluto._wandb_hook.install()\n")
    found = doctor._official_hook([str(tmp_path / "not there"), str(tmp_path)])
    assert (found.value, found.level) == (str(tmp_path / "zz-pluto.pth"), "warn")
    assert "environment of its own" in found.advice


@needs_official_client
def test_the_installed_official_client_has_that_hook():
    """Whoever installs it beside this package is told by doctor."""
    folder = OFFICIAL_PYTHON.parent.parent / "lib"
    packages = [str(path) for path in folder.glob("python3*/site-packages")]
    assert doctor._official_hook(packages).level == "warn"


def test_a_shell_that_keeps_slurms_signals_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """R9: as `srun bash -c "python train.py; true"` has it."""
    assert report(tmp_path)["slurm_task"] == Fact("slurm_task", None)
    monkeypatch.setenv("SLURM_TASK_PID", str(os.getppid()))
    found = report(tmp_path)["slurm_task"]
    assert (bool(found.value), found.level) == (True, "warn")
    assert "`exec`" in found.advice


def test_the_key_is_not_in_the_report(tmp_path: Path):
    """G11"""
    found = report(tmp_path, PLUTO_API_KEY=KEY, PLUTO_URL_API="http://127.0.0.1:9")
    assert found["api_key"].value is True
    assert found["api_key.source"].value == "environment variable PLUTO_API_KEY"
    assert found["server"].value == "http://127.0.0.1:9"
    assert KEY not in repr(found)


def test_a_store_in_tmp_is_a_warning(tmp_path: Path):
    """No Run's only copy stays under a tmp folder."""
    fact = report(tmp_path, PLUTO_DIR="/tmp")["store_outlives_job"]
    assert (fact.value, fact.level) == (False, "warn")
    assert "PLUTO_DIR" in fact.advice


def test_a_home_that_cannot_be_used_is_bad_and_not_an_exception(tmp_path: Path):
    """R13"""
    (tmp_path / "home").write_text("")
    found = report(tmp_path)
    assert found["places"].level == "bad"
    assert worst(tuple(found.values())) == "bad"
    assert "store" in found


def test_a_home_too_long_for_a_socket_is_bad(tmp_path: Path):
    found = report(tmp_path, PLUTO_DIST_HOME=str(tmp_path / ("x" * 100)))
    assert "limit" in found["places"].advice


def test_little_space_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "filesystem_of", lambda path: Filesystem("ext4", 1000))
    fact = report(tmp_path)["store.free_bytes"]
    assert (fact.value, fact.level) == (1000, "warn")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_store_that_cannot_be_written_is_bad(tmp_path: Path):
    (tmp_path / "sealed").mkdir(mode=0o500)
    assert report(tmp_path, PLUTO_DIR=str(tmp_path / "sealed"))["store_writable"].level == "bad"


def test_a_refused_pidfd_is_told_with_its_consequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """R2"""
    monkeypatch.setattr(doctor, "pidfd_trouble", lambda: "pidfd_open: Operation not permitted")
    fact = report(tmp_path)["pidfd"]
    assert (fact.value, fact.level) == (False, "warn")
    assert "file locks" in fact.advice


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="needs root for a pid namespace")
def test_a_job_at_pid_1_of_a_container_is_warned(tmp_path: Path):
    """R11: when pid 1 ends, the coordinator is killed with everything else."""
    code = (
        "from pluto_dist.cli.doctor import gather; from pluto_dist.host.settings import load;"
        f"found = gather(load({{'PLUTO_DIST_HOME': {str(tmp_path / 'home')!r}}}));"
        "print(*[fact.level for fact in found if fact.name == 'near_pid_1'])"
    )
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    for command, level in ((inside, "warn"), (inside[4:], "ok")):
        found = subprocess.run(
            command, check=True, cwd=Path(__file__).parents[2], capture_output=True, text=True
        )
        assert found.stdout.strip() == level


def test_a_server_that_cannot_be_asked_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G11: the reason is told, never the key."""
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:1")
    found = report(tmp_path, PLUTO_API_KEY=KEY, PLUTO_URL_API="http://127.0.0.1:9")["server_answers"]
    assert (found.value, found.level) == (False, "bad")
    assert "ALL_PROXY" in found.advice
    assert "http://127.0.0.1:9" in found.advice
    assert KEY not in found.advice
    assert report(tmp_path)["server_answers"] == Fact("server_answers", None)
