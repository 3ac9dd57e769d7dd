"""What the demo's programs share: averaging over pipes, checkpoints, the ledger."""

from __future__ import annotations

import ast
import threading
from array import array
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from pluto_dist.cli.demo import job
from pluto_dist.cli.demo.job import ledger, torchrun
from pluto_dist.cli.demo.job.network import Network, load_network, save_network
from pluto_dist.cli.demo.job.torchrun import Peers
from tests.patience import PATIENCE_S

JOB = Path(job.__file__).parent


def ranks(world: int) -> list[Peers]:
    return [
        Peers(root=rank == 0, connections=[Connection(each.detach()) for each in sockets])
        for rank, sockets in enumerate(torchrun.connect(world))
    ]


def on_all(peers: list[Peers], inputs: list[array[float]]) -> list[array[float]]:
    found: dict[int, array[float]] = {}

    def one(rank: int) -> None:
        found[rank] = peers[rank].mean(inputs[rank])

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(len(peers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return [found[rank] for rank in range(len(peers))]


def test_all_ranks_get_the_same_mean() -> None:
    peers = ranks(3)
    for _ in range(2):
        means = on_all(peers, [array("d", [rank, 3.0 * rank]) for rank in range(3)])
        assert [list(mean) for mean in means] == [[1.0, 3.0]] * 3


def test_death_of_a_peer_is_an_error_in_the_others() -> None:
    root, other = ranks(2)
    del other
    with pytest.raises((EOFError, OSError)):
        root.mean(array("d", [1.0]))


def test_saved_network_comes_back(tmp_path: Path) -> None:
    network = Network(seed=7)
    path = save_network(tmp_path, 19, network)
    assert [*tmp_path.iterdir()] == [path]
    assert load_network(path).weights == network.weights


def test_ledger_reads_all_but_a_torn_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger"
    monkeypatch.setenv(ledger.VARIABLE, str(path))
    ledger.note("lease", {"loss": 0.1, "text": "a\nb"}, 4)
    with path.open("a") as file:
        file.write('["lease", "loss", 5')
    assert list(ledger.read(path)) == [("lease", "loss", 4, 0.1), ("lease", "text", 4, "a\nb")]


@pytest.mark.parametrize("path", sorted(JOB.glob("*.py")), ids=lambda path: path.name)
def test_programs_use_public_names_only(path: Path) -> None:
    """They are what users may copy."""
    own = "pluto_dist.cli.demo.job"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pluto_dist"):
            assert node.module == own or node.module.startswith(f"{own}."), node.module
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("pluto_dist")]
            assert set(names) <= {"pluto_dist"}
