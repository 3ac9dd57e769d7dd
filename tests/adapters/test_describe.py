"""What the page of a new Run shows of the process, the machine and the code (G11: without secrets)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from pluto_dist.client.origin import command_line, origin_of_this_process
from pluto_dist.coordinator import node as module
from pluto_dist.coordinator.node import Describer, code_of, described, masked, packages, without_password
from pluto_dist.core.values.lifecycle import Origin
from tests.official import OFFICIAL_PYTHON, needs_official_client
from tests.patience import NEVER_S, PATIENCE_S, wait_until

KEY = "mlps_0123456789abcdef"
ENV = {
    "NCCL_DEBUG": "INFO",
    "NCCL_PROXY_TOKEN": "very-secret-1",
    "FI_PROVIDER": "efa",
    "CUDA_VISIBLE_DEVICES": "0,1",
    "HF_TOKEN": "hf_abcdefgh",
    "WORLD_SIZE": "8",
    "SLURM_JOB_ID": "77",
    "KONDUKTOR_JOB_NAME": "job",
    "NUM_NODES": "2",
}


def known(origin: Origin) -> dict[str, Any]:
    return msgspec.json.decode(origin.known, type=dict[str, Any])


def test_a_process_says_how_it_was_started_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "train.py", "--lr=0.1", f"--note={KEY}", "hf_abcdefgh"])
    origin = origin_of_this_process(ENV, KEY, nodes=2)
    found = known(origin)
    assert found["process"]["cmdline"] == ["python", "train.py", "--lr=0.1", "--note=***", "***"]
    assert (found["process"]["exe"], found["process"]["pid"]) == (sys.executable, os.getpid())
    assert found["nccl"]["nccl_env"] == {
        "FI_PROVIDER": "efa",
        "NCCL_DEBUG": "INFO",
        "NCCL_PROXY_TOKEN": "***",
    }
    assert found["cuda"]["cuda_env"] == {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert found["job"] == {"nodes": 2, "world_size": "8", "slurm_job_id": "77"}
    assert found["konduktor"] == {"job_name": "job", "num_nodes": "2"}
    assert origin.folder == str(Path.cwd())
    assert all(Path(folder).is_absolute() for folder in origin.search_path)
    assert not {"very-secret-1", "hf_abcdefgh", KEY} & set(json.dumps(found).split('"'))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--api-key", "abc", "--lr", "1"], ["--api-key", "***", "--lr", "1"]),
        (["--api-key=abc", "WANDB_API_KEY=x"], ["--api-key=***", "WANDB_API_KEY=***"]),
        (["--tokenizer", "bpe", "keys.txt"], ["--tokenizer", "***", "keys.txt"]),  # rather one too many
        (["--password"], ["--password"]),
        (["plain"] * 500, ["plain"] * 200),
    ],
)
def test_secret_arguments_are_masked(given: list[str], shown: list[str]) -> None:
    """G11"""
    assert command_line(given, lambda text: text) == shown


def test_what_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "cwd", gone)
    origin = origin_of_this_process({}, "", nodes=1)
    assert origin.folder == ""
    assert not {"job", "konduktor"} & set(known(origin))


SHAPE = """
import json, pluto
def shape(value):
    return {name: shape(each) for name, each in value.items()} if isinstance(value, dict) else None
found = pluto.System(pluto.Settings()).get_info()
print(json.dumps(shape(found)))
"""


def missing(theirs: Mapping[str, Any], ours: Mapping[str, Any], above: str = "") -> list[str]:
    found = []
    for name, inner in theirs.items():
        if name not in ours:
            found.append(above + name)
        elif isinstance(inner, dict) and isinstance(ours[name], dict):
            found += missing(inner, ours[name], f"{above}{name}.")
    return found


@needs_official_client
def test_the_form_is_the_installed_official_clients(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's panels, grouping and filters look for its names."""
    env = {"HOME": str(repository), "PATH": os.environ["PATH"], "NCCL_DEBUG": "1"}
    probe = [str(OFFICIAL_PYTHON), "-c", SHAPE]
    quiet = env | {"PLUTO_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(probe, capture_output=True, text=True, check=True, cwd=repository, env=quiet)
    monkeypatch.chdir(repository)
    ours = msgspec.json.decode(Describer().describe(origin_of_this_process(env, "", 1), patience_s=60.0))
    assert missing(json.loads(done.stdout.splitlines()[-1]), ours) == []


def git(folder: Path, *arguments: str) -> None:
    author = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With an origin whose address has a password, one commit, and a change."""
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    git(folder, "config", "user.name", "Ada")
    git(folder, "config", "user.email", "ada@example.org")
    git(folder, "remote", "add", "origin", "https://ada:ghp_0123456789@example.org/lab/code.git")
    (folder / "train.py").write_text("lr = 0.1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    git(folder, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(folder, "branch", "-q", "--set-upstream-to=origin/main")
    (folder / "train.py").write_text("lr = 0.2\nAPI_KEY = 'abcdef123'\n")
    return folder


def later() -> float:
    """An instant that git has until."""
    return time.monotonic() + PATIENCE_S


def test_the_state_of_the_code(repository: Path) -> None:
    sub = repository / "deep"
    sub.mkdir()
    found = code_of(str(sub), later())
    assert found.keys() == {"root", "commit", "branch", "name", "email", "url", "dirty", "diff"}
    assert (found["root"], found["branch"], found["dirty"]) == (str(repository), "main", True)
    assert (found["name"], found["email"]) == ("Ada", "ada@example.org")
    assert found["url"] == "https://example.org/lab/code.git"
    assert "+lr = 0.2" in found["diff"]["head"]
    assert "abcdef123" not in found["diff"]["head"]
    assert "API_KEY = '***'" in found["diff"]["head"]


def test_a_repository_runs_no_program_of_its_own(repository: Path) -> None:
    """Opening a Run is no reason to run what a cloned repository names."""
    for name in ("core.fsmonitor", "diff.external"):
        git(repository, "config", name, f"touch {repository}/ran; false")
    code_of(str(repository), later())
    assert not (repository / "ran").exists()


def test_a_large_diff_is_cut(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_DIFF", 20)
    assert "more characters" in code_of(str(repository), later())["diff"]["head"]


def test_without_a_repository_or_time_there_is_nothing(repository: Path, tmp_path: Path) -> None:
    assert code_of(str(tmp_path / "nowhere"), later()) == {}
    assert code_of(str(repository), time.monotonic() - NEVER_S) == {}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pass@host/x", "https://host/x"),
        ("ssh://git@host:22/x", "ssh://host:22/x"),
        ("git@github.com:lab/code.git", "git@github.com:lab/code.git"),
        ("", ""),
    ],
)
def test_the_address_has_no_password(url: str, shown: str) -> None:
    """G11"""
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "text", ["token: abc123", 'PASSWORD="abc123"', "my_api_key=abc123", "'secret': 'abc123'"]
)
def test_assigned_secrets_are_masked(text: str) -> None:
    """G11"""
    assert "abc123" not in masked(text)


def test_packages_are_read_off_their_folders(tmp_path: Path) -> None:
    installed = ("pluto_ml-0.0.29.dist-info", "torch-2.13.0+cu124.dist-info", "old-1.2-py3.11.egg-info")
    for name in (*installed, "torch", "torch-cuda.libs"):
        (tmp_path / "first" / name).mkdir(parents=True)
    (tmp_path / "second" / "torch-1.0.dist-info").mkdir(parents=True)
    folders = [str(tmp_path / name) for name in ("first", "second", "gone")]
    assert packages(folders) == ["old==1.2", "pluto-ml==0.0.29", "torch==2.13.0+cu124"]


def test_a_part_that_hangs_or_fails_holds_up_nothing() -> None:
    """A driver may never answer: it is left out, and not asked again while it hangs."""
    asked: list[str] = []
    let_go = threading.Event()

    def hangs() -> dict[str, Any]:
        asked.append("hangs")
        let_go.wait(PATIENCE_S)
        return {"late": 1}

    def fails() -> dict[str, Any]:
        raise RuntimeError("no such driver")

    parts = {"works": lambda: {"cpu": {"virtual": 4}}, "fails": fails, "hangs": hangs}
    describer = Describer(lambda origin, until: parts)
    origin = Origin(known=msgspec.Raw(b'{"cpu":{"kind":"x"},"process":{"pid":1}}'))
    expected = {"cpu": {"kind": "x", "virtual": 4}, "process": {"pid": 1}}
    assert msgspec.json.decode(describer.describe(origin, patience_s=2.0)) == expected
    assert msgspec.json.decode(describer.describe(origin, patience_s=2.0)) == expected
    assert asked == ["hangs"]
    let_go.set()


def test_two_runs_that_are_described_at_once_share_the_answers() -> None:
    """The second waits with the first, and what depends on the folder is asked for each."""
    asked: list[str] = []
    let_go, begun = threading.Event(), threading.Event()

    def parts(origin: Origin, _: float) -> dict[Any, Any]:
        def of_machine() -> dict[str, Any]:
            asked.append("machine")
            begun.set()
            let_go.wait(PATIENCE_S)
            return {"cpu": 4}

        return {"machine": of_machine, ("git", origin.folder): lambda: {"git": origin.folder}}

    describer, found = Describer(parts), dict[str, Any]()

    def describe(folder: str) -> None:
        found[folder] = msgspec.json.decode(describer.describe(Origin(folder=folder), PATIENCE_S))

    threads = [threading.Thread(target=describe, args=(folder,)) for folder in ("a", "b")]
    threads[0].start()
    begun.wait(PATIENCE_S)
    threads[1].start()
    wait_until(lambda: ("git", "b") in describer._asked or found.get("b"), "the second")
    let_go.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert found == {folder: {"cpu": 4, "git": folder} for folder in ("a", "b")}
    assert asked == ["machine"]


class Nvml:
    """A stand-in for `pynvml` with two cards."""

    NVML_TEMPERATURE_GPU = 0

    def __getattr__(self, name: str) -> Any:
        said = {
            "DeviceGetCount": 2,
            "DeviceGetName": b"NVIDIA H100",
            "DeviceGetTemperature": 40,
            "DeviceGetMemoryInfo": SimpleNamespace(total=80 << 30),
            "DeviceGetComputeRunningProcesses": [SimpleNamespace(pid=5)],
            "DeviceGetGraphicsRunningProcesses": [],
            "SystemGetDriverVersion": "550.1",
            "SystemGetCudaDriverVersion": 12040,
        }
        return lambda *given: said.get(name.removeprefix("nvml"))


def test_cards_are_described_as_the_page_wants_them() -> None:
    card = {"name": "NVIDIA H100", "memory": {"total": 80 << 30}, "temp": 40, "pid": [5]}
    assert described(Nvml()) == {
        "gpu": {"nvidia": {"count": 2, "driver": "550.1", "devices": [card, card]}},
        "cuda": {"cuda_driver": "12.4"},
    }
