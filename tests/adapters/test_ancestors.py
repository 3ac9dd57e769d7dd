"""What is read of processes for job detection, from the real machine."""

from __future__ import annotations

import importlib
import inspect
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from pluto_dist.client import tasks
from pluto_dist.client.job import ancestors
from pluto_dist.client.job.ancestors import program_of, read_ancestors, read_process
from pluto_dist.client.job.detect import LAUNCH_VARIABLES
from pluto_dist.core.values.ids import Identity
from pluto_dist.host import identity
from tests.patience import PATIENCE_S

ME = Identity("boot", 7, os.getpid(), 1, nonce="n", host="h")

REPORT = """
import json, os, sys
from pluto_dist.client.job.ancestors import read_ancestors, read_process
from pluto_dist.client.job.detect import detect
from pluto_dist.core.values.ids import Identity
me = Identity("boot", 7, os.getpid(), 1)
job = detect(os.environ, read_process(me), read_ancestors(me), 1).job
print(json.dumps({"rank": job.rank, "key": job.key, "launcher": job.launcher and job.launcher.pid}))
"""


def test_ancestors_are_the_parents_with_their_start_times() -> None:
    read = read_ancestors(ME)
    parents = psutil.Process().parents()
    assert [each.identity.pid for each in read] == [parent.pid for parent in parents]
    assert all((each.identity.boot_id, each.identity.pid_ns) == ("boot", 7) for each in read)
    assert (
        read[0].identity.start < int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) + 1
    )


def test_without_proc_psutil_sees_the_same_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    by_proc, self_by_proc = read_ancestors(ME), read_process(ME)
    monkeypatch.setattr(ancestors, "_on_linux", lambda: False)
    by_psutil = read_ancestors(ME)
    assert [(each.identity.pid, each.program, each.environ) for each in by_psutil] == [
        (each.identity.pid, each.program, each.environ) for each in by_proc
    ]
    assert read_process(ME) == self_by_proc


def test_strangers_in_the_proc_of_another_namespace_are_no_ancestors(monkeypatch: pytest.MonkeyPatch) -> None:
    """R2"""
    monkeypatch.setattr(identity, "shows_own_namespace", lambda: False)
    assert read_ancestors(ME) == ()


def test_nothing_but_launch_variables_is_read_of_an_environment() -> None:
    """G11"""
    code = "from tests.adapters.test_ancestors import ME, read_process; print(dict(read_process(ME).environ))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RANK": "3", "PLUTO_API_KEY": "secret"},
        capture_output=True,
        check=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert "'RANK': '3'" in done.stdout
    assert "secret" not in done.stdout
    assert "PLUTO_API_KEY" not in LAUNCH_VARIABLES


@pytest.mark.process
def test_ranks_below_a_wrapper_each_find_their_common_launcher() -> None:
    """R4"""
    ranks = [
        subprocess.Popen(
            ["/bin/sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, REPORT],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
            | {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0"},
            stdout=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    found = [json.loads(rank.communicate(timeout=PATIENCE_S)[0]) for rank in ranks]
    assert [each["rank"] for each in found] == [0, 1]
    assert {each["launcher"] for each in found} == {os.getpid()}
    assert len({each["key"] for each in found}) == 1


def pool_parent_of_child(answer: multiprocessing.Queue[int | None]) -> None:
    answer.put(read_process(ME).pool_parent)


@pytest.mark.process
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_pool_child_knows_who_started_it(method: str) -> None:
    """R4"""
    assert read_process(ME).pool_parent is None
    context = multiprocessing.get_context(method)
    answer = context.Queue()
    child = context.Process(target=pool_parent_of_child, args=(answer,))
    child.start()
    try:
        assert answer.get(timeout=PATIENCE_S) == os.getpid()
    finally:
        child.join(PATIENCE_S)
        answer.close()
        answer.join_thread()


def test_a_notebook_is_known_by_its_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shell:
        kernel = object()

    class IPython:
        shell: object = None

        @classmethod
        def get_ipython(cls) -> object:
            return cls.shell

    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not read_process(ME).notebook
    monkeypatch.setitem(sys.modules, "IPython", IPython)  # type: ignore[arg-type]
    assert not read_process(ME).notebook
    IPython.shell = Shell()
    assert read_process(ME).notebook


@pytest.mark.parametrize(
    ("comm", "args", "program"),
    [
        ("bash", ["-bash"], "bash"),
        ("kthreadd", [""], "kthreadd"),
        ("kthreadd", [], "kthreadd"),
        ("raylet", ["/opt/ray/raylet", "--x"], "raylet"),
        ("sshd", ["sshd: user@pts/0"], "sshd"),
        ("tmux: server", ["tmux", "new"], "tmux"),
        ("systemd", ["/usr/lib/systemd/systemd", "--user"], "systemd"),
        ("pytest", ["/v/bin/python3.11", "/v/bin/pytest", "-q"], "pytest"),
        ("python", ["python", "-m", "pytest"], "pytest"),
        (
            "python3",
            ["python3", "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "x"],
            "ipykernel_launcher",
        ),
        ("python3", ["python3", "-X", "dev", "-W", "error", "-u", "train.py", "--x"], "train"),
        ("python3", ["python3", "-c", "print()"], "-c"),
        ("python3", ["python3"], "python3"),
        ("python3", ["python3", "-m"], ""),
        ("python3", ["python3", "-X"], "python3"),
    ],
)
def test_a_python_program_is_called_by_its_script(comm: str, args: list[str], program: str) -> None:
    assert program_of(comm, args) == program


@pytest.mark.parametrize(("end", "name"), tasks._LOOPS, ids=[end for end, _ in tasks._LOOPS])
def test_the_loops_of_pools_are_called_as_we_know_them(end: str, name: str) -> None:
    """R9: a worker that waits there has nothing that a signal could interrupt."""
    package = {"loky": "joblib.externals.loky", "torch": "torch"}.get(end.partition(".")[0])
    if package is not None:
        pytest.importorskip(package, reason=f"{package} is not installed here")
    module = importlib.import_module(f"joblib.externals.{end}" if end.startswith("loky") else end)
    holders = [module, *(each for _, each in inspect.getmembers(module, inspect.isclass))]
    assert any(inspect.isfunction(vars(each).get(name)) for each in holders)
