"""Opening Runs: the exact requests, and what failures of each step mean (R8, G8)."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from pluto_dist.backend.pluto.opening import Opening
from pluto_dist.core.ids import RunRef
from pluto_dist.core.requests import Opened, OpenResult, Refused, Unavailable
from tests.adapters.pluto_support import Wire, created, details, ok, request

CREATE = "/api/runs/create"
RESUME = "/api/runs/resume"
DATE = {"Date": "Mon, 23 Nov 2026 01:00:00 GMT"}


def history(*events: tuple[str | None, str, str, str]) -> httpx.Response:
    listed = [
        {"id": str(number), "fromStatus": before, "toStatus": after, "source": source, "createdAt": at}
        for number, (before, after, source, at) in enumerate(events, start=1)
    ]
    return ok(runId=7, events=listed)


NEW = (None, "RUNNING", "api", "2026-11-23T00:00:00.000Z")
DONE = ("RUNNING", "COMPLETED", "api", "2026-11-23T00:30:00.500Z")
OURS = ("COMPLETED", "RUNNING", "resume", "2026-11-23T01:00:00.400Z")
THEIRS = ("COMPLETED", "RUNNING", "resume", "2026-11-23T00:59:00.000Z")


def error(status: int, text: str) -> httpx.Response:
    return httpx.Response(status, json={"error": text})


def attached() -> httpx.Response:
    response = created(resumed=True)
    response.headers.update(DATE)
    return response


def opened(result: OpenResult) -> Opened:
    assert isinstance(result, Opened), result
    return result


def refused_as(result: OpenResult) -> str:
    assert isinstance(result, Refused), result
    return result.error


# --- create ---------------------------------------------------------------------------------------


def test_create_sends_its_key_and_no_config() -> None:
    """R8: if the id is taken, the server would merge the config into somebody else's Run."""
    wire = Wire(created())
    result = opened(wire.backend().open(request(tags=("a",), config=b'{"lr":1}', created_ms=5)))
    assert wire.sent(0) == (
        "POST",
        f"http://api{CREATE}",
        {
            "runName": "n",
            "projectName": "proj",
            "externalId": "ext",
            "tags": ["a"],
            "loggerSettings": '{"pluto_dist":{"key":"k1"}}',
            "createdAt": 5,
        },
    )
    assert wire.sent(1) == ("POST", "http://api/api/runs/config/update", {"runId": 7, "config": '{"lr":1}'})
    assert result == Opened(
        id=7,
        display_id="PRO-1",
        project="proj",
        url="http://app/run",
        resumed=False,
        name="n",
        tags=("a",),
        config=b'{"lr":1}',
        created_ms=5,
    )


def test_create_without_config_is_one_request() -> None:
    wire = Wire(created(displayId=None))
    assert opened(wire.backend().open(request())).display_id == ""
    assert wire.paths == [CREATE]


def test_names_are_made_fit_before_they_are_sent() -> None:
    """What the server answers with 500 would be tried for ever."""
    wire = Wire(created())
    opened(wire.backend().open(request(project="проект\0", name="n" * 300, external_id="e" * 300)))
    body = wire.sent(0)[2]
    assert body["projectName"] == "------"
    assert len(body["runName"]) == len(body["externalId"]) == 255


@pytest.mark.parametrize(
    "fields",
    [
        {"external_id": None},
        {"project": ""},
        {"tags": tuple(map(str, range(51)))},
        {"config": b"[1]"},
        {"created_ms": -1},
        {"want": "resume", "external_id": None},
        {"want": "resume", "id": 0},
    ],
)
def test_what_can_never_be_accepted_is_refused_unsent(fields: dict[str, Any]) -> None:
    wire = Wire()
    assert refused_as(wire.backend().open(request(**fields))) == "UsageError"
    assert wire.requests == []


def test_backfilled_run_gets_a_sign_of_life_at_once() -> None:
    """With an old `updatedAt` and no heartbeat it is marked FAILED within a minute."""
    wire = Wire(created(), ok(status="RUNNING"))
    opened(wire.backend().open(request(created_ms=5, updated_ms=6)))
    assert wire.sent(0)[2]["updatedAt"] == 6
    assert wire.sent(1)[:2] == ("POST", "http://py/api/runs/trigger")


@pytest.mark.parametrize(
    ("answer", "error_name"),
    [
        (httpx.Response(401, json={"error": "Unauthorized", "message": "Key not found"}), "KeyRefusedError"),
        (error(400, "Organization is at limit"), "ServerRefusedError"),
        (error(400, "forkStep (9) exceeds the parent run's max step (5)"), "ForkError"),
        (error(400, "Fork parent run not found in this project"), "ForkError"),
        (error(404, "Run not found"), "RunNotFoundError"),
        (error(409, "ambiguous"), "AmbiguousRunError"),
    ],
)
def test_refusal_of_the_server_is_a_typed_error(answer: httpx.Response, error_name: str) -> None:
    assert refused_as(Wire(answer).backend().open(request())) == error_name


def test_missing_key_is_refused() -> None:
    assert refused_as(Wire().backend(key=None).open(request())) == "KeyRefusedError"


@pytest.mark.parametrize(
    "answer",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        error(500, "Internal Server Error"),
        httpx.Response(200, text="<html>proxy</html>"),
        ok(runId=7),
        httpx.Response(404, text="404 Not Found"),
    ],
)
def test_no_usable_answer_means_later(answer: httpx.Response | Exception) -> None:
    """R8: the Run is provisional meanwhile. Racing first creates of a project answer 500, too."""
    assert isinstance(Wire(answer).backend().open(request()), Unavailable)


def test_waiting_time_of_the_server_is_passed_on() -> None:
    wire = Wire(httpx.Response(503, headers={"Retry-After": "3"}))
    assert wire.backend().open(request()) == Unavailable("HTTP 503", 3.0)


def test_new_run_without_its_config_is_not_opened_yet() -> None:
    """A repeat attaches to the same Run and brings the config."""
    wire = Wire(created(), httpx.Response(503), attached(), details(key="k1"), history(NEW), ok(success=True))
    backend = wire.backend()
    asked = request(config=b'{"lr":1}')
    assert isinstance(backend.open(asked), Unavailable)
    assert not opened(backend.open(asked)).resumed
    assert wire.paths[-1] == "/api/runs/config/update"


# --- an attach that was not wanted ----------------------------------------------------------------


def test_own_run_whose_answer_was_lost_is_a_success() -> None:
    """R8: the key in its settings is ours."""
    wire = Wire(
        httpx.ReadError("reset"), attached(), details(key="k1", forkedFromRunId=3, forkStep=4), history(NEW)
    )
    backend = wire.backend()
    assert isinstance(backend.open(request()), Unavailable)
    result = opened(backend.open(request()))
    assert (result.id, result.resumed, result.was_status) == (7, False, "RUNNING")
    assert (result.fork_run_id, result.fork_step) == (3, 4)


def test_collision_with_a_live_run_changes_nothing() -> None:
    """G8"""
    wire = Wire(attached(), details(key="other"), history(NEW))
    assert refused_as(wire.backend().open(request())) == "RunExistsError"
    assert wire.paths == [CREATE, "/api/runs/details/7", "/api/runs/status/history"]


def test_run_that_our_create_reopened_is_put_back() -> None:
    """R8: the old status with its old time; its reason is left alone."""
    wire = Wire(attached(), details(), history(NEW, DONE, OURS))
    result = wire.backend().open(request())
    assert refused_as(result) == "RunExistsError"
    assert wire.sent(3) == (
        "POST",
        "http://api/api/runs/status/update",
        {"runId": 7, "status": "COMPLETED", "statusUpdated": 1_795_393_800_500},
    )
    assert len(wire.requests) == 4


def test_run_that_somebody_else_reopened_is_left_alone() -> None:
    """R8: it lives."""
    wire = Wire(attached(), details(), history(NEW, DONE, THEIRS))
    assert refused_as(wire.backend().open(request())) == "RunExistsError"
    assert len(wire.requests) == 3


def test_putting_back_is_tried_again_here() -> None:
    """R8: the claim is refused afterwards, so nobody else would do it."""
    wire = Wire(
        attached(),
        details(),
        history(NEW, DONE, OURS),
        httpx.Response(503),
        httpx.ReadTimeout(""),
        ok(success=True),
    )
    result = wire.backend().open(request())
    assert isinstance(result, Refused)
    assert "could not be put back" not in result.message
    assert len(wire.requests) == 6


def test_failure_to_put_back_is_said() -> None:
    failures = [httpx.Response(503) for _ in range(3)]
    wire = Wire(attached(), details(), history(NEW, DONE, OURS), *failures)
    result = wire.backend().open(request())
    assert isinstance(result, Refused)
    assert "could not be put back" in result.message
    assert len(wire.requests) == 6


@pytest.mark.parametrize(
    ("first", "put_back"),
    [(httpx.ReadTimeout("lost"), True), (httpx.Response(502), True), (httpx.ConnectError("refused"), False)],
)
def test_attempt_without_an_answer_may_be_what_reopened_the_run(
    first: httpx.Response | Exception, put_back: bool
) -> None:
    """R8: the repeat finds it RUNNING; only the first attempt's time tells whose doing that was."""
    half_a_minute_ago = ("COMPLETED", "RUNNING", "resume", "2026-11-23T00:59:30.000Z")
    wire = Wire(first, attached(), details(), history(NEW, DONE, half_a_minute_ago))
    now = iter((0.0, 1.0, 60.0, 60.0))
    opening = Opening(wire.client(), clock=lambda: next(now))
    assert isinstance(opening.open(request()), Unavailable)
    assert refused_as(opening.open(request())) == "RunExistsError"
    assert ("/api/runs/status/update" in wire.paths) is put_back


def test_without_a_date_header_the_own_clock_counts() -> None:
    at_s = 1_795_395_600.0  # 2026-11-23T01:00:00Z
    for wall, put_back in ((at_s, True), (at_s + 60, False)):
        wire = Wire(created(resumed=True), details(), history(NEW, DONE, OURS))
        opening = Opening(wire.client(), wall=lambda wall=wall: wall)
        assert refused_as(opening.open(request())) == "RunExistsError"
        assert ("/api/runs/status/update" in wire.paths) is put_back


# --- either ---------------------------------------------------------------------------------------


def test_either_joins_a_live_run_without_changing_it() -> None:
    """G8: neither its config nor its tags."""
    wire = Wire(attached(), details(key="other"), history(NEW))
    result = opened(wire.backend().open(request(want="either", config=b'{"lr":1}', tags=("mine",))))
    assert (result.resumed, result.was_status) == (True, "RUNNING")
    assert (result.tags, result.config, result.name) == (("a",), b'{"x":1}', "theirs")
    assert wire.paths == [CREATE, "/api/runs/details/7", "/api/runs/status/history"]


def test_either_tells_which_status_it_has_ended() -> None:
    """R6: the previous outcome may have to come back."""
    wire = Wire(attached(), details(config=None), history(NEW, DONE, OURS))
    result = opened(wire.backend().open(request(want="either")))
    assert (result.resumed, result.was_status, result.config) == (True, "COMPLETED", b"{}")


def test_either_repeated_after_a_lost_answer_is_new() -> None:
    wire = Wire(attached(), details(key="k1"), history(NEW))
    assert not opened(wire.backend().open(request(want="either"))).resumed


def test_either_that_reopened_our_own_ended_run_has_resumed_it() -> None:
    """The next job of the same coordinator: its config is not merged by asking."""
    wire = Wire(attached(), details(key="k1"), history(NEW, DONE, OURS))
    result = opened(wire.backend().open(request(want="either", config=b'{"lr":1}')))
    assert (result.resumed, result.was_status) == (True, "COMPLETED")
    assert len(wire.requests) == 3


# --- resume ---------------------------------------------------------------------------------------


def test_resume_by_number_looks_before_it_reopens() -> None:
    """G8: an unknown id, or one that ingest could not address, is never touched."""
    wire = Wire(details(status="FAILED", projectName="other"), created(resumed=True, projectName="other"))
    result = opened(wire.backend().open(request(want="resume", id=7)))
    assert (result.was_status, result.project, result.resumed) == ("FAILED", "other", True)
    assert [wire.sent(0)[1], wire.sent(1)[1:]] == [
        "http://api/api/runs/details/7",
        (f"http://api{RESUME}", {"runId": 7}),
    ]


def test_resume_repeated_after_a_lost_answer_still_knows_the_old_status() -> None:
    """R6"""
    wire = Wire(details(status="FAILED"), httpx.ReadError("reset"), details(), created(resumed=True))
    backend = wire.backend()
    assert isinstance(backend.open(request(want="resume", id=7)), Unavailable)
    assert opened(backend.open(request(want="resume", id=7))).was_status == "FAILED"


def test_unknown_number_is_not_found() -> None:
    wire = Wire(error(404, "Run not found"))
    assert refused_as(wire.backend().open(request(want="resume", id=7))) == "RunNotFoundError"
    assert len(wire.requests) == 1


def test_run_that_ingest_cannot_address_is_not_reopened() -> None:
    """G8"""
    wire = Wire(details(projectName="проект"))
    assert refused_as(wire.backend().open(request(want="resume", id=7))) == "ServerRefusedError"
    assert len(wire.requests) == 1


def test_display_id_is_looked_up_in_all_projects_first() -> None:
    wire = Wire(details(), created(resumed=True))
    opened(wire.backend().open(request(want="resume", display_id="PRO-1", external_id="generated")))
    assert wire.sent(0)[1] == "http://api/api/runs/details/by-display-id/PRO-1"
    assert wire.sent(1)[2] == {"runId": 7}


def test_ambiguous_display_id_is_narrowed_by_the_project() -> None:
    wire = Wire(error(409, "ambiguous"), details(), created(resumed=True))
    opened(wire.backend().open(request(want="resume", display_id="PRO-1", project="my project")))
    assert wire.sent(1)[1] == "http://api/api/runs/details/by-display-id/PRO-1?projectName=my+project"


def test_display_id_that_the_project_does_not_settle_is_ambiguous() -> None:
    wire = Wire(error(409, "ambiguous"), error(404, "Run not found"))
    assert refused_as(wire.backend().open(request(want="resume", display_id="PRO-1"))) == "AmbiguousRunError"


def test_resume_by_external_id_asks_the_history_afterwards() -> None:
    wire = Wire(attached(), details(), history(NEW, DONE, OURS))
    result = opened(wire.backend().open(request(want="resume")))
    assert wire.sent(0) == ("POST", f"http://api{RESUME}", {"externalId": "ext", "projectName": "proj"})
    assert (result.resumed, result.was_status) == (True, "COMPLETED")
    assert len(wire.requests) == 3


# --- forks ----------------------------------------------------------------------------------------


def test_fork_merges_on_our_side_and_returns_what_there_is_to_inherit() -> None:
    """The server's own merge of configs is shallow."""
    wire = Wire(details(3, tags=["p"]), created(forkedFromRunId=2, forkStep=5))
    result = opened(wire.backend().open(request(parent=RunRef(id=3), fork_step=5)))
    assert {
        key: wire.sent(1)[2].get(key) for key in ("forkRunId", "forkStep", "inheritConfig", "config")
    } == {
        "forkRunId": 3,
        "forkStep": 5,
        "inheritConfig": False,
        "config": None,
    }
    assert (result.fork_run_id, result.fork_step) == (2, 5)
    assert (result.parent_config, result.parent_tags) == (b'{"x":1}', ("p",))


@pytest.mark.parametrize(
    ("parent", "answers"),
    [
        (RunRef(external_id="p"), []),
        (RunRef(id=3), [error(404, "Run not found")]),
        (RunRef(display_id="PRO-3"), [error(404, "Run not found")]),
    ],
)
def test_parent_that_cannot_be_found_is_a_fork_error(parent: RunRef, answers: list[httpx.Response]) -> None:
    wire = Wire(*answers)
    assert refused_as(wire.backend().open(request(parent=parent, fork_step=5))) == "ForkError"
    assert CREATE not in wire.paths


def test_fork_waits_for_the_server_to_find_the_parent() -> None:
    wire = Wire(httpx.ConnectError("refused"))
    assert isinstance(wire.backend().open(request(parent=RunRef(id=3), fork_step=5)), Unavailable)


@pytest.mark.parametrize("step", [None, -1])
def test_fork_needs_a_step(step: int | None) -> None:
    wire = Wire(details(3))
    assert refused_as(wire.backend().open(request(parent=RunRef(id=3), fork_step=step))) == "UsageError"
    assert CREATE not in wire.paths
