"""`sync` against the strict emulator: what was made without a server gets there, once and as it was."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pluto_dist.backend.pluto import PlutoBackend
from pluto_dist.core.values.backend import BackendRun, Batch, OpenRequest, Outcome, RunOpened, StatusReport
from pluto_dist.core.values.document import Document, VerdictShown
from pluto_dist.core.values.lifecycle import Target
from pluto_dist.core.values.records import Point, SeriesOwner
from pluto_dist.errors import KeyRefusedError
from pluto_dist.secret import Secret
from pluto_dist.sync.plan import FRESH_S, plan
from pluto_dist.sync.sync import planned
from tests.adapters.sync_support import (
    NOW_MS,
    OWNER,
    RANK1,
    SIDE,
    Shelf,
    line,
    metric,
    owner,
    rank1,
    side,
    sync,
    text,
)
from tests.pluto_server.operator import Operator
from tests.pluto_server.server import PlutoServer


@pytest.fixture
def server() -> Iterator[PlutoServer]:
    """An emulator that has found no client defect when the test is over."""
    with PlutoServer() as server:
        yield server
        assert server.operator.check() == []


@pytest.fixture
def operator(server: PlutoServer) -> Operator:
    return server.operator


@pytest.fixture
def target(server: PlutoServer) -> Target:
    urls = server.urls
    return Target(
        mode="pluto",
        store="",
        url_api=urls.api,
        url_ingest=urls.ingest,
        url_py=urls.py,
        key_id=Secret(server.key).digest,
    )


@pytest.fixture
def backend(server: PlutoServer, target: Target) -> Iterator[PlutoBackend]:
    backend = PlutoBackend(target, lambda: Secret(server.key))
    yield backend
    backend.close()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / ".pluto")


def steps(operator: Operator, run_id: int, name: str) -> list[int]:
    return [step for step, _, _ in operator.raw_metrics(run_id).get(name, [])]


def test_a_local_run_arrives_as_it_was(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """G6: points, rows, console, tags, config, times and the final status with its reason."""
    shelf.put(owner(), status="FAILED", tags=("a", "b"), config={"lr": 0.1}, name="my run")
    shelf.write(OWNER, "metrics", *(metric(step, loss=step / 2) for step in range(5)))
    shelf.write(OWNER, "data", text(0, "x"), text(1, "y"))
    shelf.write(OWNER, "console", line(1, "one"), line(2, "two"))
    (result,) = sync(shelf, backend, target)
    run = operator.run(result.server_id or 0)
    assert (run["name"], run["externalId"], run["tags"], run["config"]) == (
        "my run",
        "mine-1",
        ["a", "b"],
        {"lr": 0.1},
    )
    assert (run["status"], run["statusMetadata"]["reason"]) == ("FAILED", "why")
    assert run["createdAt"] == "2026-01-01T00:00:00.000Z"
    assert run["statusUpdated"] == "2026-01-01T00:00:09.000Z"
    assert operator.metrics(run["id"])["loss"] == [(n, NOW_MS + n, n / 2) for n in range(5)]
    assert [(row["step"], row["data"]) for row in operator.data(run["id"])] == [(0, "x"), (1, "y")]
    assert [(row["line_number"], row["message"]) for row in operator.logs(run["id"])] == [
        (1, "one"),
        (2, "two"),
    ]
    assert (result.state, result.records, result.server_display_id) == ("uploaded", 9, run["displayId"])


def test_a_second_sync_sends_nothing(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """G8: not even a question, because asking for an external id would open the Run again."""
    shelf.simple()
    sync(shelf, backend, target)
    before = len(operator.requests())
    (again,) = sync(shelf, backend, target)
    assert (again.state, again.server_id) == ("up to date", 1)
    assert len(operator.requests()) == before


@pytest.mark.parametrize("forced", [False, True])
def test_a_cancel_that_nobody_saw_is_not_overwritten(
    shelf: Shelf, backend: PlutoBackend, target: Target, home: Target, operator: Operator, forced: bool
) -> None:
    """R10: the server applies it with the next sign of life; a person's `finish --force` is a later word."""
    known = begun(backend, home, operator)
    operator.cancel(1)
    operator.waive("6.3.10")
    operator.waive("6.3.2")  # the first sign of life is enough, and the records are still to come
    operator.waive("6.3.5")  # a FAILED that is forced comes after the cancel
    shelf.simple(status="FAILED", forced=forced, **known)
    (result,) = sync(shelf, backend, target)
    assert operator.run(1)["status"] == result.status == ("FAILED" if forced else "CANCELLED")
    (again,) = sync(shelf, backend, target)
    assert again.state == "up to date"


def test_names_are_registered_before_their_first_delivery_and_once(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    shelf.simple()
    shelf.write(OWNER, "metrics", metric(9, loss=1.0), segment=2)
    sync(shelf, backend, target)
    paths = [entry["path"] for entry in operator.requests()]
    assert paths.count("/api/runs/logName/add") == 1
    assert paths.index("/api/runs/logName/add") < paths.index("/ingest/metrics")
    assert operator.run(1)["logNames"] == {"loss": "METRIC"}


def test_an_old_run_shows_life_before_its_records_and_until_its_end(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """G7: the monitor would mark it FAILED, for good, at its next look."""
    shelf.simple()
    marked: list[int] = []

    class Slow(PlutoBackend):
        def deliver(self, run: BackendRun, batch: Batch) -> Outcome:
            marked.extend(operator.monitor_cycle())
            return super().deliver(run, batch)

    slow = Slow(target, lambda: Secret("mlps_GOOD"))
    sync(shelf, slow, target)
    slow.close()
    assert (marked, operator.run(1)["status"]) == ([], "COMPLETED")
    paths = [entry["path"] for entry in operator.requests()]
    assert paths.index("/api/runs/trigger") < paths.index("/ingest/metrics")
    assert "/api/runs/trigger" not in paths[paths.index("/api/runs/status/update") :]


def test_two_participants_with_one_name_get_two_series(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """G10, R7: by the document where it knows them, by the same rule where no coordinator has looked."""
    known = {
        "acc": SeriesOwner("rank1", "METRIC", {"owner": "acc/owner"}),
        "acc/owner": SeriesOwner("owner", "METRIC"),
    }
    shelf.put(owner(), rank1(), side(), series=known)
    for lease, value in ((SIDE, 3.0), (RANK1, 2.0), (OWNER, 1.0)):
        shelf.write(lease, "metrics", metric(0, loss=value, acc=value))
    sync(shelf, backend, target)
    found = {name: value for name, ((_, _, value),) in operator.metrics(1).items()}
    assert found == {
        "loss": 1.0,
        "loss/rank1": 2.0,
        "loss/eval": 3.0,
        "acc": 2.0,
        "acc/owner": 1.0,
        "acc/eval": 3.0,
    }


def test_records_behind_a_fence_belong_to_the_replaced_attempt(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """R7"""
    fence = shelf.write(OWNER, "metrics", metric(0, loss=1.0))
    shelf.write(OWNER, "metrics", metric(1, loss=9.0), start=fence, first=1)
    shelf.put(owner(fences={"metrics": (1, fence)}))
    sync(shelf, backend, target)
    assert (steps(operator, 1, "loss"), steps(operator, 1, "loss/attempt0")) == ([0], [1])


def test_console_of_all_processes_is_one_order(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """Readers sort by line number only."""
    shelf.put(owner(), rank1())
    shelf.write(OWNER, "console", *(line(n, str(n)) for n in (0, 2, 3, 9)))
    shelf.write(RANK1, "console", *(line(n, str(n)) for n in (1, 4, 5)))
    sync(shelf, backend, target)
    rows = operator.logs(1)
    assert [row["line_number"] for row in rows] == list(range(1, 8))
    assert [row["message"] for row in rows] == [
        "[owner] 0",
        "[rank1] 1",
        "[owner] 2",
        "[owner] 3",
        "[rank1] 4",
        "[rank1] 5",
        "[owner] 9",
    ]


def test_a_fork_comes_after_its_parent_and_names_it(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """The server counts the parent's steps only after a while."""
    operator.configure(read_lag_s=1.0)
    summary = {"loss": Point(19.0, 19, 20)}
    shelf.simple("key-parent", points=20, number=7, created_ms=NOW_MS + 50, summary=summary)
    shelf.simple("key-child1", fork_run_id=7, fork_step=10, number=8)
    (shelf.store.root / "ids").mkdir()
    (shelf.store.root / "ids" / "7").write_text("key-parent")
    parent, child = sync(shelf, backend, target, "key-child1")
    assert (parent.key, child.key) == ("key-parent", "key-child1")
    found = operator.run(child.server_id or 0)
    assert (found["forkedFromRunId"], found["forkStep"]) == (parent.server_id, 10)


def test_a_fork_whose_parent_is_not_here_is_uploaded_without_lineage(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    shelf.simple(fork_run_id=99, fork_step=10)
    (result,) = sync(shelf, backend, target)
    assert result.state == "uploaded"
    assert "without lineage" in result.why
    assert operator.run(1)["forkedFromRunId"] is None


def test_a_taken_id_gets_a_suffix_and_the_other_run_is_left_alone(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """R8, G8"""
    other = Shelf(shelf.store.root.parent / "other")
    operator.waive("6.3.8")  # the server knows no way to ask first
    other.simple("key-elsewhere")
    shelf.simple("key-here01")
    sync(other, backend, target)
    (result,) = sync(shelf, backend, target)
    assert [run["externalId"] for run in operator.runs()] == ["mine-1", "mine-1-here01"]
    assert [run["status"] for run in operator.runs()] == ["COMPLETED", "COMPLETED"]
    assert steps(operator, 1, "loss") == [0, 1, 2] == steps(operator, result.server_id or 0, "loss")
    assert sync(shelf, backend, target)[0].state == "up to date"


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_a_bad_metrics_line_is_set_aside_and_its_neighbours_arrive(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator, count: int
) -> None:
    """G6: halved until the culprit stands alone."""
    shelf.put(owner())
    lines: list[Any] = [metric(step, loss=float(step)) for step in range(count)]
    lines[count // 2] = b'{"time":1767225600000,"step":-1,"data":{"loss":1}}\n'
    shelf.write(OWNER, "metrics", *lines)
    (result,) = sync(shelf, backend, target)
    assert (result.state, result.rejected, result.status) == ("uploaded", 1, "COMPLETED")
    assert {step for step, _, _ in operator.metrics(1).get("loss", [])} == set(range(count)) - {count // 2}
    (refused,) = shelf.rejected()
    assert '"step":-1' in refused["record"]
    assert "step" in refused["reason"]
    assert sync(shelf, backend, target)[0].state == "up to date"


@pytest.mark.parametrize(("stream", "good"), [("data", text(0, "x")), ("console", line(0, "x"))])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_a_bad_row_is_set_aside_and_no_other_one_is_sent_twice(
    shelf: Shelf,
    backend: PlutoBackend,
    target: Target,
    operator: Operator,
    stream: str,
    good: dict[str, Any],
    place: int,
) -> None:
    """G6: found before anything is sent."""
    shelf.put(owner())
    key = "data" if stream == "data" else "message"
    lines: list[Any] = [{**good, key: str(n)} for n in range(7)]
    lines[place] = b'{"time":"now"}\n'
    shelf.write(OWNER, stream, *lines)
    (result,) = sync(shelf, backend, target)
    rows = operator.data(1) if stream == "data" else operator.logs(1)
    assert [int(row[key]) for row in rows] == [n for n in range(7) if n != place]
    assert (result.rejected, result.repeats) == (1, 0)


def test_an_interrupted_sync_goes_on_where_it_was(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """G6: nothing is sent again that was accepted."""
    shelf.put(owner())
    for segment in range(1, 6):
        shelf.write(OWNER, "data", text(segment, str(segment)), segment=segment)
    operator.add_fault(kind="database_error", service="ingest", skip=2)
    (broken,) = sync(shelf, backend, target, patience_s=0.0)
    assert broken.state == "failed"
    assert "no answer for 0 s" in broken.why
    operator.remove_fault()
    (whole,) = sync(shelf, backend, target)
    assert (whole.state, whole.repeats) == ("uploaded", 0)
    assert [row["data"] for row in operator.data(1)] == ["1", "2", "3", "4", "5"]
    assert len(operator.runs()) == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_is_a_counted_possible_repeat(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator, when: str
) -> None:
    """G6"""
    shelf.put(owner())
    shelf.write(OWNER, "data", text(0, "x"), text(1, "y"))
    operator.add_fault(kind="reset", when=when, service="ingest", count=1)
    (result,) = sync(shelf, backend, target)
    assert (result.state, result.repeats) == ("uploaded", 2)
    assert {row["data"] for row in operator.data(1)} == {"x", "y"}


def test_a_sync_that_dies_after_a_request_counts_it_next_time(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """G6: the intent was on disk before the rows were sent."""
    shelf.put(owner())
    shelf.write(OWNER, "data", text(0, "x"), text(1, "y"))

    class Dying(PlutoBackend):
        def deliver(self, run: BackendRun, batch: Batch) -> Outcome:
            super().deliver(run, batch)
            raise KeyboardInterrupt

    dying = Dying(target, lambda: Secret("mlps_GOOD"))
    with pytest.raises(KeyboardInterrupt):
        sync(shelf, dying, target)
    dying.close()
    operator.waive("6.3.4", name="note")  # the repeat that is counted below
    (result,) = sync(shelf, backend, target)
    assert result.repeats == 2


def test_a_refused_key_stops_everything(shelf: Shelf, target: Target, operator: Operator) -> None:
    bad = PlutoBackend(target, lambda: Secret("mlps_BAD"))
    shelf.simple()
    with pytest.raises(KeyRefusedError) as caught:
        sync(shelf, bad, target)
    bad.close()
    assert "mlps_BAD" not in str(caught.value)
    assert operator.runs() == []


def test_a_new_key_of_the_same_organization_goes_on_with_the_same_run(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    shelf.simple()
    sync(shelf, backend, target)
    shelf.write(SIDE, "metrics", metric(5, late=1.0))
    shelf.put(owner(), side())
    new = Target(**{name: getattr(target, name) for name in target.__struct_fields__} | {"key_id": "other"})
    operator.waive("6.3.2", name="late*")  # a side may write after the end
    (result,) = sync(shelf, backend, new, sees=lambda mark, key: backend.has(mark.id or 0, key))
    assert (result.server_id, len(operator.runs())) == (1, 1)
    assert steps(operator, 1, "loss") == [0, 1, 2]
    assert steps(operator, 1, "late") == [5]


def test_a_run_that_was_taken_up_again_is_ended_again(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """The server heard COMPLETED; then the Run was resumed here and failed."""
    shelf.simple(status="FAILED")
    sync(shelf, backend, target)
    shelf.put(owner(), status="COMPLETED", ended_ms=NOW_MS + 20_000, tags=("again",))
    shelf.write(OWNER, "metrics", metric(7, loss=1.0), segment=2)
    (result,) = sync(shelf, backend, target)
    assert (result.server_id, operator.run(1)["status"], operator.run(1)["tags"]) == (
        1,
        "COMPLETED",
        ["again"],
    )
    assert steps(operator, 1, "loss") == [0, 1, 2, 7]


def test_damage_in_the_store_is_passed_and_counted(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """G6: what stands around it arrives, and people are told how much could not be read."""
    shelf.put(owner())
    end = shelf.write(OWNER, "metrics", metric(0, loss=0.0))
    spoilt = shelf.write(OWNER, "metrics", metric(1, loss=1.0), start=end, first=1)
    shelf.write(OWNER, "metrics", metric(2, loss=2.0), start=spoilt, first=2)
    shelf.spoil(OWNER, "metrics", spoilt - 10)
    end = shelf.write(OWNER, "console", line(1, "one"))
    shelf.write(OWNER, "console", line(2, "two"), start=end, first=1)
    shelf.spoil(OWNER, "console", end - 10)
    (result,) = sync(shelf, backend, target)
    assert (result.state, result.damaged) == ("uploaded", 2)
    assert steps(operator, result.server_id or 0, "loss") == [0, 2]
    assert [row["message"] for row in operator.logs(result.server_id or 0)] == ["two"]
    (again,) = sync(shelf, backend, target)
    assert (again.state, again.damaged) == ("up to date", 2)


# --- remainders: Runs whose server was away ------------------------------------------------------------


@pytest.fixture
def home(target: Target, shelf: Shelf) -> Target:
    """The server as a coordinator's Run has it."""
    return Target(
        **{name: getattr(target, name) for name in target.__struct_fields__}
        | {"store": str(shelf.store.root)}
    )


def begun(backend: PlutoBackend, home: Target, operator: Operator) -> dict[str, Any]:
    """A Run that a coordinator has created; fields of its record."""
    from pluto_dist.core.values.backend import OpenRequest, RunOpened

    request = OpenRequest(
        key="key-000001", target=home, want="create", project="demo", name="first", external_id="mine-1"
    )
    opened = backend.open(request)
    assert isinstance(opened, RunOpened)
    backend.beat(BackendRun("key-000001", home, opened.id, "demo"))
    return {"target": home, "id": opened.id, "display_id": opened.display_id}


def test_of_a_remainder_only_the_rest_is_sent_and_its_copy_goes(
    shelf: Shelf, backend: PlutoBackend, target: Target, home: Target, operator: Operator
) -> None:
    """The document says what was delivered."""
    known = begun(backend, home, operator)
    done = shelf.write(OWNER, "data", text(0, "delivered before"))
    shelf.write(OWNER, "data", text(1, "rest"), start=done, first=1)
    shelf.put(owner(cursors={"data": {1: done}}), **known)
    (result,) = sync(shelf, backend, target)
    assert (result.state, result.status) == ("uploaded", "COMPLETED")
    assert [row["data"] for row in operator.data(1)] == ["rest"]
    assert shelf.segments() == []
    assert sync(shelf, backend, target)[0].state == "up to date"


def test_a_run_whose_server_never_answered_is_created(
    shelf: Shelf, backend: PlutoBackend, target: Target, home: Target, operator: Operator
) -> None:
    """A provisional Run; its create may have arrived without an answer, and is then found again (R8)."""
    begun(backend, home, operator)
    operator.waive("6.3.8")  # asked for again, because nobody heard the first answer
    shelf.simple(target=home, id=None, display_id=None, provisional=True)
    (result,) = sync(shelf, backend, target)
    assert (result.server_id, len(operator.runs()), operator.run(1)["status"]) == (1, 1, "COMPLETED")


def test_the_monitors_verdict_gives_way_to_the_true_one(
    shelf: Shelf, backend: PlutoBackend, target: Target, home: Target, operator: Operator
) -> None:
    """G7: the node was cut off, the server marked the Run FAILED, the training had completed."""
    known = begun(backend, home, operator)
    operator.waive("6.3.10")  # the silence that is mended here
    operator.advance(200)
    assert operator.monitor_cycle() == [1]
    shelf.simple(**known)
    sync(shelf, backend, target)
    assert (operator.run(1)["status"], operator.run(1)["statusMetadata"]) == ("COMPLETED", None)


def test_an_owner_that_finished_unseen_has_completed(
    shelf: Shelf, backend: PlutoBackend, target: Target, home: Target, operator: Operator
) -> None:
    """G7: everything was killed while the coordinator waited for the exit code."""
    known = begun(backend, home, operator)
    shelf.simple(status=None, **known)
    sync(shelf, backend, target, force=True)
    assert operator.run(1)["status"] == "COMPLETED"


def expecting(shelf: Shelf, age_s: float, expected: VerdictShown | None, phase: str, **known: Any) -> None:
    """A Run without a verdict whose document was written so long ago."""
    shelf.simple(status=None, **known)
    found = msgspec.json.decode(shelf.store.document("key-000001") or b"", type=Document)
    found = msgspec.structs.replace(found, phase=phase, expected=expected)
    shelf.store.write_document("key-000001", msgspec.json.encode(found))
    written_at = time.time() - age_s
    os.utime(shelf.store.run("key-000001") / "run.json", (written_at, written_at))


@pytest.mark.parametrize("phase", ["restarting", "finishing"])
def test_a_run_that_waited_when_its_node_went_away_ends_by_its_evidence(
    shelf: Shelf, backend: PlutoBackend, target: Target, home: Target, operator: Operator, phase: str
) -> None:
    """G7: a rank had failed, and the launcher was about to restart the job."""
    known = begun(backend, home, operator)
    expecting(shelf, 2 * FRESH_S, VerdictShown("FAILED", "rank 1 failed first", None), phase, **known)
    sync(shelf, backend, target)
    run = operator.run(1)
    assert (run["status"], run["statusMetadata"]["reason"]) == (
        "FAILED",
        "rank 1 failed first; its node went away before that was certain",
    )


def test_a_run_whose_end_is_expected_is_its_coordinators_as_long_as_that_writes(
    shelf: Shelf, backend: PlutoBackend, target: Target, home: Target, operator: Operator
) -> None:
    """G1, R3: what is expected is no verdict."""
    known = begun(backend, home, operator)
    expecting(shelf, 5.0, VerdictShown("COMPLETED", "the owner ended", None), "finishing", **known)
    (result,) = sync(shelf, backend, target)
    assert result.state == "skipped"
    assert operator.run(1)["status"] == "RUNNING"


def test_a_run_that_waited_for_a_restart_has_not_completed(
    shelf: Shelf, backend: PlutoBackend, target: Target, home: Target, operator: Operator
) -> None:
    """G7: a document of 0.1.0 does not say what was expected; it waits because somebody failed."""
    known = begun(backend, home, operator)
    expecting(shelf, 2 * FRESH_S, None, "restarting", **known)
    sync(shelf, backend, target)
    assert operator.run(1)["status"] == "RUNNING"


def test_a_run_that_a_living_coordinator_has_is_left_to_it(
    shelf: Shelf, backend: PlutoBackend, target: Target, home: Target, operator: Operator
) -> None:
    """R3: one speaker for each Run, also with --force, and whatever the store says."""
    known = begun(backend, home, operator)
    shelf.simple(status="FAILED", **known)
    now = msgspec.json.decode(shelf.store.document("key-000001") or b"", type=Document)
    (item,) = plan(shelf.store, target, force=True, kept={"key-000001": now})
    assert (item.state, "this node's coordinator" in item.why) == ("running", True)
    reported = msgspec.structs.replace(now, reported=True)
    (item,) = plan(shelf.store, target, kept={"key-000001": reported})
    assert item.state == "up to date"
    assert "/api/runs/status/update" not in [entry["path"] for entry in operator.requests()]


def test_a_run_of_another_server_is_left_alone(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """The API key is sent to nobody whose address only stands in a file of the store."""
    elsewhere = Target(mode="pluto", store="", url_api="http://elsewhere:1")
    shelf.simple(target=elsewhere)
    (result,) = sync(shelf, backend, target)
    assert (result.state, operator.requests()) == ("skipped", [])
    assert "http://elsewhere:1" in result.why


@pytest.mark.parametrize(("force", "state"), [(False, "running"), (True, "upload")])
def test_a_live_run_is_left_to_its_coordinator(shelf: Shelf, target: Target, force: bool, state: str) -> None:
    shelf.simple(status=None)
    shelf.put(owner(state="active", end_reason=None), status=None)
    assert [item.state for item in plan(shelf.store, target, force=force)] == [state]


def file_record(shelf: Shelf, step: int, content: bytes | None, name: str = "ckpt") -> dict[str, Any]:
    """A line of a files stream as the spool has it, and its file as the store has it."""
    record = {
        "path": f"{step:032x}",
        "fileName": f"model-{step}.pt",
        "fileType": "pt",
        "logName": name,
        "step": step,
        "time": NOW_MS + step,
        "fileSize": len(content or b""),
        "logType": "ARTIFACT",
    }
    place = shelf.store.run("key-000001") / "files" / name / f"model-{step}.pt"
    if content is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return record


def test_files_arrive_with_their_steps_and_times_and_only_once(
    shelf: Shelf, backend: PlutoBackend, target: Target, server: PlutoServer
) -> None:
    """G6, R7: of two participants with one name, the second has a suffix."""
    shelf.put(owner(), rank1())
    shelf.write(OWNER, "files", *(file_record(shelf, step, b"%d" % step) for step in range(3)))
    shelf.write(RANK1, "files", file_record(shelf, 9, b"of rank 1"))
    assert [planned(item).file_bytes for item in plan(shelf.store, target)] == [3 + len(b"of rank 1")]
    for state in ("uploaded", "up to date"):
        (result,) = sync(shelf, backend, target)
        assert (result.state, result.records, result.repeats) == (state, 4, 0)
        rows = server.operator.files(result.server_id or 0)
        assert [(row["log_name"], row["step"], row["time"] - NOW_MS) for row in rows] == [
            ("ckpt", 0, 0),
            ("ckpt", 1, 1),
            ("ckpt", 2, 2),
            ("ckpt/rank1", 9, 9),
        ]
    assert [planned(item).file_bytes for item in plan(shelf.store, target)] == [0]
    stored = server.state.objects.objects
    assert [stored[row["object_key"]] for row in rows] == [b"0", b"1", b"2", b"of rank 1"]
    assert server.operator.run(result.server_id or 0)["logNames"] == {
        "ckpt": "ARTIFACT",
        "ckpt/rank1": "ARTIFACT",
    }
    assert len(list(shelf.store.run("key-000001").glob("files/ckpt/*"))) == 4


def test_a_file_that_is_missing_is_set_aside_and_its_neighbours_arrive(
    shelf: Shelf, backend: PlutoBackend, target: Target, server: PlutoServer
) -> None:
    """G6"""
    shelf.put(owner())
    records = [file_record(shelf, step, None if step == 1 else b"x") for step in range(3)]
    shelf.write(OWNER, "files", *records)
    (result,) = sync(shelf, backend, target)
    assert (result.records, result.rejected) == (2, 1)
    assert [row["step"] for row in server.operator.files(result.server_id or 0)] == [0, 2]
    assert "cannot be read" in shelf.rejected()[0]["reason"]


def test_remainders_of_files_go_when_the_server_has_them(
    shelf: Shelf, backend: PlutoBackend, target: Target, server: PlutoServer
) -> None:
    """R11: files of a Run that has its home on the server are in the store only until then."""
    opened = backend.open(_create(target))
    assert isinstance(opened, RunOpened)
    home = msgspec.structs.replace(target, store=str(shelf.store.root))
    shelf.put(owner(), target=home, id=opened.id, display_id=opened.display_id, project=opened.project)
    shelf.write(OWNER, "files", file_record(shelf, 0, b"x"))
    (result,) = sync(shelf, backend, target)
    assert (result.state, result.server_id) == ("uploaded", opened.id)
    assert [row["step"] for row in server.operator.files(opened.id)] == [0]
    assert shelf.segments() == []
    assert not list(shelf.store.run("key-000001").glob("files/**/*.pt"))


def _create(target: Target) -> OpenRequest:
    return OpenRequest(
        key="key-000001", target=target, want="create", project="p", name="n", external_id="mine-1"
    )


def test_what_a_relay_left_behind_is_added_to_the_run_of_its_owner(
    shelf: Shelf, backend: PlutoBackend, target: Target, operator: Operator
) -> None:
    """R12, G8: the Run is neither made nor opened nor ended by it."""
    owners = OpenRequest(
        key="owner", target=target, want="create", project="demo", name="x", external_id="x", tags=("a",)
    )
    run = backend.open(owners)
    assert isinstance(run, RunOpened)
    backend.report(BackendRun("owner", target, run.id, "demo"), StatusReport("COMPLETED", None, 0))
    operator.waive("6.3.2")
    before = operator.run(run.id)
    shelf.put(rank1(), status=None, target=target, external_id="x", relay="node1", id=None, tags=())
    shelf.write(RANK1, "metrics", metric(0, loss=1.0))
    (result,) = sync(shelf, backend, target, force=True)
    assert result.state == "uploaded", result
    after = operator.run(run.id)
    same = ("status", "statusUpdated", "config", "tags", "name")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    loss = [name for name in operator.metrics(run.id) if name.startswith("loss")]
    assert loss == ["loss/rank1"], "whose the plain name is only the owner's node knows"
