"""A node whose Runs go to an emulated server: what the server has, beside what the node knows."""

from __future__ import annotations

import json
from typing import Any

import psutil

from tests.pluto_server.client import Control, ServerProcess
from tests.process.harness import Node, wait_until

SERVICES = ("api", "ingest", "py")


class Served(Node):
    """A node with an API key and the server's addresses in the environment of its scripts."""

    def __init__(self, server: ServerProcess, **settings: str) -> None:
        super().__init__(**server.env(), **settings)
        self._process = server
        self.server: Control = server.control
        self._beside: list[Served] = []

    def beside(self) -> Served:
        """Another node with the same server; its caller closes it."""
        self._beside.append(other := Served(self._process))
        return other

    def report(self, about: str = "") -> str:
        """As a node's own, and that of the nodes beside it that are still there."""
        others = [f"--- beside\n{other.report(about)}" for other in self._beside if other.base.exists()]
        return "\n".join([super().report(about), *others])

    def cut_off(self, **fault: Any) -> None:
        """The server is out of reach: every connection breaks before anything is done."""
        for service in SERVICES:
            self.server.add_fault(**({"kind": "reset", "service": service} | fault))

    def back(self) -> None:
        """The server is in reach again."""
        self.server.remove_fault()

    def remote(self, run_id: str) -> dict[str, Any]:
        """The server's Run with this external id; waits until there is one."""
        found = wait_until(
            lambda: [run for run in self.server.runs() if run["externalId"] == run_id], f"Run {run_id}"
        )
        assert len(found) == 1
        return dict(found[0])

    def ended_remotely(self, run_id: str) -> dict[str, Any]:
        """The server's Run when it has ended."""

        def ended() -> dict[str, Any] | None:
            run = self.remote(run_id)
            return run if run["status"] != "RUNNING" else None

        found = wait_until(ended, f"the end of Run {run_id} at the server")
        assert isinstance(found, dict)
        return found

    def series(self, run_id: str) -> dict[str, dict[int, float]]:
        """Values that the server's readers see, by final name and step."""
        found = self.server.metrics(self.remote(run_id)["id"])
        return {name: {step: value for step, _, value in points} for name, points in found.items()}

    def missing(self, run_id: str) -> list[str]:
        """Points in the ledger, which has steps, that the server lacks; empty when all is well (G3)."""
        there: dict[str, set[tuple[int, float]]] = {}
        for name, points in self.series(run_id).items():
            there.setdefault(name.partition("/")[0], set()).update(points.items())
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return [
            f"{lease_id} {name}@{step} = {value}"
            for lease_id, step, data in map(json.loads, lines)
            for name, value in data.items()
            if (step, value) not in there.get(name, set())
        ]

    def coordinator_mb(self) -> float:
        """Resident memory of the coordinator."""
        return float(psutil.Process(self.coordinator()).memory_info().rss) / (1 << 20)

    def too_often(self, path: str, every_s: float, since: int = 0) -> int:
        """How many requests to an address were more than one in so many seconds, and one at either end."""
        found = [entry["at"] for entry in self.server.requests()[since:] if entry["path"] == path]
        return max(0, len(found) - 2 - int((found[-1] - found[0]) / every_s)) if found else 0

    def paths(self, since: int = 0) -> list[str]:
        """Paths of the requests after the `since`-th."""
        return [entry["path"] for entry in self.server.requests()[since:]]
