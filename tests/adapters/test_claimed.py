"""What a process says of its Run by itself, while no coordinator can be had."""

from __future__ import annotations

from typing import Any

import pytest

from pluto_dist.client.offline import Claimed, knows_its_run
from pluto_dist.core.values.ids import Job, RunRef
from pluto_dist.core.values.lifecycle import Fork, TagsRemoved, Target
from tests.core.builders import claim, identity


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({}, True),
        ({"job": Job(key="j", rank=0)}, True),
        ({"job": Job(key="j", rank=3), "run": RunRef(external_id="mine")}, True),
        ({"job": Job(key="j", rank=3)}, False),
        ({"job": Job(key="j", rank=0, attempt=1)}, False),
        ({"launched_by": "lease"}, False),
        ({"parents": (identity(7),)}, False),
        ({"verb": "attach", "run": RunRef(external_id="mine")}, False),
    ],
)
def test_a_process_knows_its_run_by_itself_unless_the_run_is_anothers(
    changes: dict[str, Any], *, known: bool
) -> None:
    """G4, R4: a rank without an id does not know which Run its rank 0 has."""
    assert knows_its_run(claim(**changes)) is known


def test_it_says_what_was_asked_for_and_what_was_changed_since() -> None:
    """G4: the generated id is the Run's; nothing is invented that only a server gives."""
    claimed = Claimed("lease", claim(generated_id="run-1", tags=("a", "b"), fork=Fork(RunRef(id=7), 40)))
    claimed.take(TagsRemoved(at=0.0, wall_ms=0, tags=("a",)))
    run = claimed.view.run
    assert run is not None
    assert (run.external_id, run.tags, run.id, run.display_id, run.url) == ("run-1", ("b",), None, None, "")
    assert (run.fork_run_id, run.fork_step, run.status) == (7, 40, "RUNNING")


def test_a_run_that_was_asked_for_by_number_is_called_that() -> None:
    """G4: the caller's word for it is all that is known."""
    claimed = Claimed("lease", claim(run=RunRef(id=42), resume=True))
    assert claimed.view.run is not None
    assert (claimed.view.run.external_id, claimed.view.run.resumed) == ("42", True)


def test_on_a_further_node_without_a_server_it_is_that_nodes_own_run() -> None:
    """R12: as the coordinator will name it."""
    job, local = Job(key="j", rank=0, node_rank=1, nodes=2), Target(mode="local", store="/s")
    run = Claimed("lease", claim(run=RunRef(external_id="mine"), job=job, target=local)).view.run
    assert run is not None
    assert run.external_id == "mine-node1"
