"""Fault knobs over real sockets: what the client sees, and what the server has then."""

import http.client
import socket
import time
from typing import Any

import pytest

from tests.patience import NEVER_S, wait_until

from .faults import Fault, FaultPlan
from .server import PlutoServer
from .talk import Client, in_background, send

NOW = int(time.time() * 1000)
LOG = {"time": NOW, "message": "m", "lineNumber": 1, "logType": "INFO"}
FILE = {"fileName": "a", "logName": "f", "fileSize": 3, "fileType": "bin", "step": 0, "time": NOW}

pytestmark = pytest.mark.usefixtures("run_id")


def log(client: Client) -> Any:
    """Send one console row."""
    return client.ingest("logs", [LOG])


@pytest.mark.parametrize("status", [401, 408, 429, 500, 502, 503, 504])
def test_a_burst_of_statuses_comes_before_the_commit_and_ends(
    server: PlutoServer, client: Client, status: int
) -> None:
    """So many requests fail, with nothing stored, then all is well."""
    server.operator.add_fault(kind="status", service="ingest", status=status, count=2, retry_after=3)
    answers = [log(client) for _ in range(3)]
    assert [answer.status for answer in answers] == [status, status, 200]
    assert [answer.headers.get("retry-after") for answer in answers] == ["3", "3", None]
    assert len(server.operator.logs(1)) == 1
    assert server.operator.faults()[0]["hits"] == 2


def test_a_401_of_the_api_has_the_shape_of_a_401(server: PlutoServer, client: Client) -> None:
    """As if the key were unknown for a moment."""
    server.operator.add_fault(kind="status", service="api", status=401, count=1)
    assert client.api("resume", runId=1).json == {"error": "Unauthorized", "message": "Key not found"}


def test_a_status_after_the_commit_loses_the_answer_only(server: PlutoServer, client: Client) -> None:
    """The row is stored although the client sees a 504."""
    server.operator.add_fault(kind="status", status=504, when="after", count=1, service="ingest")
    assert log(client).status == 504
    assert len(server.operator.logs(1)) == 1


@pytest.mark.parametrize(("when", "rows"), [("before", 0), ("after", 1)])
def test_a_reset_comes_before_or_after_the_commit(
    server: PlutoServer, client: Client, when: str, rows: int
) -> None:
    """The connection is reset, not closed."""
    server.operator.add_fault(kind="reset", when=when, count=1, service="ingest")
    with pytest.raises(ConnectionResetError):
        log(client)
    assert len(server.operator.logs(1)) == rows
    wait_until(lambda: server.operator.requests()[-1]["outcome"] == "unknown")


def test_a_connection_is_cut_in_the_middle_of_a_body(server: PlutoServer, client: Client) -> None:
    """Half of what was announced is read, nothing is stored."""
    server.operator.add_fault(kind="cut", count=1, service="ingest")
    with pytest.raises(ConnectionResetError):
        log(client)
    assert server.operator.logs(1) == []
    (entry,) = [each for each in server.operator.requests() if each["service"] == "ingest"]
    assert entry["fault"] == "cut"
    assert entry["size"] == int(entry["headers"]["content-length"]) // 2
    assert log(client).status == 200


def test_a_truncated_response_is_shorter_than_it_says(server: PlutoServer, client: Client) -> None:
    """Committed, and the connection closes in the middle of the body."""
    server.operator.add_fault(kind="truncate", count=1, service="ingest")
    with pytest.raises(http.client.IncompleteRead):
        log(client)
    assert len(server.operator.logs(1)) == 1


def test_database_errors_come_wrapped_and_only_from_streams(server: PlutoServer, client: Client) -> None:
    """422 like bad data, told apart by the text."""
    server.operator.add_fault(kind="database_error", count=1)
    assert client.api("resume", runId=1).status == 200
    answer = log(client)
    assert answer.status == 422
    assert answer.json["message"] == (
        "Failed to process logs stream: DatabaseError (4001 - Database): Failed to validate API key"
    )
    assert server.operator.logs(1) == []


def test_latency_delays_one_service(server: PlutoServer, client: Client) -> None:
    """The request waits before it is handled; others do not."""
    fault_id = server.operator.add_fault(kind="latency", service="ingest", seconds=NEVER_S)
    with in_background(lambda: log(client)):
        wait_until(lambda: server.operator.faults()[0]["hits"], "the request that waits")
        assert client.api("resume", runId=1).status == 200
        assert server.operator.logs(1) == []
        server.operator.remove_fault(fault_id)
    assert len(server.operator.logs(1)) == 1
    server.operator.add_fault(kind="latency", service="ingest", seconds=0.3)
    started = time.monotonic()
    assert log(client).status == 200
    assert time.monotonic() - started >= 0.3


def test_a_request_that_its_client_gave_up_is_handled_and_its_outcome_unknown(server: PlutoServer) -> None:
    """The row comes in after the client has gone."""
    server.operator.add_fault(kind="latency", service="ingest", seconds=NEVER_S, count=1)
    url = server.urls.ingest.removeprefix("http://")
    connection = http.client.HTTPConnection(url)
    headers = {"Authorization": f"Bearer {server.key}", "X-Run-Id": "1", "X-Project-Name": "p"}
    body = '{"time": 1, "message": "", "lineNumber": 1, "logType": "INFO"}'
    connection.request("POST", "/ingest/logs", body, headers)
    wait_until(server.operator.requests, "the request")
    connection.close()
    wait_until(lambda: server.operator.requests()[-1]["outcome"] == "unknown", "that it was given up")
    assert server.operator.logs(1) == []
    server.operator.remove_fault()
    wait_until(lambda: len(server.operator.logs(1)) == 1, "the row")
    assert server.operator.requests()[-1]["outcome"] == "unknown"


def test_a_client_that_dies_before_reading_the_answer_has_not_got_it(server: PlutoServer) -> None:
    """Its socket closes with unread bytes, which resets the connection."""
    address = server.urls.ingest.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1]))) as dying:
        dying.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert dying.recv(1, socket.MSG_PEEK)
        wait_until(lambda: server.operator.requests()[-1]["outcome"] == "answered")
    wait_until(lambda: server.operator.requests()[-1]["outcome"] == "unknown")


def test_slow_storage_and_refused_urls(server: PlutoServer, client: Client) -> None:
    """Storage has its own latency; an expired URL is a 403 and stores nothing."""
    [[entry]] = client.presign([FILE]).json.values()
    [url] = entry.values()
    server.operator.add_fault(kind="latency", service="storage", seconds=0.2)
    server.operator.add_fault(kind="expired_url", count=1)
    started = time.monotonic()
    assert send(url, "PUT", b"abc").status == 403
    assert time.monotonic() - started >= 0.2
    assert server.operator.objects() == {}
    assert send(url, "PUT", b"abc").status == 200


def test_faults_can_be_aimed_at_a_route_and_removed(server: PlutoServer, client: Client) -> None:
    """By the beginning of the path; removal ends it."""
    fault_id = server.operator.add_fault(kind="status", service="api", route="/api/runs/tags")
    assert client.api("resume", runId=1).status == 200
    assert client.api("tags/update", runId=1, tags=[]).status == 503
    server.operator.remove_fault(fault_id)
    assert client.api("tags/update", runId=1, tags=[]).status == 200


def test_a_keep_alive_connection_serves_many_requests(server: PlutoServer) -> None:
    """HTTP/1.1, one socket."""
    connection = http.client.HTTPConnection(server.urls.api.removeprefix("http://"))
    connection.connect()
    port = connection.sock.getsockname()[1]
    for _ in range(3):
        connection.request("POST", "/api/slug", headers={"Authorization": f"Bearer {server.key}"})
        assert connection.getresponse().read()
        assert connection.sock.getsockname()[1] == port
    connection.close()


def test_large_api_answers_are_compressed_when_asked_for(server: PlutoServer, client: Client) -> None:
    """As the server does; small ones are not."""
    client.api("logName/add", runId=1, logName=[f"n{number}" for number in range(200)], logType="METRIC")
    headers = {"Authorization": f"Bearer {server.key}", "Accept-Encoding": "gzip"}
    details = send(f"{server.urls.api}/api/runs/details/1", "GET", None, headers)
    assert details.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in send(f"{server.urls.api}/api/slug", "POST", None, headers).headers


def test_requests_are_journalled_without_the_key(server: PlutoServer, client: Client) -> None:
    """Time, status and body are; the authorization header is not."""
    before = time.time()
    with in_background(lambda: log(client)):
        wait_until(lambda: len(server.operator.requests()) == 2)
    last = server.operator.requests()[-1]
    assert (last["service"], last["path"], last["status"]) == ("ingest", "/ingest/logs", 200)
    assert "authorization" not in last["headers"]
    assert before <= last["at"] <= time.time()
    assert server.operator.requests(since_id=last["id"]) == []


class TestPlan:
    """Which requests are hit."""

    def strikes(self, plan: FaultPlan, times: int = 100) -> list[bool]:
        """Whether each of so many requests is hit."""
        return [bool(plan.strike("api", "POST", "/api/slug")) for _ in range(times)]

    def test_skip_and_count(self) -> None:
        """The first pass, then so many are hit."""
        plan = FaultPlan()
        plan.add(Fault("status", skip=2, count=3))
        assert self.strikes(plan, 7) == [False, False, True, True, True, False, False]

    def test_a_seed_repeats_the_hits(self) -> None:
        """Probable faults hit about that share, and the same requests again with the same seed."""
        plan = FaultPlan()
        plan.add(Fault("status", probability=0.3))
        first = self.strikes(plan)
        assert 15 <= sum(first) <= 45
        plan.reseed(0)
        assert self.strikes(plan) == first
        plan.reseed(1)
        assert self.strikes(plan) != first

    def test_only_one_fault_ends_a_request(self) -> None:
        """A fault that did not get its turn is not counted as used."""
        plan = FaultPlan()
        for kind in ("latency", "status", "reset"):
            plan.add(Fault(kind, count=1))
        assert [fault.kind for fault in plan.strike("api", "POST", "/")] == ["latency", "status"]
        assert [fault.kind for fault in plan.strike("api", "POST", "/")] == ["reset"]

    def test_a_misspelt_fault_is_refused(self) -> None:
        """The error says what there is."""
        with pytest.raises(ValueError, match="use one of latency, status"):
            Fault("slow")
        with pytest.raises(ValueError, match="'before' or 'after'"):
            Fault("reset", when="later")
        with pytest.raises(ValueError, match="not between 0 and 1"):
            Fault("reset", probability=2)
