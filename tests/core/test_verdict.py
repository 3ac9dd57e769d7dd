"""What the end of a Run is: evidence of every kind and in every order (R9, R10, G7)."""

from __future__ import annotations

import msgspec
import pytest

from pluto_dist.core.rules.verdict import DRAIN_S, decide, describe, status_of_code
from pluto_dist.core.values.lifecycle import Evidence
from pluto_dist.core.values.records import Lease, Verdict
from tests.core.builders import claim, ended, exited, killed, member, raised, run, signalled, vanished

T = 1000.0


def decided(*members: Lease) -> Verdict:
    """The verdict of a job with these members."""
    return decide(run(), members)


def culprit(verdict: Verdict) -> int | None:
    """Rank of the first failure."""
    assert verdict.first_failure is not None
    return verdict.first_failure.rank


KINDS: list[tuple[str, Evidence, str, str]] = [
    ("exception", raised(T), "FAILED", "ValueError: boom"),
    ("communication error", raised(T, "ConnectionResetError", communication=True), "FAILED", "Connection"),
    ("KeyboardInterrupt", raised(T, "KeyboardInterrupt"), "TERMINATED", "KeyboardInterrupt"),
    ("pruned by optuna", raised(T, "TrialPruned"), "TERMINATED", "TrialPruned"),
    ("sys.exit(3)", exited(T, 3), "FAILED", "exit code 3"),
    ("exit code 1 of a shell", exited(T, 1), "FAILED", "exit code 1"),
    ("exit code 143", exited(T, 143), "TERMINATED", "exit code 143"),
    ("exit code 130", exited(T, 130), "TERMINATED", "exit code 130"),
    ("exit code 137", exited(T, 137), "FAILED", "exit code 137"),
    ("SIGTERM", signalled(T, "SIGTERM"), "TERMINATED", "SIGTERM"),
    ("SIGINT", signalled(T, "SIGINT"), "TERMINATED", "SIGINT"),
    ("SIGHUP", signalled(T, "SIGHUP"), "TERMINATED", "SIGHUP"),
    ("SIGKILL", killed(T), "FAILED", "SIGKILL"),
    ("SIGSEGV", killed(T, "SIGSEGV"), "FAILED", "SIGSEGV"),
    ("OOM", killed(T, oom=True), "FAILED", "OOM"),
    ("vanished", vanished(T, alive_until=T - 1), "FAILED", "vanished"),
]


@pytest.mark.parametrize(
    ("evidence", "status", "words"), [row[1:] for row in KINDS], ids=[row[0] for row in KINDS]
)
@pytest.mark.parametrize("rank", [0, 1])
def test_each_kind_of_evidence(evidence: Evidence, status: str, words: str, rank: int) -> None:
    """R9: owner and worker alike; the reason names who and what."""
    members = [ended(member(0), T, "finished"), ended(member(1), T, "finished")]
    members[rank] = ended(member(rank), T, "exited", evidence)
    verdict = decided(*members)
    assert verdict.status == status
    assert words in verdict.reason
    assert f"rank {rank} (pid 10{rank} on host)" in verdict.reason
    assert culprit(verdict) == rank


def dead(evidence: Evidence, alive_until: float = T - 1) -> Evidence:
    """As the coordinator finds it from outside."""
    return msgspec.structs.replace(evidence, alive_until=alive_until)


@pytest.mark.parametrize(
    ("work", "end", "evidence", "status"),
    [
        pytest.param("task", "died", dead(exited(T, 1)), "TERMINATED", id="Ray ends its worker"),
        pytest.param("task", "exited", dead(killed(T)), "TERMINATED", id="by SIGKILL"),
        pytest.param("actor", "died", vanished(T, alive_until=T - 1), "TERMINATED", id="ray.kill(actor)"),
        pytest.param("task", "exited", dead(killed(T, oom=True)), "FAILED", id="memory"),
        pytest.param("task", "exited", dead(killed(T, "SIGSEGV")), "FAILED", id="crash"),
        pytest.param("task", "exited", raised(T), "FAILED", id="exception"),
        pytest.param("task", "exited", exited(T, 1), "FAILED", id="its own sys.exit(1)"),
        pytest.param("task", "finished", dead(exited(T, 1)), "COMPLETED", id="finish() before"),
        pytest.param("", "exited", dead(exited(T, 1)), "FAILED", id="no Ray"),
    ],
)
def test_the_end_of_a_worker_of_ray_says_nothing(
    work: str, end: str, evidence: Evidence, status: str
) -> None:
    """R9: a task's process is used for others and ended without a word; the reason says what to call."""
    owner = member(None, opened=claim(lent_by_ray=work))
    verdict = decided(ended(owner, T, end, evidence))
    assert verdict.status == status
    assert ("call run.finish()" in verdict.reason) == (status == "TERMINATED")


def test_a_task_that_leaves_its_run_open_has_not_completed_it() -> None:
    """R9: the client says `finish` for it when the worker goes on; an actor ends with its process."""
    for work, status in (("task", "TERMINATED"), ("actor", "COMPLETED")):
        owner = member(None, opened=claim(lent_by_ray=work))
        assert decided(ended(owner, T, "finished", by_exit=True)).status == status
    rank = member(0, opened=claim(0, lent_by_ray="actor"))
    assert decided(ended(rank, T, "exited", dead(killed(T)))).status == "FAILED"


def test_a_restart_that_gloo_spoils_is_named_with_its_cure() -> None:
    """Only of a restarted attempt; the first one has no addresses of another."""
    words = "Gloo connectFullMesh failed with [...] timed out connecting: SO_ERROR: Connection refused"
    error = msgspec.structs.replace(raised(T, "RuntimeError", communication=True), message=words)
    for attempt, named in ((0, False), (1, True)):
        owner = ended(member(0, attempt=attempt), T, "exited", error)
        verdict = decide(run(attempt=attempt, max_restarts=1), (owner,))
        assert ("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in verdict.reason) is named


def test_a_restart_in_which_no_rank_came_to_init_is_named() -> None:
    """The reason is that of the attempt before, because the ranks of the last one said nothing."""
    owner = ended(member(0), T, "exited", raised(T))
    for gone_at, attempts, named in ((T, 1, True), (None, 1, False), (T, 0, False)):
        verdict = decide(run(max_restarts=attempts, launcher_gone_at=gone_at), (owner,))
        assert ("no rank called init() after that" in verdict.reason) is named


def test_nobody_failed() -> None:
    """G7"""
    verdict = decided(ended(member(0), T, "finished"), ended(member(1), T, "closed"))
    assert (verdict.status, verdict.first_failure) == ("COMPLETED", None)


@pytest.mark.parametrize(
    ("notebook", "by_exit", "status"),
    [
        (True, True, "TERMINATED"),
        (True, False, "COMPLETED"),
        (False, True, "COMPLETED"),
    ],
)
def test_a_notebooks_kernel_that_ends_has_finished_nothing(
    notebook: bool, by_exit: bool, status: str
) -> None:
    """G7, R9: a restart of the kernel runs the exit hook too; only a script is done when it ends."""
    owner = ended(member(opened=claim(notebook=notebook)), T, "finished", by_exit=by_exit)
    verdict = decided(owner)
    assert (verdict.status, verdict.first_failure) == (status, None)
    assert ("kernel" in verdict.reason) == (status == "TERMINATED")


def test_a_failure_goes_before_the_end_of_a_kernel() -> None:
    """R10"""
    owner = ended(member(None, opened=claim(notebook=True)), T, "finished", raised(T), by_exit=True)
    assert decided(owner).status == "FAILED"


def test_exit_code_0_is_no_failure() -> None:
    """R9"""
    assert decided(ended(member(0), T, "exited", exited(T, 0))).status == "COMPLETED"


def test_sigkill_of_a_worker_whose_peers_raise_first() -> None:
    """R10: both peers raised 23 ms later and were heard first; then torchrun's SIGTERM came (seen)."""
    verdict = decided(
        ended(member(0), T + 0.03, "exited", raised(T + 0.023, "DistBackendError", communication=True)),
        ended(member(1), T + 0.2, "died", killed(T + 0.2, alive_until=T + 0.01)),
        ended(member(2), T + 0.03, "exited", raised(T + 0.023, "DistBackendError", communication=True)),
        ended(member(3), T + 0.5, "exited", signalled(T + 0.4)),
    )
    assert verdict.status == "FAILED"
    assert culprit(verdict) == 1
    assert "SIGKILL" in verdict.reason


def test_a_death_that_is_noticed_late_is_as_old_as_its_last_sign_of_life() -> None:
    """R10: the next coordinator learns of it long after the peers' errors."""
    verdict = decided(
        ended(member(0), T, "exited", raised(T + 0.02, communication=True)),
        ended(member(1), T + 60, "died", vanished(T + 60, alive_until=T)),
    )
    assert culprit(verdict) == 1


def test_what_follows_a_sigterm_is_its_consequence() -> None:
    """R10"""
    verdict = decided(
        ended(member(0), T, "exited", signalled(T)),
        ended(member(1), T + 0.1, "exited", raised(T + 0.05, communication=True)),
        ended(member(2), T + 30, "died", killed(T + 30)),
    )
    assert verdict.status == "TERMINATED"
    assert "asked to stop by SIGTERM" in verdict.reason


def test_what_came_before_a_sigterm_is_its_cause() -> None:
    """R10"""
    verdict = decided(
        ended(member(0), T, "exited", signalled(T)),
        ended(member(1), T, "exited", raised(T - 5)),
    )
    assert verdict.status == "FAILED"
    assert culprit(verdict) == 1


def test_kinds_rank_within_two_seconds_and_time_beyond() -> None:
    """R10"""
    close = (ended(member(0), T, "exited", raised(T)), ended(member(1), T, "died", killed(T + 1.9)))
    apart = (ended(member(0), T, "exited", raised(T)), ended(member(1), T, "died", killed(T + 2.1)))
    assert culprit(decided(*close)) == 1
    assert culprit(decided(*apart)) == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (killed(T + 1), raised(T)),
        (raised(T + 1), raised(T, communication=True)),
        (exited(T + 1, 1), raised(T, communication=True)),
        (raised(T, communication=True), signalled(T + 1)),
    ],
)
def test_order_of_kinds(first: Evidence, second: Evidence) -> None:
    """R10: death > exception or exit code > communication error > SIGTERM."""
    verdict = decided(ended(member(0), T, "exited", second), ended(member(1), T, "exited", first))
    assert culprit(verdict) == 1


def test_earlier_of_two_equals_is_first() -> None:
    """R10"""
    verdict = decided(
        ended(member(0), T, "exited", raised(T + 0.1)), ended(member(1), T, "exited", raised(T))
    )
    assert culprit(verdict) == 1


@pytest.mark.parametrize(
    ("after_finish", "status"),
    [(-1.0, "FAILED"), (5.0, "FAILED"), (DRAIN_S, "FAILED"), (DRAIN_S + 1, "COMPLETED")],
)
def test_a_worker_fails_before_within_or_after_the_drain(after_finish: float, status: str) -> None:
    """R10"""
    owner = ended(member(0), T, "finished")
    assert decided(owner, ended(member(1), T, "died", killed(T + after_finish))).status == status


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (0, "COMPLETED"),
        (1, "FAILED"),
        (2, "TERMINATED"),
        (15, "TERMINATED"),
        (143, "TERMINATED"),
        (7, "FAILED"),
    ],
)
def test_an_explicit_code_is_the_owners_verdict(code: int, status: str) -> None:
    """R9: whatever the evidence says; the failure is kept for people."""
    verdict = decided(
        ended(member(0), T, "finished", finish_code=code), ended(member(1), T, "exited", raised(T - 1))
    )
    assert verdict.status == status == status_of_code(code)
    assert f"finish(code={code})" in verdict.reason
    assert culprit(verdict) == 1


def test_finish_within_an_exception_is_a_failure() -> None:
    """R9: `finally: run.finish()`"""
    assert decided(ended(member(0), T, "finished", raised(T - 0.1))).status == "FAILED"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("", "ValueError"),
        (
            "\n  CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA",
            "ValueError: CUDA error: out of memory",
        ),
        (
            "Caught KeyError in worker.\nOriginal Traceback (most recent call last):\n  in f\nKeyError: 'a'",
            "ValueError: Caught KeyError in worker. … KeyError: 'a'",
        ),
        ("x" * 1000, "ValueError: " + "x" * 287 + "…"),
    ],
)
def test_a_reason_is_one_line(message: str, line: str) -> None:
    """R10: what torch says in many lines stands in the traceback."""
    evidence = msgspec.structs.replace(raised(T), message=message)
    assert decided(ended(member(0), T, "exited", evidence)).reason.endswith(f" failed first: {line}")


def test_an_oom_kill_is_named() -> None:
    """R9"""
    verdict = decided(ended(member(0), T, "died", killed(T, oom=True)))
    assert verdict.first_failure is not None
    assert "OOM" in describe(verdict.first_failure)
