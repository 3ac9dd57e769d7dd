"""Opening Runs: the exact requests, and what failures of each step mean (R8, G8)."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from pluto_dist.backend.pluto.opening import Opening
from pluto_dist.core.values.backend import (
    Delivered,
    OpenResult,
    Reached,
    Refused,
    Reopened,
    Retry,
    RunOpened,
    Unavailable,
)
from pluto_dist.core.values.ids import RunRef
from tests.adapters.pluto_support import Wire, absent, created, details, listed, ok, reached, request

CREATE = "/api/runs/create"
RESUME = "/api/runs/resume"
LIST = "/api/runs/list"
LOOKED = [LIST, LIST]  # for Runs with our mark, then for those of other clients
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


def opened(result: OpenResult) -> RunOpened:
    assert isinstance(result, RunOpened), result
    return result


def refused_as(result: OpenResult) -> str:
    assert isinstance(result, Refused), result
    return result.error


# --- create ---------------------------------------------------------------------------------------


def test_create_sends_its_key_and_its_mark_and_no_config() -> None:
    """R8: if the id is taken, the server would merge the config into somebody else's Run."""
    wire = Wire(*absent(), created())
    asked = request(tags=("a",), config=b'{"lr":1}', created_ms=5, system_metadata=b'{"hostname":"h"}')
    result = opened(wire.backend().open(asked))
    method, url, sent = wire.sent(2)
    assert (method, url) == ("POST", f"http://api{CREATE}")
    assert json.loads(sent.pop("systemMetadata")) == {"hostname": "h", "pluto_dist": {"run_id": "ext"}}
    assert sent == {
        "runName": "n",
        "projectName": "proj",
        "externalId": "ext",
        "tags": ["a"],
        "loggerSettings": '{"pluto_dist":{"key":"k1"}}',
        "createdAt": 5,
    }
    assert wire.sent(3) == ("POST", "http://api/api/runs/config/update", {"runId": 7, "config": '{"lr":1}'})
    assert result == RunOpened(
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


def test_an_id_that_was_drawn_just_now_is_created_in_one_request() -> None:
    """Nobody can have it; a repeat looks first, because then somebody may: this very request."""
    wire = Wire(created(displayId=None))
    assert opened(wire.backend().open(request(external_id="k1"))).display_id == ""
    assert wire.paths == [CREATE]
    again = Wire(listed(7), details(key="k1", externalId="k1"), created(resumed=True))
    assert not opened(again.backend().open(request(external_id="k1", asked_s=3.0))).resumed
    assert again.paths == [LIST, "/api/runs/details/7", RESUME]


def test_a_given_id_is_looked_for_first() -> None:
    """R8: asking never writes. First what has our mark, then what other clients made."""
    wire = Wire(*absent(), created())
    opened(wire.backend().open(request()))
    assert wire.paths == [*LOOKED, CREATE]
    marked, others = (dict(asked.url.params) for asked in wire.requests[:2])
    assert json.loads(marked["filter"]) == {"systemMetadata.pluto_dist.run_id": {"$in": ["ext"]}}
    assert json.loads(others["fieldFilters"])[0]["operator"] == "not exists"
    assert marked["projectName"] == others["projectName"] == "proj"


def test_names_are_made_fit_before_they_are_sent() -> None:
    """What the server answers with 500 would be tried for ever."""
    wire = Wire(*absent(), created())
    opened(wire.backend().open(request(project="проект\0", name="n" * 300, external_id="e" * 300)))
    body = wire.sent(2)[2]
    assert body["projectName"] == "------"
    assert len(body["runName"]) == len(body["externalId"]) == 255
    assert json.loads(body["systemMetadata"])["pluto_dist"]["run_id"] == body["externalId"]


@pytest.mark.parametrize(
    "fields",
    [
        {"external_id": None},
        {"project": ""},
        {"tags": tuple(map(str, range(51)))},
        {"config": b"[1]"},
        {"system_metadata": b"[1]"},
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
    wire = Wire(*absent(), created(), ok(status="RUNNING"))
    opened(wire.backend().open(request(created_ms=5, updated_ms=6)))
    assert wire.sent(2)[2]["updatedAt"] == 6
    assert wire.sent(3)[:2] == ("POST", "http://py/api/runs/trigger")


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
    assert refused_as(Wire(*absent(), answer).backend().open(request())) == error_name


def test_missing_key_is_refused() -> None:
    assert refused_as(Wire().backend(key=None).open(request())) == "KeyRefusedError"


NO_ANSWER: list[httpx.Response | Exception] = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    error(500, "Internal Server Error"),
    httpx.Response(200, text="<html>proxy</html>"),
    ok(runId=7),
    httpx.Response(404, text="404 Not Found"),
]


@pytest.mark.parametrize("answer", NO_ANSWER)
def test_no_usable_answer_means_later(answer: httpx.Response | Exception) -> None:
    """R8: the Run is provisional meanwhile. Racing first creates of a project answer 500, too."""
    result = Wire(*absent(), answer).backend().open(request())
    assert isinstance(result, Unavailable)
    assert result.untouched is isinstance(answer, httpx.ConnectError)


@pytest.mark.parametrize("answer", NO_ANSWER)
def test_without_an_answer_to_the_question_nothing_is_created(answer: httpx.Response | Exception) -> None:
    """R8: who cannot look does not touch."""
    for before in ([], [listed()], [listed(7)]):
        wire = Wire(*before, answer)
        result = wire.backend().open(request())
        assert isinstance(result, Unavailable)
        assert result.untouched
        assert CREATE not in wire.paths


def test_waiting_time_of_the_server_is_passed_on() -> None:
    wire = Wire(httpx.Response(503, headers={"Retry-After": "3"}))
    assert wire.backend().open(request()) == Unavailable("HTTP 503", 3.0, untouched=True)


def test_new_run_without_its_config_is_not_opened_yet() -> None:
    """A repeat finds the Run and brings the config."""
    wire = Wire(
        *(*absent(), created(), httpx.Response(503)),
        *(listed(7), details(key="k1"), created(resumed=True), ok(success=True)),
    )
    backend = wire.backend()
    asked = request(config=b'{"lr":1}')
    first = backend.open(asked)
    assert isinstance(first, Unavailable)
    assert not first.untouched
    assert not opened(backend.open(asked)).resumed
    assert wire.paths[-1] == "/api/runs/config/update"
    assert wire.paths.count(CREATE) == 1


def test_own_run_whose_answer_was_lost_is_a_success() -> None:
    """R8: the key in its settings is ours."""
    wire = Wire(
        *(*absent(), httpx.ReadError("reset")),
        *(listed(7), details(key="k1", forkedFromRunId=3, forkStep=4), created(resumed=True)),
    )
    backend = wire.backend()
    assert isinstance(backend.open(request()), Unavailable)
    result = opened(backend.open(request()))
    assert (result.id, result.resumed) == (7, False)
    assert (result.fork_run_id, result.fork_step) == (3, 4)


# --- a Run that is there --------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["RUNNING", "COMPLETED", "FAILED"])
@pytest.mark.parametrize("found", [[listed(7)], [listed(), listed(9, 7), "other"]])
def test_a_collision_is_found_by_reading_alone(status: str, found: list[Any]) -> None:
    """R8, G8: nothing is written, whoever made the Run and whatever it is."""
    other = details(9, externalId="another")
    wire = Wire(*(other if answer == "other" else answer for answer in found), details(status=status))
    result = wire.backend().open(request())
    assert refused_as(result) == "RunExistsError"
    assert isinstance(result, Refused)
    assert result.reopened is None
    assert {asked.method for asked in wire.requests} == {"GET"}


def test_each_run_of_another_client_is_looked_at_once() -> None:
    """External ids never change, so a repeat reads what is new, and what it looked for."""
    first = [listed(), listed(2, 1), *(details(number, externalId=f"e{number}") for number in (2, 1))]
    again = [listed(), listed(3, 2, 1), details(3, externalId="e3")]
    known = [listed(), details(1, externalId="e1")]
    wire = Wire(*first, created(), *again, created(), *known)
    backend = wire.backend()
    for external in ("x", "y"):
        opened(backend.open(request(external_id=external)))
    assert refused_as(backend.open(request(external_id="e1"))) == "RunExistsError"


def test_no_more_than_a_hundred_are_looked_at_in_one_go() -> None:
    """A join goes on where it was; a create does not wait for it."""
    others = {number: details(number, externalId=f"e{number}") for number in range(1, 151)}

    def answer(asked: httpx.Request) -> httpx.Response:
        path = asked.url.path
        if path.endswith(("/metrics", "/logs")):
            return reached()[path.endswith("/logs")]
        if path == LIST:
            return listed() if "filter" in asked.url.params else listed(*others)
        return created() if path == CREATE else others[int(path.rpartition("/")[2])]

    wire = Wire(*[answer] * 500)
    backend = wire.backend()
    first = backend.open(request(want="join", external_id="e150"))
    assert isinstance(first, Unavailable)
    assert (first.absent, first.untouched) == (False, True)
    assert "50 of them are left" in first.reason
    assert opened(backend.open(request(want="join", external_id="e150"))).id == 150
    wire.requests.clear()
    opened(wire.backend().open(request(external_id="none of them")))
    assert len(wire.requests) == 2 + 100 + 1


def test_a_deleted_run_is_passed_over() -> None:
    wire = Wire(listed(7), error(404, "Run not found"), listed(8), error(404, "Run not found"), created())
    assert not opened(wire.backend().open(request())).resumed


def test_a_mark_alone_proves_nothing() -> None:
    """Anybody may copy system metadata."""
    wire = Wire(listed(7), details(externalId="another"), listed(), created())
    assert not opened(wire.backend().open(request())).resumed


def test_either_resumes_what_it_has_found_by_its_number() -> None:
    """R6, G8: what it was is known before; neither config nor tags are sent."""
    for status in ("RUNNING", "COMPLETED"):
        wire = Wire(listed(7), details(key="other", status=status), created(resumed=True), *reached())
        result = opened(wire.backend().open(request(want="either", config=b'{"lr":1}', tags=("mine",))))
        assert (result.resumed, result.was_status) == (True, status)
        assert (result.tags, result.config, result.name) == (("a",), b'{"x":1}', "theirs")
        assert wire.paths[:3] == [LIST, "/api/runs/details/7", RESUME]
        assert wire.sent(2)[2] == {"runId": 7}


def test_either_repeated_after_a_lost_answer_is_new() -> None:
    wire = Wire(listed(7), details(key="k1"), created(resumed=True))
    assert not opened(wire.backend().open(request(want="either", asked_s=1.0))).resumed


def test_either_that_finds_our_own_ended_run_resumes_it() -> None:
    """The next job of the same coordinator: its config is not merged by asking."""
    wire = Wire(listed(7), details(key="k1", status="COMPLETED"), created(resumed=True), *reached())
    result = opened(wire.backend().open(request(want="either", config=b'{"lr":1}')))
    assert (result.resumed, result.was_status) == (True, "COMPLETED")
    assert "/api/runs/config/update" not in wire.paths


# --- create that meets a Run all the same ---------------------------------------------------------


def test_race_with_another_node_changes_nothing() -> None:
    """G8: it has just been made, so it is RUNNING."""
    wire = Wire(*absent(), attached(), details(key="other"), history(NEW))
    result = wire.backend().open(request())
    assert refused_as(result) == "RunExistsError"
    assert wire.paths == [*LOOKED, CREATE, "/api/runs/details/7", "/api/runs/status/history"]


def test_run_that_our_create_reopened_is_named_with_what_it_was() -> None:
    """R8: the coordinator keeps it until it is put back."""
    wire = Wire(*absent(), attached(), details(), history(NEW, DONE, OURS))
    result = wire.backend().open(request())
    assert refused_as(result) == "RunExistsError"
    assert isinstance(result, Refused)
    assert result.reopened == Reopened(7, "proj", "COMPLETED", 1_795_393_800_500)
    assert "made COMPLETED again" in result.message


def test_run_that_somebody_else_reopened_is_left_alone() -> None:
    """R8: it lives."""
    wire = Wire(*absent(), attached(), details(), history(NEW, DONE, THEIRS))
    result = wire.backend().open(request())
    assert isinstance(result, Refused)
    assert result.reopened is None


@pytest.mark.parametrize(("asked_s", "ours"), [(60.0, True), (20.0, False), (None, False)])
def test_attempt_without_an_answer_may_be_what_reopened_the_run(asked_s: float | None, ours: bool) -> None:
    """R8: the repeat finds it RUNNING; only the first attempt's time tells whose doing that was.

    The coordinator keeps that time, so the next one knows it too.
    """
    half_a_minute_ago = ("COMPLETED", "RUNNING", "resume", "2026-11-23T00:59:30.000Z")
    wire = Wire(*absent(), attached(), details(), history(NEW, DONE, half_a_minute_ago))
    result = wire.backend().open(request(asked_s=asked_s))
    assert isinstance(result, Refused)
    assert (result.reopened is not None) is ours


def test_without_a_date_header_the_own_clock_counts() -> None:
    at_s = 1_795_395_600.0  # 2026-11-23T01:00:00Z
    for wall, ours in ((at_s, True), (at_s + 60, False)):
        wire = Wire(*absent(), created(resumed=True), details(), history(NEW, DONE, OURS))
        opening = Opening(wire.client(), wall=lambda wall=wall: wall)
        result = opening.open(request())
        assert isinstance(result, Refused)
        assert (result.reopened is not None) is ours


def test_either_that_meets_a_run_of_another_client_takes_it_up() -> None:
    """R6: the previous outcome may have to come back."""
    wire = Wire(listed(), attached(), details(config=None), history(NEW, DONE, OURS), *reached())
    result = opened(wire.backend().open(request(want="either")))
    assert (result.resumed, result.was_status, result.config) == (True, "COMPLETED", b"{}")


# --- an end that was taken away is put back -------------------------------------------------------

OWED = Reopened(7, "proj", "COMPLETED", 1_795_393_800_500)
REAPED = ("RUNNING", "FAILED", "stale-monitor", "2026-11-23T01:03:00.000Z")
STATUS = "/api/runs/status/update"


def test_the_old_status_comes_back_with_its_time() -> None:
    """R8: its reason is left alone."""
    wire = Wire(history(NEW, DONE, OURS), ok(success=True))
    assert wire.backend().put_back(OWED) == Delivered()
    assert wire.sent()[2] == {"runId": 7, "status": "COMPLETED", "statusUpdated": OWED.since_ms}


def test_a_run_that_the_monitor_has_failed_meanwhile_is_resumed_first() -> None:
    """R8, G1: COMPLETED cannot replace FAILED."""
    wire = Wire(history(NEW, DONE, OURS, REAPED), created(resumed=True), ok(success=True))
    assert wire.backend().put_back(OWED) == Delivered()
    assert wire.paths[1:] == [RESUME, STATUS]


@pytest.mark.parametrize(
    "since",
    [
        [],  # it is as it was: an earlier try got through
        [OURS, ("RUNNING", "COMPLETED", "api", "2026-11-23T01:00:10.000Z")],
        [OURS, ("RUNNING", "FAILED", "api", "2026-11-23T01:00:10.000Z")],
        [OURS, REAPED, ("FAILED", "RUNNING", "resume", "2026-11-23T01:05:00.000Z")],
    ],
)
def test_what_somebody_else_has_made_of_it_stays(since: list[tuple[str | None, str, str, str]]) -> None:
    wire = Wire(history(NEW, DONE, *since))
    assert wire.backend().put_back(OWED) == Delivered()
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    "answers",
    [
        [httpx.Response(503)],
        [history(NEW, DONE, OURS), httpx.Response(503)],
        [history(NEW, DONE, OURS, REAPED), httpx.Response(503)],
    ],
)
def test_an_outage_leaves_it_owed(answers: list[httpx.Response]) -> None:
    assert isinstance(Wire(*answers).backend().put_back(OWED), Retry)


# --- resume ---------------------------------------------------------------------------------------


def test_resume_by_number_looks_before_it_reopens() -> None:
    """G8: an unknown id, or one that ingest could not address, is never touched."""
    resumed = created(resumed=True, projectName="other")
    wire = Wire(details(status="FAILED", projectName="other"), resumed, *reached(loss=9))
    result = opened(wire.backend().open(request(want="resume", id=7)))
    assert (result.was_status, result.project, result.resumed) == ("FAILED", "other", True)
    assert result.reached.series == {"loss": 9}
    assert [wire.sent(0)[1], wire.sent(1)[1:]] == [
        "http://api/api/runs/details/7",
        (f"http://api{RESUME}", {"runId": 7}),
    ]


def test_resume_repeated_after_a_lost_answer_still_knows_the_old_status() -> None:
    """R6: also another coordinator, which only knows since when it is asked."""
    ours = ("FAILED", "RUNNING", "resume", "2026-11-23T00:59:30.000Z")
    failed = ("RUNNING", "FAILED", "api", "2026-11-23T00:30:00.000Z")
    wire = Wire(details(), attached(), history(NEW, failed, ours), *reached())
    result = wire.backend().open(request(want="resume", id=7, asked_s=45.0))
    assert opened(result).was_status == "FAILED"
    other = Wire(details(), attached(), history(NEW, failed, ours), *reached())
    assert opened(other.backend().open(request(want="resume", id=7, asked_s=5.0))).was_status == "RUNNING"


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
    wire = Wire(details(), created(resumed=True), *reached())
    opened(wire.backend().open(request(want="resume", display_id="PRO-1", external_id="generated")))
    assert wire.sent(0)[1] == "http://api/api/runs/details/by-display-id/PRO-1"
    assert wire.sent(1)[2] == {"runId": 7}


def test_ambiguous_display_id_is_narrowed_by_the_project() -> None:
    wire = Wire(error(409, "ambiguous"), details(), created(resumed=True), *reached())
    opened(wire.backend().open(request(want="resume", display_id="PRO-1", project="my project")))
    assert wire.sent(1)[1] == "http://api/api/runs/details/by-display-id/PRO-1?projectName=my+project"


def test_display_id_that_the_project_does_not_settle_is_ambiguous() -> None:
    wire = Wire(error(409, "ambiguous"), error(404, "Run not found"))
    assert refused_as(wire.backend().open(request(want="resume", display_id="PRO-1"))) == "AmbiguousRunError"


def test_resume_of_another_clients_run_asks_the_history_afterwards() -> None:
    """Reopening is what is wanted, so nothing has to be looked for."""
    wire = Wire(listed(), attached(), details(), history(NEW, DONE, OURS), *reached())
    result = opened(wire.backend().open(request(want="resume")))
    assert wire.sent(1) == ("POST", f"http://api{RESUME}", {"externalId": "ext", "projectName": "proj"})
    assert (result.resumed, result.was_status) == (True, "COMPLETED")
    assert len(wire.requests) == 6


# --- how far a Run has come -----------------------------------------------------------------------


def test_how_far_a_run_has_come_is_read_with_it() -> None:
    """Automatic steps and console lines go on behind that; steps may be digits in a string."""
    points = [("loss", 0), ("loss", "99"), ("eval/acc", 7)]
    edges = ok(metrics=[{"logName": name, "step": step, "value": None} for name, step in points])
    lines = [ok(logs=[{"lineNumber": 1}], total=40), ok(logs=[{"lineNumber": 41}], total=40)]
    wire = Wire(details(), created(resumed=True), edges, *lines)
    result = opened(wire.backend().open(request(want="resume", id=7)))
    assert result.reached == Reached(series={"loss": 99, "eval/acc": 7}, lines=40, last_line=41)
    assert [dict(asked.url.params)["limit"] for asked in wire.requests[2:]] == ["1", "1", "1"]
    assert dict(wire.requests[4].url.params)["offset"] == "39"


@pytest.mark.parametrize("missing", range(3))
def test_without_knowing_how_far_it_has_come_no_run_is_gone_on_with(missing: int) -> None:
    """What was there would be overwritten."""
    answers = [ok(metrics=[]), ok(logs=[{"lineNumber": 1}], total=2), ok(logs=[{"lineNumber": 2}], total=2)]
    wire = Wire(details(), *answers[:missing], httpx.Response(503))
    result = wire.backend().open(request(want="join", id=7))
    assert isinstance(result, Unavailable)
    assert (result.absent, result.untouched) == (False, True)


# --- forks ----------------------------------------------------------------------------------------


def test_fork_merges_on_our_side_and_returns_what_there_is_to_inherit() -> None:
    """The server's own merge of configs is shallow."""
    wire = Wire(details(3, tags=["p"]), created(forkedFromRunId=2, forkStep=5))
    result = opened(wire.backend().open(request(external_id="k1", parent=RunRef(id=3), fork_step=5)))
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
        (RunRef(external_id="p"), absent()),
        (RunRef(id=3), [error(404, "Run not found")]),
        (RunRef(display_id="PRO-3"), [error(404, "Run not found")]),
    ],
)
def test_parent_that_cannot_be_found_is_a_fork_error(parent: RunRef, answers: list[httpx.Response]) -> None:
    wire = Wire(*absent(), *answers)
    assert refused_as(wire.backend().open(request(parent=parent, fork_step=5))) == "ForkError"
    assert CREATE not in wire.paths


def test_parent_may_be_named_by_the_callers_own_id() -> None:
    wire = Wire(*absent(), listed(3), details(3, externalId="p"), created(forkedFromRunId=3, forkStep=5))
    opened(wire.backend().open(request(parent=RunRef(external_id="p"), fork_step=5)))
    assert wire.sent(4)[2]["forkRunId"] == 3


def test_fork_waits_for_the_server_to_find_the_parent() -> None:
    wire = Wire(*absent(), httpx.ConnectError("refused"))
    assert isinstance(wire.backend().open(request(parent=RunRef(id=3), fork_step=5)), Unavailable)
    assert CREATE not in wire.paths


@pytest.mark.parametrize("step", [None, -1])
def test_fork_needs_a_step(step: int | None) -> None:
    wire = Wire(details(3))
    assert refused_as(wire.backend().open(request(parent=RunRef(id=3), fork_step=step))) == "UsageError"
    assert CREATE not in wire.paths
