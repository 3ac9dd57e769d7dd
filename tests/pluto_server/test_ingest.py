"""The ingest service: what it takes, what it refuses and in which words, and what a refusal leaves behind."""

import gzip
import math
import time
from typing import Any

import pytest

from .server import PlutoServer
from .talk import Client, send

NOW = int(time.time() * 1000)
METRIC = {"time": NOW, "step": 1, "data": {"m": 1.5}}
DATA = {"time": NOW, "step": 1, "data": "d", "dataType": "histogram", "logName": "h"}
LOG = {"time": NOW, "message": "m", "lineNumber": 1, "logType": "INFO"}
LINES = {"metrics": METRIC, "data": DATA, "logs": LOG}

pytestmark = pytest.mark.usefixtures("run_id")


def metric(text: str) -> str:
    """A metrics line whose data is given as text."""
    return f'{{"time": {NOW}, "step": 1, "data": {text}}}'


@pytest.mark.parametrize("kind", LINES)
def test_a_stream_answers_with_the_number_of_rows(client: Client, kind: str) -> None:
    """Blank lines and spaces around a line do not count."""
    answer = client.ingest(kind, ["", LINES[kind], "  \t\r", LINES[kind], ""])
    assert (answer.status, answer.text) == (200, "Stream processed successfully: 2 records")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_points_are_counted_not_lines(client: Client) -> None:
    """A metrics line holds as many records as names; an empty body none."""
    assert client.ingest("metrics", [metric('{"a": 1, "b": 2, "c": null}')]).text.endswith(": 2 records")
    assert client.ingest("metrics", []).text.endswith(": 0 records")


VALUES = [
    ("1", 1.0),
    ("-2.5e3", -2500.0),
    ("18446744073709551615", 2.0**64),
    ("NaN", math.nan),
    ("Infinity", math.inf),
    ("-Infinity", -math.inf),
    ('"NaN"', math.nan),
    ('"Infinity"', math.inf),
    ('"-Infinity"', -math.inf),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_metric_value_is_taken(server: PlutoServer, client: Client, text: str, value: float) -> None:
    """Numbers, and the three non-finite tokens bare or quoted."""
    assert client.ingest("metrics", [metric(f'{{"m": {text}}}')]).status == 200
    [(_, _, stored)] = server.operator.raw_metrics(1)["m"]
    assert stored == value or (math.isnan(stored) and math.isnan(value))


BAD_VALUES = ["true", '"x"', "[1]", '{"a": 1}', "nan", "inf", "+Infinity", "-NaN", "0x1", '"nan"']
TOO_LARGE = ["18446744073709551616", "-9223372036854775809", "1e400"]


@pytest.mark.parametrize("text", BAD_VALUES + TOO_LARGE)
def test_metric_value_is_refused(server: PlutoServer, client: Client, text: str) -> None:
    """Everything else fails the request, also beside a good value."""
    answer = client.ingest("metrics", [metric(f'{{"good": 1, "m": {text}}}')])
    assert_failed(answer, "metrics", "StreamDecodingError")
    assert server.operator.raw_metrics(1) == {}


BAD_LINES: list[tuple[str, Any, str]] = [
    *((kind, LINES[kind] | {"more": 1}, "StreamDecodingError") for kind in LINES),
    *(
        (kind, {k: v for k, v in LINES[kind].items() if k != name}, "StreamDecodingError")
        for kind in LINES
        for name in LINES[kind]
    ),
    *(
        (kind, LINES[kind] | {name: value}, "StreamDecodingError")
        for kind, name in [("metrics", "step"), ("metrics", "time"), ("data", "step"), ("logs", "lineNumber")]
        for value in (-1, 1.0, 1.5, "1", None, True, 2**64)
    ),
    ("metrics", METRIC | {"data": {}}, "InvalidMetricFormat"),
    ("metrics", METRIC | {"data": {"m": None}}, "InvalidMetricFormat"),
    ("metrics", METRIC | {"data": {" ": 1}}, "InvalidMetricFormat"),
    ("metrics", METRIC | {"data": [1]}, "StreamDecodingError"),
    ("metrics", f'{{"time": {NOW}, "step": 1, "step": 2, "data": {{"m": 1}}}}', "StreamDecodingError"),
    ("metrics", f'{{"time": {NOW}, "step": 1, "st\\u0065p": 2, "data": {{"m": 1}}}}', "StreamDecodingError"),
    ("metrics", '{"time": NaN, "step": 1, "data": {"m": 1}}', "StreamDecodingError"),
    ("metrics", "{nope", "StreamDecodingError"),
    ("metrics", "[]", "StreamDecodingError"),
    ("data", DATA | {"data": {"a": 1}}, "StreamDecodingError"),
    ("data", DATA | {"logName": " "}, "InvalidLogFormat"),
    ("data", DATA | {"dataType": ""}, "InvalidLogFormat"),
    ("logs", LOG | {"logType": " "}, "InvalidLogFormat"),
    ("logs", LOG | {"step": 1}, "StreamDecodingError"),
]


@pytest.mark.parametrize(
    ("kind", "line", "fault"), BAD_LINES, ids=lambda part: str(part).replace(str(NOW), "NOW")
)
def test_line_is_refused(client: Client, kind: str, line: Any, fault: str) -> None:
    """Shape and meaning of a line are checked; the text names the cause."""
    assert_failed(client.ingest(kind, [line]), kind, fault)


def test_messages_name_the_semantic_fault(client: Client) -> None:
    """The two faults of metrics that the server words itself."""
    empty = client.ingest("metrics", [METRIC | {"data": {}}]).json["message"]
    blank = client.ingest("metrics", [METRIC | {"data": {"": 1}}]).json["message"]
    assert empty.endswith("'data' field cannot be empty")
    assert blank.endswith("metric name cannot be empty")


@pytest.mark.parametrize("kind", LINES)
def test_lines_before_the_bad_one_are_stored_and_later_ones_never_read(
    server: PlutoServer, client: Client, kind: str
) -> None:
    """A failed request has committed its prefix."""
    answer = client.ingest(kind, [LINES[kind], "{bad", LINES[kind]])
    assert answer.status == 422
    operator = server.operator
    stored = {
        "metrics": len(operator.raw_metrics(1).get("m", [])),
        "data": len(operator.data(1)),
        "logs": len(operator.logs(1)),
    }
    assert stored == {other: int(other == kind) for other in stored}


def test_a_compressed_body_is_no_json(server: PlutoServer) -> None:
    """Content-Encoding is ignored."""
    headers = {"Authorization": f"Bearer {server.key}", "X-Run-Id": "1", "X-Project-Name": "p"}
    answer = send(f"{server.urls.ingest}/ingest/logs", "POST", gzip.compress(b"{}"), headers)
    assert_failed(answer, "logs", "StreamDecodingError")


HEADERS = [
    ({"Authorization": None}, "MissingToken", 401, "MISSING_TOKEN"),
    ({"Authorization": "Token mlps_GOOD"}, "InvalidBearerFormat", 401, "INVALID_BEARER_FORMAT"),
    ({"Authorization": "Bearer a b"}, "InvalidTokenFormat", 401, "INVALID_TOKEN_FORMAT"),
    ({"Authorization": "Bearer unknown"}, "InvalidToken", 401, "INVALID_TOKEN"),
    ({"Authorization": "Bearer mlps_EXPIRED"}, "InvalidToken", 401, "INVALID_TOKEN"),
    ({"Authorization": "Bearer mlps_REVOKED"}, "InvalidToken", 401, "INVALID_TOKEN"),
    ({"X-Run-Id": None}, "InvalidHeaderFormat", 400, "INVALID_HEADER_FORMAT"),
    ({"X-Project-Name": None}, "InvalidHeaderFormat", 400, "INVALID_HEADER_FORMAT"),
    ({"X-Project-Name": "l\xe4uf"}, "InvalidHeaderFormat", 400, "INVALID_HEADER_FORMAT"),
]


@pytest.mark.parametrize(("change", "kind", "status", "code"), HEADERS)
def test_header_faults(
    server: PlutoServer, change: dict[str, str | None], kind: str, status: int, code: str
) -> None:
    """A stream wraps them in a 422, the presign route answers with status and code."""
    given = {"Authorization": f"Bearer {server.key}", "X-Run-Id": "1", "X-Project-Name": "p"} | change
    headers = {name: value for name, value in given.items() if value is not None}
    assert_failed(send(f"{server.urls.ingest}/ingest/metrics", "POST", b"", headers), "metrics", kind)
    presign = send(
        f"{server.urls.ingest}/files",
        "POST",
        b'{"files": []}',
        headers | {"Content-Type": "application/json"},
    )
    assert (presign.status, presign.json["code"]) == (status, code)


def test_a_run_id_that_is_no_number_becomes_run_0(server: PlutoServer, client: Client) -> None:
    """The data is accepted and nobody will find it."""
    assert client.ingest("metrics", [METRIC], run_id="abc").status == 200
    assert server.operator.addresses() == [("org1", "p", 0)]


def test_a_wrong_project_is_accepted_and_invisible(server: PlutoServer, client: Client) -> None:
    """Readers filter by the true project."""
    assert client.ingest("metrics", [METRIC], project="other").status == 200
    assert server.operator.metrics(1) == {}
    assert client.read("metrics?runId=1&projectName=p") == {"metrics": []}
    assert len(client.read("metrics?runId=1&projectName=other")["metrics"]) == 1


def test_unknown_routes_and_methods(server: PlutoServer) -> None:
    """No body; health is a GET."""
    assert send(f"{server.urls.ingest}/nope", "POST").status == 404
    assert send(f"{server.urls.ingest}/ingest/metrics", "GET").status == 405
    assert send(f"{server.urls.ingest}/health", "GET").status == 200


def assert_failed(answer: Any, stream: str, kind: str) -> None:
    """The one shape of a stream's failure."""
    assert answer.status == 422
    assert answer.json["code"] == "PROCESSING_FAILED"
    assert answer.json["message"].startswith(f"Failed to process {stream} stream: {kind} (")
