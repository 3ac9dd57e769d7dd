"""Each client defect is found when it is committed, and a clean session has none."""

import contextlib
import http.client
import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from .defects import KINDS, Defect, DefectLog, Waiver
from .server import PlutoServer
from .talk import Client, in_background, send, wait_until

NOW = int(time.time() * 1000)
LOG = {"time": NOW, "message": "m", "lineNumber": 1, "logType": "INFO"}
FILE = {"fileName": "a", "logName": "f", "fileSize": 3, "fileType": "bin", "step": 0, "time": NOW}


@dataclass
class Session:
    """One run and two senders that write into it."""

    server: PlutoServer
    one: Client
    two: Client
    run_id: int

    def metric(self, step: int = 1, value: float = 1.0, name: str = "m", time_ms: int = NOW) -> None:
        """One point."""
        line = {"time": time_ms, "step": step, "data": {name: value}}
        assert self.one.ingest("metrics", [line], self.run_id).status == 200

    def status(self, status: str) -> None:
        """A report."""
        assert self.one.api("status/update", runId=self.run_id, status=status).status == 200

    def upload(self, body: bytes = b"abc", **changes: Any) -> None:
        """Presign and PUT."""
        [[entry]] = self.one.presign([FILE | changes], self.run_id).json.values()
        [url] = entry.values()
        assert send(url, "PUT", body).status == 200

    def register(self, name: str, log_type: str) -> None:
        """Announce a name."""
        assert self.one.api("logName/add", runId=self.run_id, logName=[name], logType=log_type).status == 200

    def advance(self, seconds: float) -> None:
        """Let the server's time pass."""
        self.server.operator.advance(seconds)


@pytest.fixture
def session(server: PlutoServer, client: Client, run_id: int) -> Session:
    """A run whose names are registered."""
    session = Session(server, client, Client(server.urls, "two"), run_id)
    session.register("m", "METRIC")
    session.register("f", "FILE")
    session.register("h", "HISTOGRAM")
    return session


def test_a_clean_session_has_no_defects(session: Session) -> None:
    """Everything a good client does, retries without an answer included."""
    one, run_id = session.one, session.run_id
    one.beat(run_id)
    session.metric(step=1)
    session.metric(step=2, value=2.0)
    session.metric(step=2, value=2.0)
    one.ingest(
        "data", [{"time": NOW, "step": 1, "data": "{}", "dataType": "histogram", "logName": "h"}], run_id
    )
    one.ingest("logs", [LOG, LOG | {"lineNumber": 2}], run_id)
    session.upload()
    one.api("tags/update", runId=run_id, tags=["a"])
    one.api("tags/update", runId=run_id, tags=["b"])
    session.advance(30)
    one.beat(run_id)
    session.status("FAILED")
    one.api("resume", runId=run_id)
    session.metric(step=3)
    session.status("COMPLETED")
    session.status("COMPLETED")
    assert session.server.operator.check() == []


def no_such_run(session: Session) -> None:
    session.one.ingest("logs", [LOG], run_id=77)


def run_id_is_no_number(session: Session) -> None:
    session.one.ingest("logs", [LOG], run_id="abc")


def run_of_another_organization(session: Session) -> None:
    Client(session.server.urls, key="mlps_OTHER_ORG").ingest("logs", [LOG], session.run_id)


def wrong_project(session: Session) -> None:
    session.one.presign([FILE], session.run_id, project="other")


def ingest_after_the_end(session: Session) -> None:
    session.status("COMPLETED")
    session.metric()


def two_values_at_one_step(session: Session) -> None:
    session.metric(step=1, value=1.0)
    session.metric(step=2, value=1.0)
    session.metric(step=1, value=2.0)


def two_values_in_one_request(session: Session) -> None:
    lines = [{"time": NOW, "step": 1, "data": {"m": value}} for value in (1, 2)]
    session.one.ingest("metrics", lines, session.run_id)


def row_delivered_twice(session: Session) -> None:
    for _ in range(2):
        session.one.ingest("logs", [LOG], session.run_id)


def row_twice_in_one_request(session: Session) -> None:
    session.one.ingest("logs", [LOG, LOG], session.run_id)


def presigned_twice(session: Session) -> None:
    session.upload()
    session.upload()


def presigned_and_not_put(session: Session) -> None:
    session.one.presign([FILE], session.run_id)


def put_of_another_size(session: Session) -> None:
    session.upload(body=b"abcd")


def status_while_data_is_in_flight(session: Session) -> None:
    operator = session.server.operator
    operator.add_fault(kind="latency", service="ingest", seconds=0.5, count=1)
    with in_background(lambda: session.one.ingest("logs", [LOG], session.run_id)):
        wait_until(lambda: any(e["path"] == "/ingest/logs" for e in operator.requests()))
        session.status("COMPLETED")
    operator.waive("6.3.2")


def status_ignored(session: Session) -> None:
    session.status("FAILED")
    session.status("COMPLETED")


def two_terminal_statuses(session: Session) -> None:
    session.status("COMPLETED")
    session.status("FAILED")


def tags_of_another_erased(session: Session) -> None:
    session.one.api("tags/update", runId=session.run_id, tags=["mine"])
    session.two.api("tags/update", runId=session.run_id, tags=["other"])


def name_not_registered(session: Session) -> None:
    session.metric(name="new")


def name_registered_as_something_else(session: Session) -> None:
    session.metric(name="f")


def name_registered_twice(session: Session) -> None:
    session.register("m", "IMAGE")


def no_external_id(session: Session) -> None:
    session.one.api("create", runName="r", projectName="p")


def created_again(session: Session) -> None:
    session.two.api("create", runName="r", projectName="p", externalId="e1")


def time_in_seconds(session: Session) -> None:
    session.metric(time_ms=NOW // 1000)


def time_in_the_future(session: Session) -> None:
    session.metric(time_ms=NOW + 3_600_000)


def heartbeat_gap(session: Session) -> None:
    session.one.beat(session.run_id)
    session.advance(61)
    session.one.beat(session.run_id)


def heartbeat_gap_before_the_end(session: Session) -> None:
    session.one.beat(session.run_id)
    session.advance(61)
    session.status("COMPLETED")


def heartbeat_stopped(session: Session) -> None:
    session.one.beat(session.run_id)
    session.advance(61)


def heartbeat_after_the_end(session: Session) -> None:
    session.one.beat(session.run_id)
    session.status("COMPLETED")
    session.advance(1)
    session.one.beat(session.run_id)


def two_heartbeats_in_turn(session: Session) -> None:
    for client in (session.one, session.two, session.one):
        client.beat(session.run_id)


def content_type_is_not_json(session: Session) -> None:
    headers = {"Authorization": f"Bearer {session.server.key}", "Content-Type": "text/plain"}
    body = json.dumps({"runId": session.run_id})
    send(f"{session.server.urls.api}/api/runs/resume", "POST", body, headers)


def content_type_is_missing(session: Session) -> None:
    headers = {"Authorization": f"Bearer {session.server.key}"}
    body = json.dumps({"runId": session.run_id})
    send(f"{session.server.urls.py}/api/runs/trigger", "POST", body, headers)


COMMITTED: dict[str, list[Callable[[Session], None]]] = {
    "6.3.1": [no_such_run, run_id_is_no_number, run_of_another_organization, wrong_project],
    "6.3.2": [ingest_after_the_end],
    "6.3.3": [two_values_at_one_step, two_values_in_one_request],
    "6.3.4": [
        *(row_delivered_twice, row_twice_in_one_request, presigned_twice),
        *(presigned_and_not_put, put_of_another_size),
    ],
    "6.3.5": [status_while_data_is_in_flight, status_ignored, two_terminal_statuses],
    "6.3.6": [tags_of_another_erased],
    "6.3.7": [name_not_registered, name_registered_as_something_else, name_registered_twice],
    "6.3.8": [no_external_id, created_again],
    "6.3.9": [time_in_seconds, time_in_the_future],
    "6.3.10": [
        *(heartbeat_gap, heartbeat_gap_before_the_end, heartbeat_stopped),
        *(heartbeat_after_the_end, two_heartbeats_in_turn),
    ],
    "6.3.11": [content_type_is_not_json, content_type_is_missing],
}


@pytest.mark.parametrize(
    ("kind", "commit"),
    [(kind, commit) for kind, commits in COMMITTED.items() for commit in commits],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_defect_is_found_when_committed(
    session: Session, kind: str, commit: Callable[[Session], None]
) -> None:
    """One finding, of this kind and no other."""
    commit(session)
    also_expected = ["6.3.4"] if commit is wrong_project else []
    found = [defect for defect in session.server.operator.check() if defect.kind not in also_expected]
    assert [defect.kind for defect in found] == [kind], found
    # Looking again finds nothing new.
    assert len(session.server.operator.check()) == 1 + len(also_expected)


def test_every_kind_has_a_test() -> None:
    """The list of kinds is complete."""
    assert tuple(COMMITTED) == KINDS


class TestRepeatsWithAReason:
    """A repeat is no defect when the client could not know that the first was taken."""

    @pytest.mark.parametrize("fault", ["reset", "truncate", "status"])
    def test_rows_whose_answer_was_lost_may_come_again_once(self, session: Session, fault: str) -> None:
        """The third delivery had an answered one before it."""
        session.server.operator.add_fault(kind=fault, when="after", count=1, service="ingest")
        with contextlib.suppress(OSError, http.client.HTTPException):
            session.one.ingest("logs", [LOG], session.run_id)
        session.one.ingest("logs", [LOG], session.run_id)
        assert session.server.operator.check() == []
        session.one.ingest("logs", [LOG], session.run_id)
        assert [defect.kind for defect in session.server.operator.check()] == ["6.3.4"]

    def test_a_create_whose_answer_was_lost_may_come_again(self, session: Session) -> None:
        """A retry, not a second create."""
        session.server.operator.add_fault(kind="status", when="after", count=1, service="api")
        for expected in (503, 200):
            body = {"runName": "r", "projectName": "p", "externalId": "lost"}
            assert session.one.api("create", **body).status == expected
        assert session.server.operator.check() == []

    def test_a_request_that_its_client_gave_up_does_not_hold_the_end_back(self, session: Session) -> None:
        """What was given up and is handled after the end was not sent after the end."""
        operator = session.server.operator
        operator.add_fault(kind="latency", service="ingest", seconds=0.4, count=1)
        with closing(
            http.client.HTTPConnection(session.server.urls.ingest.removeprefix("http://"))
        ) as connection:
            headers = {
                "Authorization": f"Bearer {session.server.key}",
                "X-Run-Id": str(session.run_id),
                "X-Project-Name": "p",
            }
            connection.request("POST", "/ingest/logs", json.dumps(LOG), headers)
            wait_until(lambda: operator.requests()[-1]["path"] == "/ingest/logs")
        wait_until(lambda: operator.requests()[-1]["outcome"] == "unknown")
        session.status("COMPLETED")
        wait_until(lambda: len(operator.logs(session.run_id)) == 1)
        assert operator.check() == []

    def test_an_expired_url_may_be_replaced(self, session: Session) -> None:
        """Presigning again is right when the store refuses."""
        session.one.presign([FILE], session.run_id)
        session.server.operator.expire_urls()
        session.upload()
        assert session.server.operator.check() == []

    def test_tags_that_were_read_may_be_removed(self, session: Session) -> None:
        """Whoever read them knows them."""
        session.one.api("tags/update", runId=session.run_id, tags=["mine"])
        session.two.read(f"details/{session.run_id}")
        session.two.api("tags/update", runId=session.run_id, tags=[])
        assert session.server.operator.check() == []

    def test_a_heartbeat_may_be_handed_over(self, session: Session) -> None:
        """One source after the other."""
        for client in (session.one, session.one, session.two, session.two):
            client.beat(session.run_id)
        assert session.server.operator.check() == []


class TestWaivers:
    """Expected findings are taken out by kind, name, run or predicate."""

    def test_by_name_when_every_name_is_covered(self) -> None:
        """A request that mixes a side's names with others stays a finding."""
        log = DefectLog()
        log.add(Defect("6.3.2", "side", 1, ("a/eval", "b/eval")))
        log.add(Defect("6.3.2", "mixed", 1, ("a/eval", "loss")))
        log.add(Defect("6.3.2", "no names", 1))
        log.add(Defect("6.3.3", "another kind", 1, ("a/eval",)))
        log.waive(Waiver("6.3.2", "*/eval"))
        assert [defect.text for defect in log.found()] == ["mixed", "no names", "another kind"]
        assert [defect.text for defect in log.waived()] == ["side"]

    def test_by_run_and_predicate(self) -> None:
        """Both must hold."""
        log = DefectLog()
        for run_id in (1, 2):
            log.add(Defect("6.3.5", "ignored", run_id))
            log.add(Defect("6.3.5", "other", run_id))
        log.waive(Waiver("6.3.5", run_id=1, text="ign*", predicate=lambda defect: defect.text == "ignored"))
        assert [(d.run_id, d.text) for d in log.found()] == [(1, "other"), (2, "ignored"), (2, "other")]
        assert len(log.found(["6.3.1"])) == 0

    def test_an_unknown_kind_is_refused(self) -> None:
        """The error names the kinds."""
        with pytest.raises(ValueError, match=r"no defect kind '6\.3\.12'; use one of 6\.3\.1, "):
            Waiver("6.3.12")
