"""Each client defect is found when it is committed, and a clean session has none."""

import json
from collections.abc import Callable

import pytest

from tests.patience import wait_until

from .defects import KINDS
from .sessions import FILE, LOG, NOW, Session
from .talk import Client, in_background, send


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
    one.api("resume", runId=run_id)
    one.beat(run_id)
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


def reopened_and_put_back(session: Session) -> None:
    session.status("COMPLETED")
    session.one.api("resume", externalId="e1", projectName="p")
    session.status("COMPLETED")


def reopened_and_left(session: Session) -> None:
    session.status("COMPLETED")
    session.one.api("resume", runId=session.run_id)


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
    "6.3.12": [reopened_and_put_back, reopened_and_left],
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
