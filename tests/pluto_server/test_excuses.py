"""What is no client defect after all: repeats with a reason, and findings that a test expects."""

import contextlib
import http.client
import json
from contextlib import closing

import pytest

from tests.patience import wait_until

from .defects import Defect, DefectLog, Waiver
from .sessions import FILE, LOG, Session


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
        with pytest.raises(ValueError, match=r"no defect kind '6\.3\.13'; use one of 6\.3\.1, "):
            Waiver("6.3.13")
