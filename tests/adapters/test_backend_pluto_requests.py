"""The exact requests of each call, and what comes back when the wire or the server fails."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import httpx
import pytest

from pluto_dist.backend.pluto.client import Http
from pluto_dist.backend.pluto.exchange import Broken
from pluto_dist.core.values.backend import (
    Alert,
    BackendRun,
    Beat,
    Delivered,
    Outcome,
    Rejected,
    Retry,
    StatusReport,
    TagsChange,
    Told,
    Unknown,
)
from pluto_dist.core.values.ids import RunRef
from pluto_dist.secret import Secret
from pluto_dist.spool.file_lines import storable
from tests.adapters.pluto_support import KEY, RUN, TARGET, Wire, batch, created, details, ok

METRIC = {"time": 1, "step": 0, "data": {"loss": 0.5}}
DATA = {"time": 1, "step": 0, "data": "x", "dataType": "string-series", "logName": "s"}
LOG = {"time": 1, "message": "hi", "lineNumber": 1, "logType": "INFO"}


def stored(count: int = 1) -> httpx.Response:
    return httpx.Response(200, text=f"Stream processed successfully: {count} records")


@pytest.mark.parametrize(
    ("kind", "line", "path"),
    [
        ("metrics", METRIC, "/ingest/metrics"),
        ("data", DATA, "/ingest/data"),
        ("console", LOG, "/ingest/logs"),
    ],
)
def test_lines_are_joined_into_one_request(kind: str, line: dict[str, object], path: str) -> None:
    wire = Wire(stored(2))
    cut = batch(kind, line, line)  # type: ignore[arg-type]
    assert wire.backend().deliver(RUN, cut) == Delivered()
    asked = wire.requests[0]
    assert (asked.method, str(asked.url)) == ("POST", f"http://ingest{path}")
    assert asked.content == b"".join(cut.lines)
    assert asked.headers["X-Run-Id"] == "7"
    assert asked.headers["X-Project-Name"] == "proj"
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.headers["Content-Type"] == "application/x-ndjson"
    assert asked.headers["User-Agent"] == "pluto-dist"
    assert len(wire.requests) == 1


def test_lifecycle_and_empty_batches_need_no_request() -> None:
    wire = Wire()
    assert wire.backend().deliver(RUN, batch("lifecycle", {"entry": "closed"})) == Delivered()
    assert wire.backend().deliver(RUN, batch("metrics")) == Delivered()
    assert wire.requests == []


@pytest.mark.parametrize(("kind", "line"), [("data", DATA), ("console", LOG)])
def test_bad_line_is_refused_before_anything_is_sent(kind: str, line: dict[str, object]) -> None:
    """G6: the server would keep the lines before it, and each try to find it would repeat them."""
    wire = Wire()
    cut = batch(kind, line, {**line, "time": -1})  # type: ignore[arg-type]
    outcome = wire.backend().deliver(RUN, cut)
    assert isinstance(outcome, Rejected)
    assert outcome.good == 1
    assert wire.requests == []


@pytest.mark.parametrize("run", [BackendRun("k", TARGET, 0, "proj"), BackendRun("k", TARGET, 1, "проект")])
def test_what_ingest_would_believe_blindly_is_not_sent(run: BackendRun) -> None:
    wire = Wire()
    with pytest.raises(ValueError, match=r"Run id|project name"):
        wire.backend().deliver(run, batch("metrics", METRIC))
    assert wire.requests == []


def test_names_are_registered_by_type() -> None:
    wire = Wire()
    names = {"loss": "METRIC", "note\0": "DATA", "acc": "METRIC"}
    assert wire.backend().register(RUN, names) == Delivered()  # type: ignore[arg-type]
    url = "http://api/api/runs/logName/add"
    assert wire.sent(0) == ("POST", url, {"runId": 7, "logName": ["loss", "acc"], "logType": "METRIC"})
    assert wire.sent(1) == ("POST", url, {"runId": 7, "logName": ["note"], "logType": "DATA"})
    assert wire.requests[0].headers["Content-Type"] == "application/json"


def test_registering_stops_at_the_first_failure() -> None:
    wire = Wire(httpx.Response(503))
    assert isinstance(wire.backend().register(RUN, {"a": "METRIC", "b": "DATA"}), Retry)
    assert len(wire.requests) == 1


@pytest.mark.parametrize(("metadata", "sent"), [(b'{"why":NaN}', '{"why": "NaN"}'), (None, None)])
def test_status_report_always_replaces_the_reason(metadata: bytes | None, sent: str | None) -> None:
    """The server keeps the reason of an earlier end unless it is replaced."""
    wire = Wire(ok(success=True), details(status="FAILED"))
    assert wire.backend().report(RUN, StatusReport("FAILED", metadata, 123)) == Told(status="FAILED")
    assert wire.sent(0) == (
        "POST",
        "http://api/api/runs/status/update",
        {"runId": 7, "status": "FAILED", "statusMetadata": sent, "statusUpdated": 123},
    )


def test_status_report_without_a_time_is_dated_by_the_server() -> None:
    wire = Wire()
    wire.backend().report(RUN, StatusReport("COMPLETED", None, 0))
    assert "statusUpdated" not in wire.sent(0)[2]


def test_an_ignored_report_looks_for_who_has_ended_the_run() -> None:
    """G7: only an end that nobody meant gives way; then the Run is resumed, and the report repeated."""
    meant = ok(runId=7, events=[event("api")])
    wire = Wire(ok(success=True), details(status="FAILED"), meant)
    assert wire.backend().report(RUN, StatusReport("COMPLETED", None, 0)) == Told(status="FAILED")
    reaped = ok(runId=7, events=[event("stale-monitor")])
    answers = [created(resumed=True), ok(success=True), details(status="COMPLETED")]
    wire = Wire(ok(success=True), details(status="FAILED"), reaped, *answers)
    assert wire.backend().report(RUN, StatusReport("COMPLETED", None, 0)) == Told(status="COMPLETED")
    assert wire.paths[3:5] == ["/api/runs/resume", "/api/runs/status/update"]


def event(source: str) -> dict[str, str]:
    times = {"createdAt": "2026-11-23T00:42:08.623Z", "fromStatus": "RUNNING", "toStatus": "FAILED"}
    return {"id": "1", "source": source} | times


@pytest.mark.parametrize("fault", range(4))
def test_each_step_of_a_report_may_fail(fault: int) -> None:
    """It is repeated as a whole; once the server has taken the status it may be true already."""
    answers = [details(status="FAILED"), created(resumed=True), ok(success=True)]
    wire = Wire(*answers[:fault], httpx.Response(503))
    outcome = wire.backend().report(RUN, StatusReport("COMPLETED", None, 0, force=True))
    assert isinstance(outcome, Unknown if fault == 3 else Retry)
    assert len(wire.requests) == fault + 1


WANTED = TagsChange(("b", "a", "b"), ())
PATCH = b'{"a":1}'


def test_tags_are_read_replaced_as_a_whole_and_read_again() -> None:
    wire = Wire(details(tags=["x"]), ok(success=True), details(tags=["b", "a", "x", "new"]))
    assert wire.backend().put_tags(RUN, WANTED) == Told(tags=("b", "a", "x", "new"))
    assert wire.sent(1) == ("POST", "http://api/api/runs/tags/update", {"runId": 7, "tags": ["b", "a", "x"]})


def test_tags_that_are_there_are_not_written() -> None:
    wire = Wire(details(tags=["a", "b"]))
    assert wire.backend().put_tags(RUN, WANTED) == Told(tags=("a", "b"))
    assert len(wire.requests) == 1


@pytest.mark.parametrize("after", [["b", "x"], ["b", "a"], ["b", "a", "x", "gone"]])
def test_tags_that_another_node_overwrites_in_the_same_moment_are_tried_again(after: list[str]) -> None:
    """G9: the server has no lock. What another one has removed of its own is its own business."""
    change = TagsChange(("b", "a"), ("gone",))
    wire = Wire(details(tags=["x", "gone"]), ok(success=True), details(tags=after))
    outcome = wire.backend().put_tags(RUN, change)
    assert isinstance(outcome, Retry if after != ["b", "a"] else Told)


def test_config_travels_as_a_string_of_strict_json() -> None:
    wire = Wire()
    assert wire.backend().merge_config(RUN, b'{"lr": Infinity}') == Delivered()
    assert wire.sent() == (
        "POST",
        "http://api/api/runs/config/update",
        {"runId": 7, "config": '{"lr": "Infinity"}'},
    )


def test_what_the_server_cannot_take_is_rejected_unsent() -> None:
    wire = Wire()
    backend = wire.backend()
    outcomes: list[Outcome] = [
        backend.merge_config(RUN, b"[1]"),
        backend.report(RUN, StatusReport("FAILED", b"[1]", 1)),
        backend.report(RUN, StatusReport("FAILED", None, -1)),
    ]
    assert [type(outcome) for outcome in outcomes] == [Rejected] * 3
    assert wire.requests == []


def test_an_alert_has_the_fields_of_the_official_client() -> None:
    """Without a url, which the server answers with an error; it knows no CRITICAL, and no NUL."""
    wire = Wire(ok(status="success"))
    assert wire.backend().alert(RUN, Alert(5, "loss", "is\0nan", "CRITICAL", email=False)) == Delivered()
    fields = {"timestamp": 5, "title": "loss", "body": "isnan", "level": "ERROR", "email": False}
    assert wire.sent() == ("POST", "http://py/api/runs/alert", {"runId": 7, "alert": fields})


@pytest.mark.parametrize(
    ("fault", "meaning"), [(httpx.ConnectError("refused"), Retry), (httpx.ReadTimeout("slow"), Unknown)]
)
def test_an_alert_that_may_have_arrived_is_not_said_to_have_failed(fault: Exception, meaning: type) -> None:
    assert type(Wire(fault).backend().alert(RUN, Alert(5, "t", "b", "INFO"))) is meaning


def test_beat_tells_the_status() -> None:
    wire = Wire(ok(status="CANCELLED", triggers=None))
    assert wire.backend().beat(RUN) == Beat(Delivered(), "CANCELLED")
    assert wire.sent() == ("POST", "http://py/api/runs/trigger", {"runId": 7})


@pytest.mark.parametrize("answer", [ok(status="PAUSED"), ok(other=1)])
def test_beat_with_another_answer_is_unknown(answer: httpx.Response) -> None:
    beat = Wire(answer).backend().beat(RUN)
    assert isinstance(beat.outcome, Unknown)
    assert beat.status is None


def test_details_and_history_are_typed() -> None:
    later = {"id": "2", "fromStatus": "RUNNING", "toStatus": "FAILED", "source": "api"}
    first = {"id": "1", "fromStatus": None, "toStatus": "RUNNING", "source": "api"}
    events = [
        later | {"runId": 7, "metadata": None, "createdAt": "2020-01-01T00:00:00.000Z"},
        first | {"runId": 7, "metadata": None, "createdAt": "2026-01-01T00:00:00.000Z"},
    ]
    wire = Wire(details(key="k9"), ok(runId=7, events=events))
    backend = wire.backend()
    run = backend.details(RunRef(id=7))
    assert not isinstance(run, Retry | Rejected | Unknown)
    assert (run.id, run.status, run.key, run.config_object) == (7, "RUNNING", "k9", b'{"x":1}')
    history = backend.history(7)
    assert isinstance(history, tuple)
    assert [event.to_status for event in history] == ["RUNNING", "FAILED"]
    assert history[1].at_ms == 1_577_836_800_000
    assert [wire.sent(0)[:2], wire.sent(1)[:2]] == [
        ("GET", "http://api/api/runs/details/7"),
        ("GET", "http://api/api/runs/status/history?runId=7"),
    ]


def test_unreadable_answers_of_reads_are_no_answers() -> None:
    backend = Wire(ok(id=7), httpx.Response(404, json={"error": "Run not found"})).backend()
    assert isinstance(backend.details(RunRef(id=7)), Unknown)
    assert isinstance(backend.history(7), Rejected)


WIRE_FAULTS = [
    (httpx.ConnectError("refused"), Retry, Retry),
    (httpx.ConnectTimeout("slow"), Retry, Retry),
    (httpx.PoolTimeout("busy"), Retry, Retry),
    (httpx.ProxyError("407"), Retry, Retry),
    (httpx.WriteError("reset"), Unknown, Retry),
    (httpx.WriteTimeout("slow"), Unknown, Retry),
    (httpx.ReadTimeout("slow"), Unknown, Unknown),
    (httpx.ReadError("reset"), Unknown, Unknown),
    (httpx.RemoteProtocolError("disconnected"), Unknown, Unknown),
    (httpx.DecodingError("no gzip"), Unknown, Unknown),
]


@pytest.mark.parametrize(("fault", "of_rows", "of_control"), WIRE_FAULTS)
def test_wire_fault_means(fault: Exception, of_rows: type, of_control: type) -> None:
    """G6: only what certainly did not reach the server may be repeated without a thought."""
    assert type(Wire(fault).backend().deliver(RUN, batch("data", DATA))) is of_rows
    assert type(Wire(fault).backend().deliver(RUN, batch("metrics", METRIC))) is of_rows
    assert type(Wire(fault).backend().merge_config(RUN, PATCH)) is of_control


def test_redirects_are_not_followed() -> None:
    """The key would go to another host."""
    wire = Wire(httpx.Response(302, headers={"Location": "http://elsewhere/"}))
    assert isinstance(wire.backend().merge_config(RUN, PATCH), Retry)
    assert len(wire.requests) == 1


def test_one_attempt_per_call() -> None:
    """Backoff is the core's."""
    wire = Wire(httpx.Response(503), httpx.Response(503, headers={"Retry-After": "9"}))
    backend = wire.backend()
    assert isinstance(backend.merge_config(RUN, PATCH), Retry)
    outcome = backend.beat(RUN).outcome
    assert isinstance(outcome, Retry)
    assert outcome.after_s == 9.0
    assert len(wire.requests) == 2


def test_without_a_key_nothing_is_sent_and_the_reason_names_the_way_out() -> None:
    wire = Wire()
    outcome = wire.backend(key=None).deliver(RUN, batch("metrics", METRIC))
    assert isinstance(outcome, Retry)
    assert outcome.key_problem
    assert "PLUTO_API_KEY" in outcome.reason
    assert wire.requests == []


def test_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pluto_dist.backend.pluto.client.ANSWER_LIMIT", 10)
    assert isinstance(Wire(httpx.Response(200, text="x" * 11)).backend().merge_config(RUN, PATCH), Unknown)


def test_key_shows_in_no_outcome_log_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    """G11"""
    caplog.set_level(logging.DEBUG)
    faults = [*(fault for fault, _, _ in WIRE_FAULTS), httpx.LocalProtocolError(f"Illegal value {KEY}")]
    told = [repr(Wire(fault).backend().merge_config(RUN, PATCH)) for fault in faults]
    told.append(
        repr(Wire(httpx.Response(401, json={"error": "Unauthorized"})).backend().merge_config(RUN, PATCH))
    )
    told.append(repr(vars(Wire().backend())))
    assert KEY not in "".join(told) + caplog.text


# --- files ----------------------------------------------------------------------------------------


def file_line(path: Path, **fields: object) -> dict[str, object]:
    usual: dict[str, object] = {
        "path": str(path),
        "fileName": path.name,
        "fileType": "txt",
        "fileSize": path.stat().st_size if path.exists() else 1,
        "logName": "media/a",
        "step": 3,
        "time": 4,
    }
    return usual | fields


def checksum(content: bytes) -> str:
    """As it stands beside a file."""
    return f'{{"sha256":"{hashlib.sha256(content).hexdigest()}"}}'


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.txt"
    path.write_bytes(b"bytes")
    return path


def addresses(*names: str, log_name: str = "media/a", mark: str = "") -> httpx.Response:
    return ok(**{log_name: [{name: f"http://store/{name}?sig=s{mark}{n}"} for n, name in enumerate(names)]})


def test_file_is_presigned_once_and_put_without_the_key(photo: Path) -> None:
    """G11: the address is permission enough; the key is for the server only."""
    wire = Wire(addresses("photo.txt"), httpx.Response(200))
    assert wire.backend().deliver(RUN, batch("files", file_line(photo, caption="c"))) == Delivered()
    asked, put = wire.requests
    assert wire.sent(0) == (
        "POST",
        "http://ingest/files",
        {
            "files": [
                {"fileName": "photo.txt", "fileType": "txt", "fileSize": 5, "logName": "media/a", "step": 3,
                 "time": 4, "caption": "c", "annotations": checksum(b"bytes")}
            ]
        },
    )  # fmt: skip
    assert asked.headers["Content-Type"] == "application/json"
    assert (put.method, str(put.url), put.content) == ("PUT", "http://store/photo.txt?sig=s0", b"bytes")
    assert put.headers["Content-Length"] == "5"
    assert "Authorization" not in put.headers
    assert "Transfer-Encoding" not in put.headers


def test_failed_put_is_repeated_with_the_address_in_hand(photo: Path) -> None:
    """G6: each presign adds a metadata row."""
    wire = Wire(addresses("photo.txt"), httpx.Response(503), httpx.ReadError("reset"), httpx.Response(200))
    backend = wire.backend()
    cut = batch("files", file_line(photo))
    assert isinstance(backend.deliver(RUN, cut), Retry)
    assert isinstance(backend.deliver(RUN, cut), Retry)
    assert backend.deliver(RUN, cut) == Delivered()
    assert wire.paths == ["/files", "/photo.txt", "/photo.txt", "/photo.txt"]


def test_stored_files_of_an_unfinished_batch_are_not_sent_again(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    answers = [httpx.Response(200), httpx.Response(500), httpx.Response(200)]
    wire = Wire(addresses("a", "b"), *answers)
    backend = wire.backend()
    cut = batch("files", file_line(first), file_line(second))
    assert isinstance(backend.deliver(RUN, cut), Retry)
    assert backend.deliver(RUN, cut) == Delivered()
    assert wire.paths == ["/files", "/a", "/b", "/b"]


def test_refused_address_is_replaced_and_counted(photo: Path) -> None:
    wire = Wire(
        addresses("photo.txt"), httpx.Response(403), addresses("photo.txt", mark="new"), httpx.Response(200)
    )
    backend = wire.backend()
    cut = batch("files", file_line(photo))
    assert isinstance(backend.deliver(RUN, cut), Retry)
    assert backend.files.renewed == 0
    assert backend.deliver(RUN, cut) == Delivered()
    assert backend.files.renewed == 1
    assert wire.requests[-1].url.query == b"sig=snew0"


def test_storage_that_refuses_always_makes_one_more_row_only(photo: Path) -> None:
    """Asking for an address each time would add a metadata row each time."""
    refusing = [httpx.Response(403) for _ in range(5)]
    wire = Wire(addresses("photo.txt"), refusing[0], addresses("photo.txt"), *refusing[1:])
    backend = wire.backend()
    cut = batch("files", file_line(photo))
    for _ in range(5):
        assert isinstance(backend.deliver(RUN, cut), Retry)
    assert wire.paths.count("/files") == 2


MINIO_REFUSES = b"""<?xml version="1.0"?><Error><Code>XMinioInvalidObjectName</Code>
<Message>Object name contains unsupported characters.</Message></Error>"""


def test_dots_in_an_address_arrive_as_they_were_signed(photo: Path) -> None:
    """HTTP libraries resolve them; storage then refuses the signature."""
    url = "http://store/bucket/a/../b/./photo.txt?sig=1"
    wire = Wire(ok(**{"a/../b": [{"photo.txt": url}]}), httpx.Response(200))
    assert wire.backend().deliver(RUN, batch("files", file_line(photo, logName="a/../b"))) == Delivered()
    assert wire.requests[-1].url.raw_path == b"/bucket/a/%2E%2E/b/%2E/photo.txt?sig=1"


def test_a_name_that_storage_refuses_is_escaped_and_the_file_arrives(photo: Path) -> None:
    """The bytes are worth more than the name, and nothing behind them waits for ever."""
    wire = Wire(
        ok(**{"train//x": [{"photo.txt": "http://store/train//x/photo.txt"}]}),
        httpx.Response(400, content=MINIO_REFUSES),
        ok(**{"train/%/x": [{"photo.txt": "http://store/train/%25/x/photo.txt"}]}),
        httpx.Response(200),
    )
    backend, cut = wire.backend(), batch("files", file_line(photo, logName="train//x"))
    assert isinstance(backend.deliver(RUN, cut), Retry)
    assert backend.deliver(RUN, cut) == Delivered()
    rows = [json.loads(each.content) for each in wire.requests if each.url.path == "/files"]
    asked = [row["files"][0]["logName"] for row in rows]
    assert asked == ["train//x", "train/%/x"]
    assert backend.files.renewed == 1


@pytest.mark.parametrize("name", ["plain", "train//x"])
def test_a_name_that_storage_never_takes_is_set_aside(photo: Path, name: str) -> None:
    refused = httpx.Response(400, content=MINIO_REFUSES)
    names = dict.fromkeys((name, storable(name)))
    answers = [ok(**{each: [{"photo.txt": "http://store/x"}]}) for each in names]
    wire = Wire(*(each for answer in answers for each in (answer, refused)))
    backend, cut = wire.backend(), batch("files", file_line(photo, logName=name))
    outcomes = [backend.deliver(RUN, cut) for _ in answers]
    assert isinstance(outcomes[-1], Rejected)
    assert "unsupported characters" in outcomes[-1].reason


def test_equal_file_names_under_two_log_names_stay_apart(tmp_path: Path) -> None:
    one, two = tmp_path / "1" / "x", tmp_path / "2" / "x"
    for path in (one, two):
        path.parent.mkdir()
        path.write_bytes(path.parent.name.encode())
    both = {"a": [{"x": "http://store/a/x"}], "b": [{"x": "http://store/b/x"}]}
    wire = Wire(ok(**both), httpx.Response(200), httpx.Response(200))
    cut = batch("files", file_line(one, logName="b"), file_line(two, logName="a"))
    assert wire.backend().deliver(RUN, cut) == Delivered()
    assert [(put.url.path, put.content) for put in wire.requests[1:]] == [("/b/x", b"1"), ("/a/x", b"2")]


@pytest.mark.parametrize(
    "answer",
    [ok(), ok(**{"media/a": []}), ok(**{"media/a": [{"other": "http://u"}]}), ok(**{"media/a": "no list"})],
)
def test_presign_without_an_address_for_each_file_is_unknown(photo: Path, answer: httpx.Response) -> None:
    wire = Wire(answer)
    assert isinstance(wire.backend().deliver(RUN, batch("files", file_line(photo))), Unknown)
    assert wire.paths == ["/files"]


def test_file_that_cannot_be_read_gets_no_metadata_row(tmp_path: Path) -> None:
    wire = Wire()
    for path in (tmp_path / "gone", tmp_path):
        assert isinstance(wire.backend().deliver(RUN, batch("files", file_line(path))), Rejected)
    assert isinstance(wire.backend().deliver(RUN, batch("files", b"{}\n")), Rejected)
    assert wire.requests == []


def test_file_that_vanishes_between_both_steps_is_rejected(photo: Path) -> None:
    def lose(_: httpx.Request) -> httpx.Response:
        photo.unlink()
        return addresses("photo.txt")

    wire = Wire(lose)
    outcome = wire.backend().deliver(RUN, batch("files", file_line(photo)))
    assert isinstance(outcome, Rejected)
    assert str(photo) in outcome.reason


def test_many_files_are_presigned_in_requests_that_the_server_takes(tmp_path: Path) -> None:
    """The server takes 2 MiB a request."""
    paths = [tmp_path / f"f{n}" for n in range(201)]
    for path in paths:
        path.write_bytes(b"")
    names = [path.name for path in paths]
    wire = Wire(addresses(*names[:200]), addresses(*names[200:]), *(httpx.Response(200) for _ in paths))
    assert wire.backend().deliver(RUN, batch("files", *map(file_line, paths))) == Delivered()
    assert wire.paths[:3] == ["/files", "/files", "/f0"]
    long = [file_line(path, caption="c" * 600_000) for path in paths[:2]]
    wire = Wire(addresses("f0"), addresses("f1"), httpx.Response(200), httpx.Response(200))
    assert wire.backend().deliver(RUN, batch("files", *long)) == Delivered()
    assert wire.paths == ["/files", "/files", "/f0", "/f1"]


def test_upload_address_shows_in_no_outcome(photo: Path) -> None:
    """G11: an address is as good as a key for its object."""
    for answer in (httpx.ConnectError("refused"), httpx.Response(500), httpx.Response(403)):
        wire = Wire(addresses("photo.txt"), answer)
        outcome = wire.backend().deliver(RUN, batch("files", file_line(photo)))
        assert "sig=" not in repr(outcome)


def test_file_that_shrinks_during_the_upload_is_tried_again(photo: Path) -> None:
    def shrink(_: httpx.Request) -> httpx.Response:
        raise OSError("it became 2 bytes shorter during the upload")

    wire = Wire(addresses("photo.txt"), shrink)
    outcome = wire.backend().deliver(RUN, batch("files", file_line(photo)))
    assert isinstance(outcome, Retry)
    assert "2 bytes shorter" in outcome.reason


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("ALL_PROXY", "socks://127.0.0.1:1/", "socks://127.0.0.1:1/"),
        ("ALL_PROXY", "socks://user:hidden@127.0.0.1:1", "ALL_PROXY, HTTPS_PROXY, HTTP_PROXY or NO_PROXY"),
        ("NO_PROXY", "[::1]:80", "Invalid port"),
        ("SSL_CERT_FILE", "/not/there", "SSL_CERT_FILE or SSL_CERT_DIR"),
    ],
)
def test_an_environment_that_allows_no_connection_is_an_outage_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    """httpx reads all of these variables at once, and can then not be made."""
    monkeypatch.setenv(variable, value)
    http = Http()
    answer = http.send("read", "GET", "http://127.0.0.1:9/", Secret(KEY))
    assert isinstance(answer, Broken)
    assert answer.progress == "unsent"
    assert reason in answer.reason
    assert "hidden" not in answer.reason
    with pytest.raises(OSError, match="cannot be used"):
        list(http.fetch("http://127.0.0.1:9/"))
    http.close()
