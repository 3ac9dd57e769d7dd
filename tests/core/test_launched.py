"""Below `pluto-dist run`: who gets which role, and whose word counts (R5, R9, R10)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pluto_dist.core.rules.claims import Facts, Grant, Refuse, Verify, decide_claim
from pluto_dist.core.rules.verdict import decide
from pluto_dist.core.values.lifecycle import Evidence
from pluto_dist.core.values.records import Lease
from tests.core.builders import claim, ended, exited, identity, job, killed, member, raised, run, signalled

T = 1000.0
OWNER = member(None, opened=claim(None, launcher=True, identity=identity(7)), label="launcher")
WORKER = member(None, owns=False, lease_id="w", label="worker", opened=claim(None, identity=identity(8)))
RANK1 = member(1, opened=claim(1, job=job(1, key="torchrun")))


def decided(claimed: dict[str, Any], *members: Lease, attempt: int = 0, verified: bool = False) -> str:
    """The decision on a claim from below the launcher, in short."""
    facts = Facts(
        run=run(attempt=attempt), phase="running", owner=OWNER, members=(OWNER, *members), verified=verified
    )
    opened = claim(**{"identity": identity(50), "launched_by": "owner", "job": job(key="other"), **claimed})
    match decide_claim(opened, facts, T):
        case Grant(role=role):
            return role
        case Refuse(error=error):
            return error
        case Verify():
            return "verify"
        case other:
            raise TypeError(other)


def rank(number: int, attempt: int = 0) -> dict[str, Any]:
    """A claim of a rank that the command started."""
    return {"job": job(number, key="torchrun", attempt=attempt)}


@pytest.mark.parametrize(
    ("claimed", "members", "role"),
    [
        pytest.param({}, (), "worker", id="the first process without a rank"),
        pytest.param({}, (WORKER,), "side", id="the next one beside it"),
        pytest.param({}, (RANK1,), "worker", id="one without a rank beside ranks"),
        pytest.param({"ancestors": (identity(8),)}, (WORKER,), "side", id="a program that the worker starts"),
        pytest.param(rank(0), (), "worker", id="rank 0"),
        pytest.param(rank(3), (RANK1,), "worker", id="rank 3"),
        pytest.param(rank(0, 1), (RANK1,), "worker", id="rank 0 of the next attempt"),
        pytest.param({"wanted": "side"}, (), "side", id="who asks to be a side"),
        pytest.param({"wanted": "owner"}, (), "verify", id="who insists on owning it"),
        pytest.param({"verb": "attach"}, (), "side", id="attach"),
    ],
)
def test_no_process_below_the_launcher_owns_the_run(
    claimed: dict[str, Any], members: tuple[Lease, ...], role: str
) -> None:
    """R5: the launcher does; ranks and the first other process have a say, the rest are sides."""
    assert decided(claimed, *members) == role


def test_a_rank_of_an_attempt_that_is_over_is_refused() -> None:
    assert decided(rank(0, 0), attempt=1) == "StaleEpochError"


def test_whoever_insists_on_owning_is_told_of_the_launcher() -> None:
    assert decided({"wanted": "owner"}, verified=True) == "OwnerExistsError"


def command(evidence: Evidence) -> Evidence:
    """What the launcher saw of its command, process 99."""
    return msgspec.structs.replace(evidence, command_pid=99)


@pytest.mark.parametrize(
    ("by_launcher", "by_rank", "status", "label"),
    [
        pytest.param(command(exited(T, 3)), None, "FAILED", "command", id="nobody else said a word"),
        pytest.param(command(killed(T)), None, "FAILED", "command", id="killed"),
        pytest.param(command(exited(T, 143)), None, "TERMINATED", "command", id="asked to stop"),
        pytest.param(command(exited(T, 1)), raised(T - 5), "FAILED", "rank1", id="an exception of long ago"),
        pytest.param(
            command(exited(T, 1)), raised(T, communication=True), "FAILED", "rank1", id="a lost connection"
        ),
        pytest.param(command(exited(T, 1)), signalled(T - 1), "TERMINATED", "rank1", id="SIGTERM to a rank"),
        pytest.param(signalled(T - 1), killed(T), "TERMINATED", "launcher", id="SIGTERM to the launcher"),
    ],
)
def test_the_commands_exit_is_the_last_word_that_counts(
    by_launcher: Evidence, by_rank: Evidence | None, status: str, label: str
) -> None:
    """R9: what a participant says of itself is worth more than what its parent saw."""
    members = (
        ended(OWNER, T, "finished", by_launcher),
        ended(RANK1, T, "exited", *([by_rank] if by_rank else [])),
    )
    verdict = decide(run(), members)
    assert verdict.status == status
    assert verdict.first_failure is not None
    assert verdict.first_failure.label == label
    assert (verdict.first_failure.pid == 99) == (label == "command")


@pytest.mark.parametrize(
    ("after", "status"),
    [
        pytest.param((), "COMPLETED", id="it went on and ended well"),
        pytest.param((exited(T + 5, 0),), "COMPLETED", id="exit code 0"),
        pytest.param((killed(T + 30),), "TERMINATED", id="the launcher lost its patience"),
        pytest.param((raised(T + 1, communication=True),), "TERMINATED", id="a peer was killed first"),
    ],
)
def test_an_ignored_sigterm_counts_only_if_it_did_not_end_well(
    after: tuple[Evidence, ...], status: str
) -> None:
    """R10: what follows the first SIGTERM is its consequence, but not that nothing followed."""
    ignored = msgspec.structs.replace(signalled(T), ignored=True)
    rank0 = ended(member(0), T + 30, "died", ignored, *after)
    assert decide(run(), (rank0,)).status == status
