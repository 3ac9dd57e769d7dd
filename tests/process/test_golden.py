"""A node that an earlier version has left, taken over by the coordinator of now."""

from __future__ import annotations

from pathlib import Path

import pytest

from pluto_dist.secret import Secret
from tests.golden import API, INGEST, KEY_ID, PY, VERSIONS, unpack
from tests.process.served import Served


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
def test_runs_of_an_earlier_version_are_delivered_and_end(served: Served, version: Path) -> None:
    """G3, G5, G12: what lay unread in its spool gets to the store and to the server, statuses included."""
    env = served.env()
    there = {API: env["PLUTO_URL_API"], INGEST: env["PLUTO_URL_INGEST"], PY: env["PLUTO_URL_PY"]}
    there[KEY_ID] = Secret(env["PLUTO_API_KEY"]).digest
    unpack(version, served.home, served.store, there)
    served.constants({"pluto_dist.coordinator.watches.UNSEEN_S": 1.0})  # its processes were of another boot
    served.cli("sync")  # hands the key over
    assert served.ended("golden")["status"] == "COMPLETED"
    losses = [point for point in served.points("golden") if point.name == "loss"]
    assert sorted(point.step for point in losses) == [*range(5), *range(6, 11)]  # 5 is a file
    helped = [point.value for point in served.points("golden") if point.name == "helped"]
    assert helped == [0.0, 1.0, 2.0, 3.0, 99.0]
    assert served.ended_remotely("far")["status"] == "COMPLETED"
    assert served.series("far") == {"loss": {0: 3.0, 1: 1.5, 2: 1.0}}
