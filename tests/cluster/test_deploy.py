"""The files in deploy/ that start a cluster store: their own command lines, with the packaged etcd."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from pluto_dist.cluster.etcd import examine
from pluto_dist.core.values.engine import ClusterAddress
from tests.cluster.servers import ROOT, START_S, free_port, program, until


def of_systemd() -> list[str]:
    """What the unit starts."""
    unit = (ROOT / "deploy/systemd/pluto-dist-store.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    return shlex.split(line.removeprefix("ExecStart=").replace("%H", "localhost"))


def of_kubernetes() -> list[str]:
    """What the StatefulSet's container starts."""
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes/store.yaml").read_text())
    (found,) = [document for document in documents if document["kind"] == "StatefulSet"]
    return list(found["spec"]["template"]["spec"]["containers"][0]["command"])


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[str]:
    """The member with this command, on ports and in a folder of the test's own; its client URL."""
    client, peer = free_port(), free_port()
    options = [option for option in command[1:] if not option.startswith("--data-dir=")]
    moved = [
        option.replace("0.0.0.0:2379", f"127.0.0.1:{client}")
        .replace(":2379", f":{client}")
        .replace(":2380", f":{peer}")
        for option in options
    ]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [program(), *moved, f"--data-dir={folder / 'data'}"], stdout=log, stderr=log, cwd=folder
        )
    try:
        yield f"http://127.0.0.1:{client}"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("command", [of_systemd(), of_kubernetes()], ids=["systemd", "kubernetes"])
def test_the_store_of_deploy_is_fit(command: list[str], tmp_path: Path) -> None:
    """It starts with its options, keeps its history short, and the doctor finds nothing to mend."""
    assert any(option.startswith("--auto-compaction-retention=") for option in command)
    with running(command, tmp_path) as url:
        address = ClusterAddress(members=(url,), prefix="deployed")

        def fit() -> bool:
            return all(finding.level != "bad" for finding in examine(address))

        until(fit, "the doctor to find all well", START_S, (tmp_path / "log").read_text)
