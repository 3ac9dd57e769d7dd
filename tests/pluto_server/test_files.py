"""Presigned URLs and the object store behind them."""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from .server import PlutoServer
from .talk import Answer, Client, send

NOW = 1_800_000_000_000
FILE = {"fileName": "a.png", "logName": "g/img", "fileSize": 3, "fileType": "PNG", "step": 0, "time": NOW}

pytestmark = pytest.mark.usefixtures("run_id")


def url_of(answer: Answer, log_name: str = "g/img", place: int = 0) -> str:
    """The only URL of one entry."""
    [url] = answer.json[log_name][place].values()
    return str(url)


def test_one_url_for_each_file_by_log_name_in_order(client: Client) -> None:
    """Repeats repeat; no files, no entries."""
    files = [FILE, FILE | {"logName": "other"}, FILE | {"fileName": "b"}, FILE]
    answer = client.presign(files)
    assert {name: [list(entry) for entry in entries] for name, entries in answer.json.items()} == {
        "g/img": [["a.png"], ["b"], ["a.png"]],
        "other": [["a.png"]],
    }
    assert client.presign([]).json == {}


def test_the_row_is_written_when_the_url_is_asked_for_and_again_each_time(
    server: PlutoServer, client: Client
) -> None:
    """Uploaded or not; readers see them all."""
    for _ in range(2):
        client.presign([FILE | {"fileType": "yml", "caption": "c"}])
    rows = server.operator.files(1)
    assert [(row["file_type"], row["caption"], row["sample_index"]) for row in rows] == [("yaml", "c", 0)] * 2
    assert len(client.read("files?runId=1&projectName=p")["files"]) == 2


def test_one_object_for_a_log_name_and_file_name_at_every_step(server: PlutoServer, client: Client) -> None:
    """The last PUT wins; readers get its bytes."""
    for step, body in enumerate([b"one", b"two"]):
        assert send(url_of(client.presign([FILE | {"step": step}])), "PUT", body).status == 200
    assert server.operator.objects()["org1/p/1/g/img/a.png"]["size"] == 3
    [first, _] = client.read("files?runId=1&projectName=p")["files"]
    assert send(first["url"], "GET").body == b"two"


BODIES: list[tuple[bytes, str, int]] = [
    (b"{}", "text/plain", 415),
    (b"{nope", "application/json", 400),
    (b'{"files": [], "x": NaN}', "application/json", 400),
    (b"{}", "application/json", 422),
    (b"[]", "application/json", 422),
    (b" " * 2_097_153, "application/json", 413),
]


@pytest.mark.parametrize(("body", "content_type", "status"), BODIES)
def test_an_unreadable_body_is_refused_in_plain_text_before_the_key(
    server: PlutoServer, body: bytes, content_type: str, status: int
) -> None:
    """No key is sent here, and none is missed."""
    answer = send(f"{server.urls.ingest}/files", "POST", body, {"Content-Type": content_type})
    assert (answer.status, answer.headers["content-type"]) == (status, "text/plain; charset=utf-8")


BAD_FILES: list[dict[str, Any]] = [
    {k: v for k, v in FILE.items() if k != "step"},
    FILE | {"step": None},
    FILE | {"step": -1},
    FILE | {"step": 1.0},
    FILE | {"time": -1},
    FILE | {"fileSize": "3"},
    FILE | {"sampleIndex": 2**32},
    FILE | {"fileName": 1},
    FILE | {"fileType": None},
    FILE | {"fileType": {"other": "x"}},
    FILE | {"caption": 1},
]


@pytest.mark.parametrize("file", BAD_FILES)
def test_file_is_refused(server: PlutoServer, client: Client, file: dict[str, Any]) -> None:
    """One bad file fails the request and leaves no row."""
    answer = client.presign([FILE, file])
    assert answer.status == 422
    assert answer.text.startswith("Failed to deserialize the JSON body into the target type: ")
    assert server.operator.files(1) == []


def test_custom_types_and_unknown_fields_are_taken(server: PlutoServer, client: Client) -> None:
    """A type may be an object; what is not known is ignored."""
    assert client.presign([FILE | {"fileType": {"custom": "Mask"}, "more": 1}]).status == 200
    assert server.operator.files(1)[0]["file_type"] == "Mask"


def test_a_run_id_that_is_no_number_drops_the_connection(client: Client) -> None:
    """The handler panics: no HTTP response."""
    with pytest.raises(http.client.RemoteDisconnected):
        client.presign([FILE], run_id="abc")


def test_the_store_refuses_what_was_not_signed(server: PlutoServer, client: Client) -> None:
    """Unknown signature, another method, another key: 403."""
    url = url_of(client.presign([FILE]))
    assert send(url + "0", "PUT", b"one").status == 403
    assert send(url, "GET").status == 403
    assert send(url.replace("a.png", "b.png"), "PUT", b"one").status == 403
    assert send(f"{server.urls.storage}/pluto/x", "PUT", b"one").status == 403
    assert server.operator.objects() == {}


def test_a_url_lives_an_hour(server: PlutoServer, client: Client) -> None:
    """Accepted just before, refused at 3600 s."""
    url = url_of(client.presign([FILE]))
    server.operator.advance(3599)
    assert send(url, "PUT", b"one").status == 200
    server.operator.advance(1)
    assert send(url, "PUT", b"one").status == 403


def test_chunked_uploads_are_refused(client: Client) -> None:
    """S3-style stores want the length first."""
    url = urlsplit(url_of(client.presign([FILE])))
    connection = http.client.HTTPConnection(url.netloc)
    connection.request("PUT", f"{url.path}?{url.query}", iter([b"one"]), encode_chunked=True)
    assert connection.getresponse().status == 411
    connection.close()


def test_any_content_type_may_be_put(server: PlutoServer, client: Client) -> None:
    """Only bucket and key are signed."""
    url = url_of(client.presign([FILE]))
    assert send(url, "PUT", b"one", {"Content-Type": "image/png"}).status == 200
    assert list(server.operator.objects()) == ["org1/p/1/g/img/a.png"]


def test_presign_answers_in_json(client: Client) -> None:
    """The body is a JSON object with the host of the store."""
    answer = client.presign([FILE])
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body)["g/img"][0]["a.png"].startswith("http://127.0.0.1:")
